"""Damaged and forged files of weights, checkpoints, tokenizers and indexes: they are used, or refused by UserError."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
import transformers
from safetensors.torch import save

from tests.finetune.retrieval.stage import clustered, write_embedding
from tests.finetune.zeroshot.stage import write_clip
from tests.fuzzing.forging import forge
from tests.fuzzing.subject import Subject
from tests.pretrain.engine.small_run import settings
from trichord.core.console import printable
from trichord.core.errors import SampleError, UserError
from trichord.finetune.features import MEMBER, read_features
from trichord.finetune.retrieval import changing
from trichord.finetune.retrieval.building import Options
from trichord.finetune.retrieval.index import CATALOGUE, Index
from trichord.finetune.tasks.captioning.language import Language, load_language
from trichord.finetune.tasks.captioning.spec import LanguageSpec
from trichord.finetune.tasks.captioning.vocabulary import Vocabulary
from trichord.finetune.zeroshot.loading import load_video_text
from trichord.pretrain.backbones.timesformer import TimeSformerSpec
from trichord.pretrain.backbones.transformers_text import TransformersTextSpec
from trichord.pretrain.backbones.transformers_text.model import TransformersText
from trichord.pretrain.config import RunConfig
from trichord.pretrain.engine import checkpoint, checkpoint_files
from trichord.pretrain.engine.checkpoint_files import CheckpointIndex
from trichord.pretrain.engine.config import InitFrom
from trichord.pretrain.engine.distributed import World
from trichord.pretrain.engine.saving import refuse_other_run
from trichord.pretrain.engine.training import build
from trichord.pretrain.objectives.base import Objective
from trichord.pretrain.weights.export import read_part
from trichord.pretrain.weights.load import load_published
from trichord.pretrain.weights.report import run_inspect
from trichord.shards.layouts import medmnist3d
from trichord.shards.record import RawSample

Files = Mapping[str, bytes]

_SPEC = TimeSformerSpec(dim=8, depth=1, heads=2, mlp_ratio=2.0, patch=4, frames=2, size=8)
_LANGUAGE = LanguageSpec(dim=8, depth=1, heads=2, positions=24, vocabulary=280, longest=8)
_WEIGHTS = "weights-00000.safetensors"
_LONGEST_MESSAGE = 8000
_INSPECTED_EVERY = 16


@dataclass(frozen=True)
class Kind:
    """Good files of a kind, what uses them, and what repairs the checksums of damaged ones."""

    files: Files
    use: Callable[[Path], object]
    repair: Callable[[Path], object] = lambda folder: None


@cache
def kinds() -> Mapping[str, Kind]:
    """Return all kinds; files are made in a folder that is removed."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        return {
            **_weight_files(),
            "clip": Kind({"clip.safetensors": write_clip(Path(place) / "clip").read_bytes()}, _zero_shot),
            "checkpoint": Kind(_checkpoint(Path(place) / "checkpoint"), _resume, _repair_checkpoint),
            "gpt2": Kind(_gpt2(Path(place) / "gpt2"), _language),
            "text": Kind(_bert(Path(place) / "bert"), _text_encoder),
            "npz": Kind(_npz(), _volumes),
            "features": Kind({"clip.safetensors": _features()}, _read_features),
            **{
                kind: Kind(_index(Path(place) / kind, kind), _search, _repair_index)
                for kind in ("flat", "hnsw", "ivf_flat", "ivf_sq8", "ivf_pq")
            },
        }


def _weight_files() -> dict[str, Kind]:
    torch.manual_seed(0)
    backbone = _SPEC.build()
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    whole = {"model_state": tensors, "epoch": 3, "args": argparse.Namespace(seed=(1, 2.0, None)), "best": "é"}
    files = {"weights.safetensors": save(tensors, {"format": "pt", "step": "2"})}
    for name, is_zip in (("weights.pt", True), ("weights.pth", False)):
        file = io.BytesIO()
        torch.save(whole, file, _use_new_zipfile_serialization=is_zip)
        files[name] = file.getvalue()
    halves = {f"model-{half}.safetensors": list(tensors)[half::2] for half in range(2)}
    index = {"metadata": {}, "weight_map": {name: shard for shard, names in halves.items() for name in names}}
    sharded = {shard: save({name: tensors[name] for name in names}) for shard, names in halves.items()}

    def load(path: Path) -> None:
        load_published(InitFrom(path=path), backbone)

    return {
        "zip": Kind({"weights.pt": files["weights.pt"]}, lambda folder: load(folder / "weights.pt")),
        "legacy": Kind({"weights.pth": files["weights.pth"]}, lambda folder: load(folder / "weights.pth")),
        "safetensors": Kind(
            {"weights.safetensors": files["weights.safetensors"]}, lambda folder: load(folder / "weights.safetensors")
        ),
        "sharded": Kind(sharded | {"model.safetensors.index.json": json.dumps(index).encode()}, load),
        "inspected": Kind({"weights.pt": files["weights.pt"]}, lambda folder: _inspect(folder / "weights.pt")),
    }


def _inspect(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_inspect(argparse.Namespace(file=path, part=None, json=False))
    assert printed.getvalue() == printable(printed.getvalue())


def _zero_shot(folder: Path) -> None:
    load_video_text(folder / "clip.safetensors")


def _read_folder(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@cache
def _run() -> tuple[RunConfig, Objective]:
    config = RunConfig.model_validate(settings(Path("shards")))
    return config, build(config)


def _checkpoint(folder: Path) -> Files:
    config, objective = _run()
    tensors = {name: tensor.detach() for name, tensor in checkpoint._tensors_of(objective)}
    temporary = checkpoint_files.begin(folder / "checkpoints", 2)
    files = {
        name: checkpoint_files.write_tensors(temporary / name, each)
        for name, each in {_WEIGHTS: tensors, "state-00000.safetensors": objective.state()}.items()
    }
    index = CheckpointIndex(
        step=2,
        adam_updates=2,
        world_size=1,
        versions={},
        data_digests=[],
        config=config.model_dump(mode="json"),
        files=files,
    )
    checkpoint_files.finish(temporary, index)
    return _read_folder(folder)


def _resume(folder: Path) -> None:
    config, objective = _run()
    warnings: list[str] = []
    alone = SimpleNamespace(rank=0, size=1, gather=lambda text, _: [text], broadcast=lambda text, _: text)
    found = checkpoint.newest_whole(folder / "checkpoints", cast(World, alone), warnings.append)
    read_part(folder)
    assert found is not None
    refuse_other_run(config, [], found)
    checkpoint.load_weights(*found, objective)


def _repair_checkpoint(folder: Path) -> None:
    (index,) = folder.rglob(checkpoint_files.INDEX)
    tree = json.loads(index.read_bytes())
    for name, entry in tree["files"].items():
        content = (index.parent / name).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    index.write_text(json.dumps(tree))


def _gpt2(folder: Path) -> Files:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 24, "vocab_size": 280}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    vocabulary = Vocabulary.learn(["a red cloth", "there is blue all over"], 280)
    (folder / "tokenizer.json").write_bytes(vocabulary.to_tensor().numpy().tobytes())
    return _read_folder(folder)


def _language(folder: Path) -> None:
    spec = _LANGUAGE.model_copy(update={"weights": str(folder)})
    load_language(Language(spec), spec)
    Vocabulary.read(folder / "tokenizer.json").write(["a red cloth"], 8)


def _bert(folder: Path) -> Files:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "box"]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return _read_folder(folder)


def _text_encoder(folder: Path) -> None:
    encoder = TransformersText(TransformersTextSpec(path=str(folder), length=8))
    encoder.load_own()
    encoder.tokenise(["a box"])


def _npz() -> Files:
    file = io.BytesIO()
    volumes_NDHW = np.zeros((2, 4, 6, 6), np.uint8)
    np.savez_compressed(file, train_images=volumes_NDHW, train_labels=np.array([[0], [1]], np.uint8))
    return {"vesselmnist3d.npz": file.getvalue()}


def _volumes(folder: Path) -> None:
    medmnist3d._array.cache_clear()  # the next mutant has the same path
    layout = medmnist3d.Medmnist3dLayout()
    for split in layout.splits(folder):
        layout.list_split(folder, split)


def _features() -> bytes:
    labels, present = torch.tensor([1]), torch.tensor(True)
    return save({"video": torch.zeros(3, 4), "labels": labels, "audio_present": present})


def _read_features(folder: Path) -> None:
    members = {MEMBER: (folder / "clip.safetensors").read_bytes(), "txt": b"a box"}
    read_features(None, RawSample("clip", "00000.tar", members), np.random.default_rng(0))


def _index(folder: Path, kind: str) -> Files:
    write_embedding(folder / "vectors", [[f"clip-{number}" for number in range(400)]])
    changing.build([folder / "vectors"], folder / "index", "video", Options(1 << 28, 0.9, kind))
    changing.remove(folder / "index", ["clip-7"], {})
    return _read_folder(folder / "index")


def _search(folder: Path) -> None:
    index = Index.open(folder)
    queries_QD = clustered(3, index.catalogue.dim, 1)
    index.nearest(queries_QD, 20)
    index.nearest(queries_QD, 5, {"label": "red"})
    index.places("clip-9")
    for segment in index.segments:
        segment.queries()
        next(segment.source().blocks(50))


def _repair_index(folder: Path) -> None:
    tree = json.loads((folder / CATALOGUE).read_bytes())
    for entry in tree["segments"]:
        for name, file in entry["files"].items():
            content = (folder / entry["name"] / name).read_bytes()
            file |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / CATALOGUE).write_text(json.dumps(tree))


class Weights(Subject):
    """Files that hold tensors, each kind used as its users do."""

    allowed_s = 4.0

    def prepare(self) -> None:
        kinds()

    def run(self, seed: int, number: int) -> str:
        rng = np.random.default_rng([seed, number])
        turn, place = divmod(number, len(kinds()))
        name = list(kinds())[place]
        if name == "inspected" and turn % _INSPECTED_EVERY:  # it takes a hundred times as long as loading
            name = "zip"
        kind, folder = kinds()[name], Path("mutant")
        damaged = list(kind.files)[int(rng.integers(len(kind.files)))]
        try:
            for file, content in kind.files.items():
                path = folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(forge(file, content, rng) if file == damaged else content)
            if not damaged.endswith(".json") and rng.random() < 0.8:
                kind.repair(folder)
            with contextlib.redirect_stderr(io.StringIO()):
                kind.use(folder)
            return f"{name} used"
        except (UserError, SampleError) as error:
            assert 0 < len(str(error)) <= _LONGEST_MESSAGE, f"a message of {len(str(error))} characters"
            return f"{name} refused"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
