"""Damaged and forged files other than media and weights: used or refused with a reason, and nothing beside is lost."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from tests.fuzzing.documents import mutate_json, mutate_table, mutate_tar, mutate_words, mutate_yaml
from tests.fuzzing.mutation import mutate
from tests.fuzzing.subject import Subject
from tests.launch.made_runs import MadeRun
from tests.pretrain.engine.small_run import settings
from tests.shards import media
from trichord.core.errors import SampleError, UserError
from trichord.core.yaml_subset import write_yaml
from trichord.finetune.recipe import is_for_heads, load_finetune_recipe
from trichord.finetune.retrieval.index import read_catalogue
from trichord.finetune.retrieval.rows import IndexRows, Source, read_embedding, write_rows
from trichord.finetune.retrieval.table import Table, text_columns, whole, write_table
from trichord.launch import cli
from trichord.launch.cluster_file import load_cluster_file
from trichord.pretrain.recipe import load_recipe, to_yaml
from trichord.shards.inspection.verify import verify
from trichord.shards.layouts import open_layout
from trichord.shards.reading.archive import open_archive
from trichord.shards.reading.manifest import Manifest, index_shards
from trichord.shards.reading.root import Root

Files = dict[str, bytes]
Mutate = Callable[[bytes, np.random.Generator], bytes]
_CLIPS = 4  # of a shard
_BLOCK = 512


@dataclass(frozen=True)
class Kind:
    """Files of one kind, those of them that are damaged, and their use in the folder that holds them."""

    files: Files
    damaged: tuple[str, ...]
    use: Callable[[Path], str]


def _recipe(folder: Path) -> str:
    path = folder / "recipe.yaml"
    if is_for_heads(str(path)):
        return "for heads"
    to_yaml(load_recipe(path).config)
    return "used"


def _head(folder: Path) -> str:
    to_yaml(load_finetune_recipe(folder / "head.yaml", [f"init_from.path={folder}/run"]).config)
    return "used"


def _cluster(folder: Path) -> str:
    load_cluster_file(folder / "cluster.yaml")
    return "used"


def _overrides(folder: Path) -> str:
    text = (folder / "typed.words").read_bytes().decode(errors="surrogateescape").replace("\0", "")
    load_recipe(folder / "recipe.yaml", text.split("\n"))
    return "used"


def _runs(folder: Path) -> str:
    """Show, plot and compare three runs; the two whole ones must be there as usual."""
    runs = [folder / name for name in ("a", "broken", "c")]
    rows = {Path(row["run"]).name: row for row in _rows("status", *runs)}
    assert [(rows[name]["state"], rows[name]["step"]) for name in ("a", "c")] == [("finished", 10)] * 2, rows
    words = rows["broken"]["state"]
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["status", str(folder / "broken")])
        cli.main(["logs", str(folder / "broken")])
    drawn = {row["run"] for row in _rows("plot", *runs, "--out", folder / "curves.html")}
    assert {"a", "c"} <= drawn, drawn
    compared = [row["run"] for row in _rows("compare", *runs)]
    assert {"a", "c"} <= set(compared), compared
    return str(words)


def _rows(command: str, *words: object) -> list[dict[str, object]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = cli.main([command, *map(str, words), "--json"])
    assert status in (0, 1), (command, status)
    rows: list[dict[str, object]] = json.loads(out.getvalue())["rows"]
    return rows


def _shard(folder: Path) -> str:
    """Read, index and verify a shard; the samples before the damage, and those of the other shard, must be there."""
    good, data = (folder / "00000.tar").read_bytes(), (folder / "00001.tar").read_bytes()
    index_shards(folder)
    report = verify(folder)
    assert report.good >= _CLIPS, report.overview()
    archive = open_archive(Root("set", folder), "00001.tar")
    expected = _samples(good)
    same = next((at for at, (a, b) in enumerate(zip(good, data, strict=False)) if a != b), min(len(good), len(data)))
    before = [key for key, (end, _) in expected.items() if end <= same]
    found = {}
    for place, key in enumerate(archive.keys):
        with contextlib.suppress(SampleError):
            raw = archive.read(place)
            found.setdefault(key, raw.members)
            raw.annotation()
    archive.close()
    for key in before[:-1]:  # the last of them may be the one whose members end at the damage
        assert found[key].items() >= expected[key][1].items(), key
    return "whole" if len(found) == _CLIPS else f"{len(found)} samples"


def _packed(folder: Path) -> str:
    archive = open_archive(Root("set", folder), "00000.tar.x")
    found = len(archive)
    archive.close()
    return f"{found} samples"


def _samples(data: bytes) -> dict[str, tuple[int, dict[str, bytes]]]:
    """Return for each key where its last member ends, and its members."""
    found: dict[str, tuple[int, dict[str, bytes]]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            content = data[member.offset_data : member.offset_data + member.size]
            end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            found[key] = (end, {**found.get(key, (0, {}))[1], suffix: content})
    return found


def _sample_json(folder: Path) -> str:
    _write_tar(folder / "00000.tar", {"a.txt": b"a", "a.json": (folder / "a.json").read_bytes(), "b.txt": b"b"})
    archive = open_archive(Root("set", folder), "00000.tar")
    assert archive.read(1).annotation().captions == ("b",)
    annotation = archive.read(0).annotation()
    archive.close()
    annotation.model_dump_json()
    "\n".join(annotation.captions).encode()
    return "used"


def _manifest(folder: Path) -> str:
    manifest = Manifest.load(folder)
    manifest.digest()
    verify(folder, sample=2)
    return "used"


def _index(folder: Path) -> str:
    """Open the catalogue and the tables of an index, and read every row by number, key and text."""
    for read in (read_catalogue, read_embedding):
        read(folder)
    rows = IndexRows(Table.open(folder / "rows.safetensors"), 3)
    for number in range(len(rows)):
        rows.row(number)
    for key in ("one", "two", "none"):
        rows.of_key(key)
    rows.matching({"label": "run"})
    rows.check()
    return "used"


def _layout(name: str) -> Callable[[Path], str]:
    def use(folder: Path) -> str:
        layout = open_layout(name)
        for split in layout.splits(folder):
            for item in layout.read(folder, split).items:
                item.annotation.model_dump_json()
        return "used"

    return use


def _write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _contents(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _make_shards(folder: Path) -> Kind:
    folder.mkdir(parents=True)
    annotation = {"captions": ["a red star"], "labels": [1], "start": 0.5, "extra": {"url": "x"}}
    clip = media.clip(4, sound=False)
    for shard in range(2):
        members: Files = {}
        for number in range(_CLIPS):
            key = f"{shard}{number:03d}"
            members |= {f"{key}.mp4": clip, f"{key}.txt": b"a caption", f"{key}.json": json.dumps(annotation).encode()}
        _write_tar(folder / f"{shard:05d}.tar", members)
    index_shards(folder).save(folder)
    return Kind(_contents(folder), ("00001.tar",), _shard)


def _make_runs(folder: Path) -> Kind:
    model = dict.fromkeys(("pretrained", "backbone", "inputs", "head", "trained"), "x") | {"seed": 1}
    for name in ("a", "broken", "c"):
        run = MadeRun(folder / name)
        run.submitted("61").started("61").ended("finished", job_id="61").log(0, "one\n", "61").checkpoint(10)
        run.error(0, "an error", job_id="61")
        run.lock("61")
        rows = ({"step": step, "steps": 10, "run_s": 1.0 * step, "loss": 1 / (step + 1)} for step in range(10))
        (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run.path / "config.yaml").write_text("objective: {kind: svt}\nsteps: 10\n")
        (run.path / "checkpoints" / "latest").write_text("step_00000010\n")
        report = {"run": name, "model": model, "data": ["s"], "clips": 3, "step": 10, "metrics": {"top1": 0.5}}
        for place, found in (("evaluations/s.json", report), ("snapshots/001/launch.json", {"settings": {"nodes": 2}})):
            (run.path / place).parent.mkdir(parents=True)
            (run.path / place).write_text(json.dumps(found))
    files = _contents(folder)
    return Kind(files, tuple(name for name in files if name.startswith("broken/") and "_log" not in name), _runs)


def _make_index(folder: Path) -> Kind:
    folder.mkdir(parents=True)
    columns = {"start_s": whole(np.zeros(3)), "end_s": whole(np.ones(3))}
    for name, texts in {"key": "one two three", "shard": "a a b", "root": "r r r", "caption": "x y z"}.items():
        columns |= text_columns(name, texts.split())
    write_table(folder / "part", columns | text_columns("label", ["run", "run\njump", ""]), {"rows": 3})
    table = Table.open(folder / "part")
    write_rows(folder / "rows.safetensors", [Source(table, np.zeros((3, 4), np.float32), np.arange(3))])
    measured = {"queries": 0, "of": "captions", "recall": 1.0, "target": 0.9}
    entry = {"name": "segment-00001", "count": 3, "kind": "flat", "settings": {}, "measured": measured}
    entry |= {"files": {"rows.safetensors": {"bytes": 1, "sha256": "0"}}}
    about = {"model": "m", "run": "r", "dim": 4, "dtype": "float32"}
    catalogue = {**about, "sense": "video", "segments": [entry]}
    windows = {"seconds": 2.0, "stride_s": 1.0}
    embedding = {**about, "step": 1, "senses": ["video"], "root": "r", "shards": ["a"], "digest": "d", "look": "l"}
    (folder / "index.json").write_text(json.dumps(catalogue))
    (folder / "embedding.json").write_text(json.dumps({**embedding, "windows": windows}))
    files = _contents(folder)
    return Kind(files, ("index.json", "embedding.json", "rows.safetensors"), _index)


def _make_layouts() -> Iterator[tuple[str, Kind]]:
    table = b'path,caption,labels,intervals,start\na.mp4,"a, b",run,"[[""run"", 0, 1]]",0.5\nb.mp4,c,run;jump,,\n'
    yield "csv", Kind({"clips.csv": table, "a.mp4": b"", "b.mp4": b""}, ("clips.csv",), _layout("csv"))
    actions = b"id,script,descriptions,actions,length\nAB,s,d;e,c000 1.0 2.0;c001 0 9,5.5\n"
    charades = {"Charades_v1_train.csv": actions, "Charades_v1_classes.txt": b"c000 Run\nc001 Jump\n", "AB.mp4": b""}
    yield "charades", Kind(charades, tuple(charades)[:2], _layout("charades"))
    listed = b"label,youtube_id,time_start,time_end,split\nrun,abc,1,11,train\njump,def,2,12,train\n"
    kinetics = {"annotations/train.csv": listed, "annotations/val.txt": b"x/run/abc 0\n", "abc_000001_000011.mp4": b""}
    yield "kinetics", Kind(kinetics, tuple(kinetics)[:2], _layout("kinetics"))
    entries = [{"id": "1", "label": "a run", "template": "[x] runs", "placeholders": ["a"]}]
    ssv2 = {"labels/train.json": json.dumps(entries).encode(), "labels/labels.json": b'{"x runs": "0"}', "1.webm": b""}
    yield "ssv2", Kind(ssv2, tuple(ssv2)[:2], _layout("ssv2"))
    videos = [{"video_id": "video0", "split": "train", "category": 1, "url": "u", "start time": 1.0}]
    document = {"videos": videos, "sentences": [{"video_id": "video0", "caption": "c"}]}
    msrvtt = {"MSRVTT_data.json": json.dumps(document).encode(), "category.txt": b"music\t0\n", "video0.mp4": b""}
    yield "msrvtt", Kind(msrvtt, tuple(msrvtt)[:2], _layout("msrvtt"))


def _make_kinds(place: Path) -> dict[str, Kind]:
    shards = _make_shards(place / "shards")
    tree = settings(place / "shards" / "set")
    base = {"base.yaml": write_yaml(tree).encode(), "recipe.yaml": b"base: base.yaml\nsteps: 20\ndata: {workers: 0}\n"}
    cluster = b"partition: gpu\nnodes: 2\ntime: 1-12:00:00\nsbatch: {comment: x}\nsetup: [module load cuda]\n"
    head = b"base: linear_probe\ndata: {sources: [set]}\nobjective: {classes: [a, b]}\n"
    heads = {"head.yaml": head, "run/config.yaml": base["base.yaml"], "run/checkpoints/latest": b""}
    words = b"steps=5\ndata.sources.0.weight=2\noptimiser.eps=1e-7"
    plain = json.dumps({"captions": ["a"], "labels": [1, 2], "intervals": [{"label": 1, "start": 0.5, "end": 2}]})
    packed = shards.files["00000.tar"]
    kinds = {
        "shard": shards,
        "runs": _make_runs(place / "runs"),
        "recipe": Kind(base, tuple(base), _recipe),
        "head": Kind(heads, ("head.yaml", "run/config.yaml"), _head),
        "cluster": Kind({"cluster.yaml": cluster}, ("cluster.yaml",), _cluster),
        "overrides": Kind({**base, "typed.words": words}, ("typed.words",), _overrides),
        "sample": Kind({"a.json": plain.encode()}, ("a.json",), _sample_json),
        "manifest": Kind(shards.files, ("manifest.json",), _manifest),
        "index": _make_index(place / "index"),
        **dict(_make_layouts()),
    }
    for name, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        kinds[name] = Kind({"00000.tar.x": pack(packed)}, ("00000.tar.x",), _packed)
    return kinds


_OF_SYNTAX: Mapping[str, Mutate] = {
    ".json": mutate_json,
    ".jsonl": mutate_json,
    ".yaml": mutate_yaml,
    ".tar": mutate_tar,
    ".safetensors": mutate_table,
    ".words": mutate_words,
}


class FilesOfOthers(Subject):
    """Recipes, cluster files, shards, manifests, lists, indexes and run folders, each in the way commands use it."""

    allowed_s = 4.0

    def prepare(self) -> None:
        place = Path("good")
        shutil.rmtree(place, ignore_errors=True)
        self.kinds = _make_kinds(place.absolute())
        for kind in self.kinds.values():
            _use(kind, kind.files)

    def run(self, seed: int, number: int) -> str:
        rng = np.random.default_rng([seed, number])
        name = list(self.kinds)[number % len(self.kinds)]
        kind = self.kinds[name]
        damaged = kind.damaged[number // len(self.kinds) % len(kind.damaged)]
        change = mutate if rng.integers(3) == 0 else _OF_SYNTAX.get(Path(damaged).suffix, mutate)
        try:
            return f"{name}: {_use(kind, {**kind.files, damaged: change(kind.files[damaged], rng)})}"
        except UserError:
            return f"{name}: refused"
        except SampleError as error:
            return f"{name}: {error.cause}"


def _use(kind: Kind, files: Files) -> str:
    """Use files in a folder that is removed afterwards."""
    folder = Path("mutant")
    try:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        # No program may be found; what commands print is not looked at.
        with mock.patch.dict(os.environ, {"PATH": ""}), contextlib.redirect_stderr(io.StringIO()):
            return kind.use(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
