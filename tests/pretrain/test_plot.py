"""`trichord plot`: the drawn figures and runs, their units, and messages about errors."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trichord.core.errors import UserError
from trichord.pretrain.commands import PLOT
from trichord.pretrain.engine.trackers import FILE_NAME
from trichord.pretrain.plotting.page import MOST_POINTS, draw_page, page_data
from trichord.pretrain.plotting.picture import COLOURS, limits
from trichord.pretrain.plotting.series import choose_panels, load_runs, smooth, thin

ROOT = Path(__file__).resolve().parent.parent.parent


def make_run(folder: Path, steps: int = 60, **more: Any) -> Path:
    """Write the metrics of a run whose loss falls from 10 to 10 - steps/10."""
    folder.mkdir(parents=True)
    rows = [
        {
            "step": step,
            "steps": steps,
            "samples": (step + 1) * 64,
            "run_s": step * 36.0,
            "time_s": 1.7e9,
            "loss": 10 - step / 10,
            "learning_rate": 1e-3 * step / steps,
            "clips_per_s": None if step == 0 else 100.0 + step % 2,
            "data_wait_share": 0.02 + 0.001 * step,
            "silent_share": None,
            "bad_share": 0.0,
            "health/teacher_entropy": 0.9 - step / 1000,
            "bad": {"codec": 1},
            **more,
        }
        for step in range(steps)
    ]
    (folder / FILE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def plot(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    PLOT.declare(parser)
    return PLOT.run(parser.parse_args([str(word) for word in words]))


def titles(path: Path, wanted: Sequence[str] | None = None) -> list[str]:
    panels = choose_panels(load_runs([path])[0], wanted, "step")
    return [f"{panel.title} ({panel.unit})" if panel.unit else panel.title for panel in panels]


def test_informative_figures_are_drawn_with_the_loss_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **{"loss/global": 3.0})
    assert titles(run) == ["loss", "teacher entropy", "learning rate", "speed (clips/s)", "data wait (%)"]


def test_any_figure_can_be_chosen_by_name_or_pattern(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **{"loss/global": 3.0, "loss/local": 4.0})
    assert titles(run, ["lr", "run_s", "loss*"]) == ["learning rate", "run (s)", "loss", "loss: global", "loss: local"]


def test_values_are_in_the_units_of_their_panels(tmp_path: Path) -> None:
    ((run,), _) = load_runs([make_run(tmp_path / "run")])
    (panel,) = choose_panels([run], ["data_wait_share"], "hours")
    values = panel.values(run)
    assert values is not None
    assert values[10] == pytest.approx(3.0)
    assert run.axis("hours")[10] == pytest.approx(0.1)
    assert run.axis("samples")[10] == 704


def test_schedule_over_decades_has_a_logarithmic_scale_and_a_cosine_does_not(tmp_path: Path) -> None:
    steep = make_run(tmp_path / "steep")
    rows = [{"step": step, "learning_rate": 10 ** (-step / 10)} for step in range(60)]
    (steep / FILE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for run, is_logarithmic in ((steep, True), (make_run(tmp_path / "plain"), False)):
        (panel,) = choose_panels(load_runs([run])[0], ["lr"], "step")
        assert panel.is_logarithmic is is_logarithmic
        assert panel.is_schedule


def test_smoothing_is_the_mean_around_each_point_and_keeps_gaps() -> None:
    values = np.array([1.0, 5.0, np.nan, 2.0, 8.0, 3.0])
    reach = 1
    naive = [np.nanmean(values[max(0, i - reach) : i + reach + 1]) for i in range(6)]
    naive[2] = np.nan
    np.testing.assert_allclose(smooth(values, 3), naive)
    np.testing.assert_array_equal(smooth(values, 1), values)
    line = np.arange(50.0)
    np.testing.assert_allclose(smooth(line, 9)[4:-4], line[4:-4])  # no lag


def test_thinning_averages_neighbours() -> None:
    np.testing.assert_allclose(thin(np.array([1.0, 3.0, np.nan, 4.0, np.nan, np.nan, 9.0]), 2), [2.0, 4.0, np.nan, 9.0])


def test_a_spike_does_not_flatten_a_panel_and_a_descent_is_shown_whole() -> None:
    spiky = np.sin(np.arange(500.0))
    spiky[77] = 1e6
    low, high = limits([spiky], [spiky], from_zero=False) or (0, 0)
    assert -5 < low < -0.9 and 0.9 < high < 5
    descent = 10 * np.exp(-np.arange(500.0) / 100)
    low, high = limits([descent], [descent], from_zero=False) or (0, 0)
    assert low < descent.min() and high > descent.max()
    assert limits([descent], [descent], from_zero=True) == (0.0, high)
    assert limits([], [np.array([np.nan])], from_zero=False) is None


def test_runs_have_the_shortest_distinct_names(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "a" / "svt"), make_run(tmp_path / "b" / "svt")
    assert [run.name for run in load_runs([one])[0]] == ["svt"]
    assert [run.name for run in load_runs([one, two / FILE_NAME, one])[0]] == ["a/svt", "b/svt"]


def test_a_png_shows_each_run_in_its_colour(tmp_path: Path) -> None:
    out = tmp_path / "curves.png"
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", loss=3.0)]
    assert plot(*runs, "--out", out, "--figures", "loss", "--smooth", "1") == 0
    seen = set(Image.open(out).convert("RGB").get_flattened_data())
    for colour in COLOURS[:2]:
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in seen
    assert tuple(int(COLOURS[2][i : i + 2], 16) for i in (1, 3, 5)) not in seen


def test_the_same_runs_give_the_same_svg(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("one.svg", "two.svg"):
        assert plot(run, "--out", tmp_path / name, "--x", "hours") == 0
    first = (tmp_path / "one.svg").read_bytes()
    assert first == (tmp_path / "two.svg").read_bytes()
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"


def test_page_is_in_the_run_folder_by_default_and_figures_are_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert plot(run, "--json") == 0
    assert (run / "curves.html").is_file()
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == [
        {"run": "run", "log_lines": 60, "last_step": 59, "hours": 0.59, "loss": pytest.approx(4.1)}
    ]


def test_page_is_self_contained_and_names_are_escaped(tmp_path: Path) -> None:
    runs, _ = load_runs(
        [make_run(tmp_path / "</script><img src=x>{{code}}", steps=5), make_run(tmp_path / "b", steps=9)]
    )
    out = tmp_path / "curves.html"
    draw_page(out, runs, choose_panels(runs, None, "step"), "step", 1)
    page = out.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'h/]|@import|url\(|fetch\(|XMLHttpRequest""", page)
    assert [host for host in re.findall(r"https?://([^/\"]+)", page) if host != "www.w3.org"] == []
    assert page.count("</script>") == 2
    assert "<img" not in page
    inline = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert inline is not None
    data = json.loads(inline[1])
    assert [run["name"] for run in data["runs"]] == [run.name for run in runs]
    (speed,) = [index for index, panel in enumerate(data["panels"]) if panel["title"] == "speed"]
    assert data["runs"][0]["values"][speed] == [None, 101.0, 100.0, 101.0, 100.0]
    assert data["runs"][0]["axes"]["samples"] == [64, 128, 192, 256, 320]


@pytest.mark.parametrize("ending", ["svg", "html"])
def test_names_of_any_origin_are_drawn(ending: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "$\\frac$ \x1b[2J \udcff")
    assert plot(run, "--out", tmp_path / f"curves.{ending}") == 0
    text = (tmp_path / f"curves.{ending}").read_text()
    assert "\x1b" not in text
    if ending == "svg":
        ElementTree.fromstring(text)


def test_long_run_is_thinned_to_the_resolution_of_a_screen(tmp_path: Path) -> None:
    runs, _ = load_runs([make_run(tmp_path / "long", steps=2 * MOST_POINTS + 1)])
    data = page_data(runs, choose_panels(runs, ["loss"], "step"), "step", 30)
    assert (data["thinned"], data["smooth"]) == (3, 10)
    assert data["runs"][0]["axes"]["step"][:2] == [1, 4]
    assert data["runs"][0]["values"][0][:2] == pytest.approx([9.9, 9.6])


@pytest.mark.skipif(shutil.which("node") is None, reason="node runs the page's script here")
def test_the_script_of_the_page_draws_points_zooms_and_hides(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", loss=3.5)]
    out = tmp_path / "curves.html"
    assert plot(*runs, "--out", out, "--smooth", "3", "--figures", "loss,lr,clips_per_s") == 0
    reader = Path(__file__).with_name("page_reader.js")
    done = subprocess.run(["node", str(reader), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    before, zoomed, hidden = found["before"], found["zoomed"], found["hidden"]
    assert [text.strip() for text in found["runs"]] == ["a", "b"]
    assert before["panels"] == ["loss", "learning rate", "speed clips/s"]
    assert [len(curves) for curves in before["curves"]] == [2, 2, 2]
    assert before["raws"] == [2, 0, 2], "a schedule is drawn as it is"
    # 225 of 400 pixels is the 31st of 60 steps: (225 - 52) / (400 - 52 - 10) * 59 = 30.2
    assert re.search(r"step 30 7\b.*step 30 3\.5\b", " ".join(found["tip"].split()))
    assert before["lasts"][0].split() == ["4.15", "3.5"]
    assert before["curves"][2][0].startswith("M57.7"), "the first point is a gap"
    points = [len(re.findall("[ML]", each["curves"][0][0])) for each in (before, zoomed)]
    assert points == [60, 27]  # (380 - 52) / 338 * 59 = 57.3, so steps 31 to 57
    assert [len(curves) for curves in hidden["curves"]] == [1, 1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], r"there is no run at .*nowhere\. Next: name the run's folder"),
        (["empty"], r"empty has no metrics\.jsonl, which a run writes with its first log line"),
        (["parent"], r"It contains runs: one, two\. Next: trichord plot .*parent/\*"),
        (["torn"], r"has no complete line yet\. Next: wait"),
        (["run", "--figures", "loss,learning_rat"], r"'learning_rat'\. Did you mean 'learning_rate'\?\nKnown: loss, "),
        (["old", "--x", "hours"], r"no run logged run_s, which --x hours needs\. Next: --x step"),
    ],
)
def test_errors_are_reported(tmp_path: Path, words: list[str], message: str) -> None:
    make_run(tmp_path / "run")
    for name in ("one", "two"):
        make_run(tmp_path / "parent" / name)
    (tmp_path / "empty").mkdir()
    for name, text in (("torn", '{"step": 1, "lo'), ("old", '{"step": 1, "loss": 2.0}\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE_NAME).write_text(text)
    with pytest.raises(UserError, match=message):
        plot(tmp_path / words[0], *words[1:])


def test_only_images_and_pages_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plot(make_run(tmp_path / "run"), "--out", tmp_path / "curves.pdf")
    assert "expected a file that ends in .png, .svg or .html" in capsys.readouterr().err


def test_plotting_needs_no_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    code = (
        "import argparse, sys; from trichord.pretrain.commands import PLOT; parser = argparse.ArgumentParser();"
        "PLOT.declare(parser); heavy = {'torch', 'numpy', 'matplotlib'} & set(sys.modules); assert not heavy, heavy;"
        f"PLOT.run(parser.parse_args([{str(run)!r}])); PLOT.run(parser.parse_args([{str(run)!r}, '--out', 'x.svg']));"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
