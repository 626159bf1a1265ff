"""Wherever YAML is read, what is hostile or of another form ends the command with one message that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.test_yaml_subset import HOSTILE
from trichord.launch import cli

# Commands in a folder that holds FILE; those of a run read its config.yaml.
PLACES = {
    "recipe": "show FILE",
    "base": "show above.yaml",
    "training": "pretrain FILE --dry-run",
    "head": "finetune FILE --dry-run",
    "run of weights": "finetune linear_probe init_from.path=run data.sources=x --dry-run",
    "tested run": "evaluate run --data x",
    "cluster": "launch --dry-run --cluster slurm --cluster-file FILE pretrain svt_quickstart",
    "site": "launch --dry-run --cluster slurm pretrain svt_quickstart",
}
TEXTS = {name: HOSTILE[name][0] for name in ("brackets", "part of itself", "laughs", "NUL", "digits", "command", "tab")}
TEXTS |= {"list": "- a", "text": "a", "nothing": "", "number for a mapping": "data: 5\nobjective: 7\nbase: 3"}
TEXTS |= {
    "list for a mapping": "objective: [1]\ndata: [[]]\nbase: []\nnodes: []",
    "no kind": "objective: {kind: {a: 1}}",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "above.yaml").write_text("base: ./FILE.yaml\n")
    for folder in ("run/checkpoints", "config/trichord"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words.split()) == 2
    message = capsys.readouterr().err
    assert len(message) < 4000
    assert message.startswith("error: ")
    return message


def put(place: Path, content: bytes) -> None:
    for name in ("FILE.yaml", "run/config.yaml", "config/trichord/cluster.yaml"):
        (place / name).write_bytes(content)


@pytest.mark.parametrize("command", PLACES.values(), ids=list(PLACES))
def test_hostile_yaml_is_refused_everywhere(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"run": "run", "FILE": "FILE.yaml", "above": "yaml"}
    for text in (*TEXTS.values(), "\xff\xfe"):
        put(place, text.encode("latin-1"))
        message = refused(command.replace("FILE", "FILE.yaml"), capsys)
        assert any(name in message for name in (*named.values(), "cluster.yaml"))


@pytest.mark.parametrize(
    "override", ["[" * 5000, "&me [*me]", "1" * 5000, "!!python/name:os.system", '"\\ud800"', "\udcff"]
)
def test_hostile_override_is_refused_in_a_short_message(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("show svt_paper", "pretrain svt_quickstart --dry-run", "finetune linear_probe --dry-run"):
        assert cli.main([*command.split(), f"seed={override}"]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: seed=")
        assert len(message) < 1000


@pytest.mark.parametrize(
    "override",
    ["a." * 5000 + "a=1", "data.sources." + "9" * 5000 + "=1", "data.sources.999999999.root=x", "=1", "..=1"],
)
def test_name_that_leads_nowhere_is_refused(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "svt_paper", override]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_number_without_end_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The divisors of a batch are looked for one by one."""
    message = refused("show svt_paper data.batch_size=999999999999999", capsys)
    assert "data.batch_size: Input should be less than or equal to 1048576" in message


def test_thousands_of_mistakes_are_cut(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "FILE.yaml").write_text("".join(f"unknown{number}: 1\n" for number in range(2000)))
    message = refused("show FILE.yaml", capsys)
    assert "unknown key 'unknown0'" in message
    assert message.count("\n") < 30


def test_typed_command_within_hostile_yaml_is_no_trap(capsys: pytest.CaptureFixture[str]) -> None:
    """What is typed is searched for commands, which may run."""
    for value in ("&me [*me, 'pipe:x']", "[" * 5000 + "pipe:x"):
        assert cli.main(["show", "svt_paper", f"data.sources={value}"]) == 2
        assert capsys.readouterr().err.startswith("error: ")
