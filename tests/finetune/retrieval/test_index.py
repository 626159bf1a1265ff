"""After any changes to an index, each hit is the right row, and a partial index is never accepted."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.finetune.retrieval.stage import MODEL, clustered, small_disk, texts_of, write_embedding
from trichord.core.errors import UserError
from trichord.finetune.retrieval import changing
from trichord.finetune.retrieval.building import Options
from trichord.finetune.retrieval.changing import add, build, check, merge, remove
from trichord.finetune.retrieval.index import CATALOGUE, Hit, Index
from trichord.finetune.retrieval.rows import part_path
from trichord.finetune.retrieval.spec import INDEX_KINDS, DType, Kind
from trichord.finetune.retrieval.table import Table

SMALL = Options(memory_bytes=1 << 28, recall=0.9)
OTHER = replace(SMALL, recall=0.8)
Held = dict[tuple[str, float], NDArray[np.float32]]


def look_through(index: Index, held: Held, seed: int, where: dict[str, str] | None = None, k: int = 7) -> list[Hit]:
    """Search and compare with a loop over the expected rows: the same rows, each with its own vector and text."""
    (query_D,) = clustered(1, index.catalogue.dim, seed)
    hits = index.nearest(query_D[None], k, where)[0]
    chosen = {
        row: vector
        for row, vector in held.items()
        if all(text in texts_of(row[0])[name].split("\n") for name, text in (where or {}).items())
    }
    best = sorted((float(vector @ query_D) for vector in chosen.values()), reverse=True)[:k]
    found = [(hit.key, hit.start_s) for hit in hits]
    assert len(set(found)) == len(best) and set(found) <= chosen.keys()
    # Scores that differ by rounding may be swapped.
    assert [float(chosen[row] @ query_D) for row in found] == pytest.approx(best, abs=1e-5)
    for hit in hits:
        vector = held[hit.key, hit.start_s]
        assert np.array_equal(index.vector(hit.place), vector)
        assert hit.score == pytest.approx(float(vector @ query_D), abs=1e-5)
        assert {"caption": hit.caption, "label": hit.label} == dict(texts_of(hit.key)) and hit.end_s == hit.start_s + 1
        assert hit.place in index.places(hit.key)
    return hits


@pytest.mark.parametrize("seed", range(4))
def test_hits_are_the_right_rows_after_any_sequence_of_changes(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    dtype: DType = rng.choice(("float16", "float32"))
    counter = 0

    def fresh() -> tuple[Path, Held]:
        nonlocal counter
        counter += 1
        shards = [[f"{counter}-{shard}-{n}" for n in range(rng.randint(0, 40))] for shard in range(rng.randint(1, 3))]
        shards[0] += [f"{counter}-more"]
        folder = tmp_path / f"vectors{counter}"
        return folder, write_embedding(folder, shards, seed=counter, dtype=dtype, windows=rng.randint(1, 2))

    out = tmp_path / "index"
    first, second = fresh(), fresh()
    held = {**first[1], **second[1]}
    build([first[0], second[0]], out, "video", SMALL)
    for turn in range(7):
        match rng.choice(("add", "remove", "where", "merge", "reopen")):
            case "add":
                folder, more = fresh()
                add(out, [folder], SMALL)
                held |= more
            case "remove":
                keys = rng.sample(sorted({key for key, _ in held}), k=rng.randint(1, 5))
                _, count = remove(out, keys, {})
                gone = {row for row in held if row[0] in keys}
                assert count == len(gone)
                held = {row: vector for row, vector in held.items() if row not in gone}
            case "where":
                if any("blue" in texts_of(key)["label"] for key, _ in held):
                    remove(out, [], {"label": "blue"})
                held = {row: each for row, each in held.items() if "blue" not in texts_of(row[0])["label"].split("\n")}
            case "merge":
                merge(out, SMALL)
            case "reopen":
                check(out)
        index = Index.open(out)
        assert len(index) == len(held)
        look_through(index, held, turn)
        look_through(index, held, turn, {"label": "red"})
    assert {path.name for path in out.iterdir()} == {
        CATALOGUE,
        *(entry.name for entry in index.catalogue.segments),
        *(entry.removed for entry in index.catalogue.segments if entry.removed),
    }
    keys = rng.sample(
        sorted({key for key, _ in held}), k=len({key for key, _ in held})
    )  # the same rows in other shards
    write_embedding(tmp_path / "resharded", [keys[::3], keys[1::3], [], keys[2::3]], dtype=dtype, known=held)
    build([tmp_path / "resharded"], tmp_path / "other", "video", SMALL)
    look_through(Index.open(tmp_path / "other"), held, 99)
    look_through(Index.open(tmp_path / "other"), held, 100, {"label": "red"})


@pytest.mark.parametrize("kind", list(INDEX_KINDS))
def test_every_kind_equals_a_loop(kind: Kind, tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(1500)]
    held = write_embedding(tmp_path / "vectors", [keys[:700], keys[700:]], dim=32)
    catalogue = build([tmp_path / "vectors"], tmp_path / "index", "video", Options(1 << 28, 0.95, kind))
    (segment,) = catalogue.segments
    assert segment.kind == kind and (segment.measured.recall or 0) > 0.93
    assert segment.measured.of == "captions" and (kind == "flat") == (segment.measured.queries == 0)
    remove(tmp_path / "index", keys[:1000:2], {})
    index = Index.open(tmp_path / "index")
    kept = {row: each for row, each in held.items() if row[0] not in set(keys[:1000:2])}
    queries_QD = clustered(40, 32, 5)
    found = index.nearest(queries_QD, 10)
    hits = 0
    for query_D, own in zip(queries_QD, found, strict=True):
        nearest = sorted(kept, key=lambda row, query_D=query_D: -float(kept[row] @ query_D))[:10]
        hits += len({hit.key for hit in own} & {key for key, _ in nearest})
        assert all(np.array_equal(index.vector(hit.place), kept[hit.key, hit.start_s]) for hit in own)
        assert [hit.score for hit in own] == sorted((hit.score for hit in own), reverse=True)
    assert hits / 400 > 0.9
    look_through(index, kept, 3, {"label": "red"})


def test_like_returns_neighbours_without_the_key_itself(tmp_path: Path) -> None:
    held = write_embedding(tmp_path / "vectors", [[f"k{number}" for number in range(30)]], windows=3)
    build([tmp_path / "vectors"], tmp_path / "index", "video", SMALL)
    index = Index.open(tmp_path / "index")
    hits = index.search(like="k7", k=5)
    mean_D = np.stack([held["k7", start_s] for start_s in (0.0, 1.0, 2.0)]).mean(axis=0)
    others = {row: float(vector @ mean_D) for row, vector in held.items() if row[0] != "k7"}
    found = [(hit.key, hit.start_s) for hit in hits]
    assert len(set(found)) == 5
    assert [others[row] for row in found] == pytest.approx(sorted(others.values(), reverse=True)[:5], abs=1e-5)
    assert len(index.search(like="k7", k=500)) == 87
    with pytest.raises(UserError, match="holds no 'k99'"):
        index.search(like="k99")
    with pytest.raises(UserError, match="expected one of text, video, audio, like, vector"):
        index.search()
    with pytest.raises(UserError, match="no column 'lable'"):
        index.search(like="k7", where={"lable": "red"})
    with pytest.raises(UserError, match=r"expected rows of 16"):
        index.nearest(clustered(1, 8, 0))
    with pytest.raises(UserError, match="not of length 1"):
        index.nearest(2 * clustered(1, 16, 0))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    write_embedding(tmp_path / "vectors", [["a", "b", "c"], ["d", "e"]])
    build([tmp_path / "vectors"], tmp_path / "index", "video", SMALL)
    return tmp_path


def test_truncated_parts_and_parts_without_all_rows_are_refused(whole: Path) -> None:
    part = part_path(whole / "vectors", 1)
    content = part.read_bytes()
    for cut in (len(content) - 1, len(content) // 2, 100, 3, 0):
        part.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"00001.safetensors (has|is truncated)"):
            build([whole / "vectors"], whole / "other", "video", SMALL)
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="has changed: its checksum"):
        build([whole / "vectors"], whole / "other", "video", SMALL)
    part.unlink()
    with pytest.raises(
        UserError, match=r"lacks the parts of 1 of 2 shards, such as 00001.tar.\nNext|Next: trichord embed"
    ):
        build([whole / "vectors"], whole / "other", "video", SMALL)
    assert not (whole / "other").exists()


@pytest.mark.parametrize(("name", "what"), [("caption.ends", "rows"), ("key.ends", "ends at"), ("start_s", "rows")])
def test_row_that_is_missing_in_one_column_is_detected(name: str, what: str, whole: Path) -> None:
    from trichord.finetune.retrieval.table import TableColumn, write_table

    table = Table.open(part_path(whole / "vectors", 0))
    columns = {each: TableColumn(held.dtype, held.shape, [np.array(held)]) for each, held in table.columns.items()}
    short = np.array(table.columns[name][:-1])
    columns[name] = TableColumn(short.dtype, short.shape, [short])
    write_table(part_path(whole / "vectors", 0), columns, table.about)
    with pytest.raises(UserError, match=f"{what}.*(expected|missing)"):
        build([whole / "vectors"], whole / "other", "video", SMALL)


def test_incomplete_index_is_refused(whole: Path) -> None:
    index = whole / "index"
    segment = index / "segment-00001"
    for path in sorted(segment.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(UserError, match=f"{path.name} has .* bytes, expected {len(content):,}"):
            Index.open(index)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{path.name} has changed"):
            check(index)
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name}, which does not exist"):
            Index.open(index)
        path.write_bytes(content)
    check(index)
    (index / CATALOGUE).write_text((index / CATALOGUE).read_text()[:-20])
    with pytest.raises(UserError, match=r"index.json cannot be read"):
        Index.open(index)
    (index / CATALOGUE).unlink()
    with pytest.raises(UserError, match="is not an index: there is no"):
        Index.open(index)


def test_vectors_of_another_model_are_refused(whole: Path) -> None:
    write_embedding(whole / "strange", [["x"]], model="b" * 64)
    write_embedding(whole / "wide", [["y"]], dtype="float32")
    with pytest.raises(UserError, match=r"holds vectors of the model aaaaaaaaaaaa .* but these are of bbbbbbbbbbbb"):
        add(whole / "index", [whole / "strange"], SMALL)
    with pytest.raises(UserError, match="are of bbbbbbbbbbbb"):
        build([whole / "vectors", whole / "strange"], whole / "other", "video", SMALL)
    with pytest.raises(UserError, match="is in float32, expected float16"):
        add(whole / "index", [whole / "wide"], SMALL)
    assert Index.open(whole / "index").catalogue.model == MODEL


def test_a_key_has_one_place(whole: Path) -> None:
    write_embedding(whole / "again", [["new"], ["c"]])
    with pytest.raises(UserError, match="already holds 'c'; nothing was added"):
        add(whole / "index", [whole / "again"], SMALL)
    with pytest.raises(UserError, match=r"^c occurs twice, in .*vectors/00000.tar and in .*again/00001.tar"):
        build([whole / "vectors", whole / "again"], whole / "other", "video", SMALL)
    remove(whole / "index", ["c"], {})
    assert add(whole / "index", [whole / "again"], SMALL).count == 6
    with pytest.raises(UserError, match="holds no 'gone'; nothing was removed"):
        remove(whole / "index", ["a", "gone"], {})
    assert len(Index.open(whole / "index")) == 6
    with pytest.raises(UserError, match="would remove all rows"):
        remove(whole / "index", "abcde", {"key": "new"})
    with pytest.raises(UserError, match="is already an index"):
        build([whole / "vectors"], whole / "index", "video", SMALL)


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "hnsw"])
def test_full_disk_does_not_change_the_index(kind: Kind, tmp_path: Path) -> None:
    held = write_embedding(tmp_path / "vectors", [[f"k{number}" for number in range(400)]])
    write_embedding(tmp_path / "more", [[f"m{number}" for number in range(400)]], seed=2)
    options = Options(1 << 28, 0.9, kind)
    for size in (10, 6000, 20_000, 30_000):
        with small_disk(size), pytest.raises(UserError, match="cannot be written"):
            build([tmp_path / "vectors"], tmp_path / "index", "video", options)
        assert not (tmp_path / "index" / CATALOGUE).exists()
    build([tmp_path / "vectors"], tmp_path / "index", "video", options)
    before = (tmp_path / "index" / CATALOGUE).read_bytes()
    with small_disk(6000), pytest.raises(UserError, match=r"cannot be written: .*(File too large|FAISS)"):
        add(tmp_path / "index", [tmp_path / "more"], options)
    with small_disk(800), pytest.raises(UserError, match=r"cannot be written.*The index is unchanged"):
        remove(tmp_path / "index", ["k3"], {})
    assert (tmp_path / "index" / CATALOGUE).read_bytes() == before
    look_through(Index.open(tmp_path / "index"), held, 1, {"label": "red"})


def test_interrupted_change_has_no_effect(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_embedding(whole / "more", [["x", "y"]], seed=3)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(changing, "write_whole", dies)
        for change in (lambda: add(whole / "index", [whole / "more"], SMALL), lambda: merge(whole / "index", OTHER)):
            with pytest.raises(KeyboardInterrupt):
                change()
    assert (whole / "index/segment-00002").exists()
    assert len(Index.open(whole / "index")) == 5
    assert add(whole / "index", [whole / "more"], SMALL).count == 7
    merge(whole / "index", SMALL)
    assert sorted(path.name for path in (whole / "index").glob("s*")) == ["segment-00003"]


def test_merge_of_what_is_merged_changes_nothing(whole: Path) -> None:
    write_embedding(whole / "more", [["x", "y"]], seed=3)
    add(whole / "index", [whole / "more"], SMALL)
    merged = merge(whole / "index", SMALL)
    (whole / "index/segment-00099").mkdir()  # left by an interrupted change
    assert merge(whole / "index", SMALL) == merged
    assert sorted(path.name for path in (whole / "index").glob("s*")) == ["segment-00003"]
    assert merge(whole / "index", OTHER) != merged


def test_open_index_survives_a_merge(whole: Path) -> None:
    opened = Index.open(whole / "index")
    before = [hit.key for hit in opened.search(like="a", k=4)]
    merge(whole / "index", SMALL)
    assert [hit.key for hit in opened.search(like="a", k=4)] == before
    shutil.move(whole / "index", whole / "elsewhere")
    assert [hit.key for hit in Index.open(whole / "elsewhere").search(like="a", k=4)] == before
