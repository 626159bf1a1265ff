"""Zero-shot evaluation of a shard set: python zero_shot.py MODEL SHARDS ["PROMPT WITH {}" …]"""

import sys

import trichord


def main(source: str, shards: str, prompts: list[str]) -> None:
    for prompt in prompts or ["{}", "a video of {}"]:
        (row,) = trichord.evaluate_zeroshot(source, shards, prompts=prompt)
        accuracy = row.get("top1", row.get("mAP"))
        print(f"{prompt!r}: {accuracy:.1f} on {row['clips']} clips")

    # The same for a single video: the name of a file or, as here, its frames.
    model = trichord.load_model(source)
    with trichord.stream(shards, batch_size=1, training=False, size=64) as batches:
        frames = next(batches).video[0][0].transpose(0, 1)
    likeliest = list(model.zeroshot(frames, trichord.open_shards(shards).classes).items())[:3]
    print("the first clip:", ", ".join(f"{label} {probability:.2f}" for label, probability in likeliest))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
