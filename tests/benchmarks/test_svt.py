"""The SVT experiment at a small size, with the real engine: its findings, and results that are not computed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.learning import svt as learning
from benchmarks.learning.svt import HELD_OUT, LABELLED, PIXELS, PROBES_PER_RUN, SEEN, UNTRAINED, learn
from benchmarks.learning.svt_report import run_and_report
from benchmarks.learning.synthetic_clips import FACTORS

TINY = ("steps=4", "data.batch_size=8", "backbone.depth=1", "backbone.dim=32", "objective.prototypes=16")
TINY_RATES = ("optimiser.learning_rate=1e-3",)
CLIPS = 100


def test_each_seed_is_probed_with_its_baselines_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*TINY, *TINY_RATES)
    tables = run_and_report(tmp_path, "svt", [0], CLIPS, overrides)
    kept = json.loads((tmp_path / "results.json").read_bytes())
    (seed,) = kept["seeds"]
    found = {(each["features"], each["factor"], each["clips"]) for each in seed["findings"]}
    sources = (PIXELS, UNTRAINED, "svt", LABELLED)
    assert found == {(name, factor, clips) for name in sources for factor in FACTORS for clips in (SEEN, HELD_OUT)}
    assert sorted({step for step, _ in seed["curve"]}) == list(range(1, PROBES_PER_RUN + 1))
    assert kept["tables"] == json.loads(json.dumps(tables))

    def refuse(*_: object) -> float:
        raise AssertionError("pretrained again")

    monkeypatch.setattr(learning, "train", refuse)
    _, again = learn(tmp_path, "svt", [0], CLIPS, overrides)
    assert [json.loads(json.dumps(finding.__dict__)) for finding in again[0].findings] == seed["findings"]
    with pytest.raises(AssertionError, match="pretrained again"):
        learn(tmp_path, "svt", [1], CLIPS, overrides)


def test_unknown_override_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learning", "--out", str(tmp_path), "backbone.dimm=3"]) == 2
    assert "backbone.dim" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
