"""Progress and figures: a bar on a terminal, plain lines in logs, JSON for programs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trichord.core import console
from trichord.core.console import counted, plain_markdown, printable, pulse, show_figures, track
from trichord.launch import cli

ROOT = Path(__file__).resolve().parent.parent.parent


class Clock:
    """A clock that every item advances."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self.step_s = step_s

    def monotonic(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_track_is_lazy_and_prints_nothing_for_quick_work(capsys: pytest.CaptureFixture[str]) -> None:
    taken = []

    def source() -> object:
        for number in range(3):
            taken.append(number)
            yield number

    stream = track(source(), "work")  # type: ignore[arg-type, var-annotated]
    assert taken == []
    assert next(stream) == 0
    assert taken == [0]
    assert list(stream) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_log_has_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "time", Clock(step_s=4.0))
    assert list(track(range(10), "making clips")) == list(range(10))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "making clips: 3 of 10 (30 %), 0.25/s, 28 s left"  # 12 s in, a line is due after 10
    assert lines[-1] == "making clips: 10 done in 44 s"
    assert len(lines) == 4


def test_progress_without_total_has_no_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "time", Clock(step_s=3600.0))
    list(track(iter("ab"), "reading"))
    assert capsys.readouterr().err.splitlines() == [
        "reading: 1, 0.000278/s",
        "reading: 2, 0.000278/s",
        "reading: 2 done in 3 h 0 min",
    ]


def test_pulse_shows_progress_of_work_that_is_not_a_loop(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "time", Clock(step_s=6.0))
    with pulse("measuring") as beat:
        for _ in range(5):
            beat()
    assert capsys.readouterr().err.splitlines() == ["measuring: 2, 0.167/s", "measuring: 4, 0.167/s"]


def test_terminal_has_a_bar_on_stderr_and_labels_are_plain_text() -> None:
    script = (
        "from trichord.core.console import track; import time; [time.sleep(0.05) for _ in track(range(3), '[a] b')]"
    )
    reader, writer = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=writer, env=environment)
    os.close(writer)
    shown = os.read(reader, 65536).decode()
    os.close(reader)
    assert done.returncode == 0
    assert done.stdout == b""
    assert "[a] b" in shown
    assert "3/3" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


def test_json_figures_are_one_line_of_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"name": "ä", "share": np.float32(0.5), "count": np.int64(3), "folder": Path("a/b")},
        {"name": "b", "share": float("nan"), "causes": {"codec": 2}, "list": (1, None)},
    ]
    show_figures("a title", rows, as_json=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out, parse_constant=pytest.fail) == {
        "title": "a title",
        "rows": [
            {"name": "ä", "share": 0.5, "count": 3, "folder": "a/b"},
            {"name": "b", "share": None, "causes": {"codec": 2}, "list": [1, None]},
        ],
    }


def test_table_has_every_column_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    show_figures("[t]", [{"a": 12345, "b": 0.123456}, {"a": 1, "c": "x[y]", "d": True, "e": {"codec": 2}}], False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]
    assert lines[0] == "[t]"
    assert lines[1].split() == ["a", "b", "c", "d", "e"]
    assert lines[2].split() == ["12,345", "0.1235", "-", "-", "-"]
    assert lines[3].split() == ["1", "-", "x[y]", "yes", "codec:", "2"]
    assert lines[2].index("12,345") + 6 == lines[3].index(" 1") + 2  # numbers end in one column


def test_single_long_row_is_printed_vertically(capsys: pytest.CaptureFixture[str]) -> None:
    show_figures("t", [{f"figure_{number}": number for number in range(9)}], as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[1:] == [[f"figure_{number}", str(number)] for number in range(9)]


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (12345, "12,345 clips")]
)
def test_counted_noun_agrees_with_its_number(number: int, expected: str) -> None:
    assert counted(number, "clip") == expected


EVIL = "red\x1b[2J\r\x07 \x9b1m \u202egnp.exe \ud800 | <b> `x` *y* [z](http://q) & \x85end"


def test_text_of_any_origin_reaches_a_terminal_without_what_it_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printable(EVIL)
    assert shown.startswith("red\\x1b[2J\\r\\x07 \\x9b1m \\u202egnp.exe \\ud800 | <b>") and shown.encode()
    ordinary = "a\tb\nc caf\xe9 \U0001f469\u200d\U0001f680 \u6f22"
    assert printable(ordinary) == ordinary
    show_figures(EVIL, [{EVIL: EVIL, "more": {EVIL: [EVIL]}}], as_json=False)
    printed = capsys.readouterr().out
    show_figures(EVIL, [{EVIL: EVIL}], as_json=True)
    as_json = capsys.readouterr().out
    assert json.loads(as_json) == {"title": EVIL, "rows": [{EVIL: EVIL}]}
    assert not set(as_json) & set("\x1b\r\x07\x9b\u202e\ud800\x85")
    assert printed.count("\\x1b[2J") >= 4 and not set(printed) & set("\x1b\r\x07\x9b\u202e\ud800\x85")


def test_text_of_any_origin_is_one_literal_line_of_markdown() -> None:
    line = plain_markdown(f"{EVIL}\n# heading")
    assert "\n" not in line and not re.search(r"(?<!\\)[`*\[\]|<>&]", line)
    assert plain_markdown("move_left, 3x224") == "move_left, 3x224"


def test_error_of_a_command_is_printed_in_a_printable_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "run\x1b[31m\udcff"]) == 2
    found = capsys.readouterr().err
    assert "run\\x1b[31m\\udcff" in found and "\x1b" not in found
