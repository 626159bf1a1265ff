"""The command line: fast, and every error is a message with exit status 2."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import tarfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pretrain.engine.small_run import settings, write_shards
from trichord.core.command import Command, read_pairs
from trichord.core.errors import UserError
from trichord.core.parser import CommandParser, add_command
from trichord.core.yaml_subset import write_yaml
from trichord.launch import cli
from trichord.shards.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "trichord", *arguments], capture_output=True, text=True, env=environment
    )


def cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cost(call: Callable[[], object], times: int = 4) -> float:
    """Return the CPU time of a call's child processes in units of what Python takes to import pydantic and asyncio.

    Processors differ, and a busy one takes up to twice the CPU time; both are measured in turns, and the least counts.
    """
    found: dict[str, list[float]] = {"call": [], "unit": []}
    for _ in range(times):
        for name, each in (("call", call), ("unit", _import_pydantic)):
            began_s = cpu_s_of_children()
            each()
            found[name].append(cpu_s_of_children() - began_s)
    return min(found["call"]) / min(found["unit"])


def _import_pydantic() -> None:
    subprocess.run([sys.executable, "-c", "import asyncio, importlib.metadata, pydantic.main"], check=True)


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    assert run("--help").returncode == 0
    assert cost(lambda: run("--help")) < 3
    script = """
import sys
from trichord.launch.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
print(sorted({"torch", "av", "numpy", "pydantic", "rich", "webdataset"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_commands_for_login_nodes_import_no_torch(tmp_path: Path) -> None:
    """Run commands that read recipes, run folders and queues, one after another in one process."""
    shards = write_shards(tmp_path / "clips")
    recipe = tmp_path / "small.yaml"
    recipe.write_text(write_yaml(settings(shards)))
    run = tmp_path / "runs/one"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 3, "steps": 9}) + "\n")
    launch = ["launch", "--cluster", "local", "--dry-run", "pretrain", str(recipe)]
    commands = [["show"], ["show", "svt_paper"], ["show", "linear_probe"], launch, ["status"]]
    commands += [["show", "objective.teacher_momentum"], ["show", "svt_paper", "optimiser.eps"]]
    commands += [[name, "--help"] for name in ("logs", "cancel", "plot", "pretrain", "evaluate", "search")]
    script = f"""
import sys
from trichord.launch.cli import main
for words in {commands}:
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    assert status == 0, words
    assert "torch" not in sys.modules, words
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [[], ["shards"]])
def test_incomplete_command_prints_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert "COMMAND" in capsys.readouterr().out


def test_help_of_every_command_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main(["shards", command.name, "--help"])
        text = capsys.readouterr().out
        assert stop.value.code == 0
        assert command.examples
        for example in command.examples:
            assert example in text
            assert example.startswith("trichord ") and f" shards {command.name} " in example


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.split()[0] == "trichord"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("frob", "choose from"),
        ("shards biuld", "Did you mean build?"),
        ("shards synthetic --out x --smaples 3", "Did you mean --samples?"),
        ("shards synthetic --out x --smaples=3", "Did you mean --samples?"),
        ("shards synthetic --samples 3", "required: --out"),
        ("shards synthetic --out x --samples none", "found 'none', expected a whole number of at least 1"),
        ("shards synthetic --out x --rules max_second=4", "Did you mean 'max_seconds'?"),
        ("shards synthetic --out x --rules max_seconds=4000", "less than or equal to 60, found 4000"),
        ("shards synthetic --out x --rules max_seconds", "expected NAME=VALUE"),
        ("shards synthetic --out x --holdout red/star", "expected COLOUR/SHAPE/ACTION"),
        ("shards build fodler --root x --out y", "Did you mean folder?"),
        ("shards build csv --root nowhere --out y", "does not exist"),
        ("shards build csv --root . --out y --bytes-per-shard 3TB", "such as 500MB"),
        ("shards build csv --root . --out y --max-bad-fraction 5", "a share from 0 to 1"),
        ("shards build csv --root . --out y --bytes-per-shard 3MB --samples-per-shard 3", "not allowed with"),
        ("shards index a b", "does not take the argument 'b'"),
        ("shards index nowhere", "nowhere is not a folder"),
        ("shards index https://example.org/set --names 0.tar", "add --out DIR"),
    ],
)
def test_errors_exit_2_with_a_message(
    words: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert expected in shown.err
    assert shown.out == ""


def test_error_has_no_traceback() -> None:
    done = run("shards", "build", "csv", "--root", "nowhere", "--out", "nowhere")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(argv: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main([]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_closed_output_pipe_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m trichord shards build --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_command_is_declared_only_when_used() -> None:
    declared: list[str] = []

    def command(name: str) -> Command:
        def declare(parser: ArgumentParser) -> None:
            declared.append(name)
            parser.add_argument("--size", type=int)

        def act(arguments: Namespace) -> int:
            return int(arguments.size)

        return Command(name, f"does {name}", declare, act)

    parser = CommandParser(prog="p")
    below = parser.add_subparsers()
    for name in ("one", "two"):
        add_command(below, command(name))
    arguments, _ = parser.parse_known_args(["two", "--size", "7"])
    assert declared == ["two"]
    assert arguments.run(arguments) == 7
    with pytest.raises(UserError, match="invalid int value: 'x'"):
        parser.parse_known_args(["one", "--size", "x"])


def test_values_of_pairs_are_parsed_as_json_if_valid() -> None:
    assert read_pairs("--rules", ["a=1", "b=[1, 2]", "c=true", "d=fast", "e=", "f=x=y"]) == {
        "a": 1,
        "b": [1, 2],
        "c": True,
        "d": "fast",
        "e": "",
        "f": "x=y",
    }


def test_commands_from_building_to_reading_with_json_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def figures(*words: str) -> list[dict[str, object]]:
        assert cli.main([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        rows: list[dict[str, object]] = document["rows"]
        return rows

    world, sets = str(tmp_path / "world"), tmp_path / "shards"
    rules = ["--rules", "max_seconds=2", "clips_per_group=2", "frame_sizes=[[32,32]]", "fps=[12]"]
    made = figures("shards", "synthetic", "--out", world, "--samples", "6", "--seed", "3", *rules)
    assert made[0]["clips"] == 6
    built = figures("shards", "build", "csv", "--root", world, "--out", str(sets), "--workers", "1")
    assert sum(int(str(row["samples"])) for row in built) == 6
    for row in built:
        folder = sets / str(row["split"])
        with tarfile.open(folder / "00000.tar") as tar:
            keys = {name.partition(".")[0] for name in tar.getnames()}
        before = json.loads((folder / "manifest.json").read_text())
        indexed = figures("shards", "index", str(folder), "--workers", "1")
        after = json.loads((folder / "manifest.json").read_text())
        assert indexed[0]["samples"] == row["samples"] == len(keys)
        assert indexed[0]["problems"] == {}
        assert [(s["name"], s["samples"], s["bytes"]) for s in before["shards"]] == [
            (s["name"], s["samples"], s["bytes"]) for s in after["shards"]
        ]
        assert before["classes"] == after["classes"] != []
