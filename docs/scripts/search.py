"""Video-text retrieval with FAISS: python search.py MODEL SHARDS OUT TEXT"""

import sys
from pathlib import Path

import trichord


def main(source: str, shards: str, out: str, text: str) -> None:
    index_folder = Path(out) / "index"
    if not index_folder.exists():
        trichord.embed(source, shards, out)  # continues if it was interrupted
        trichord.build_index(out, index_folder, recall=0.97)
    index = trichord.Index.open(index_folder)
    print(index)
    for hit in index.search(text=text, k=5):
        print(f"{hit.score:.3f}  {hit.key}  {hit.start_s:.1f}-{hit.end_s:.1f} s  {hit.caption}")

    # Any vector of the model works as a query, for example the sum of a text's and a video's.
    model = trichord.load_model(source)
    query = model.embed_text(text) + index.vector(index.search(text=text, k=1)[0].place)
    print("nearest to both:", [hit.key for hit in index.search(vector=query, k=3)])


if __name__ == "__main__":
    main(*sys.argv[1:5])
