"""A command that a file names as the place of shards does not run, unless it was typed or is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pretrain.engine.small_run import settings, write_shards
from trichord.core.errors import UserError
from trichord.core.yaml_subset import write_yaml
from trichord.launch import cli
from trichord.launch.cluster_file import ClusterSettings
from trichord.launch.commands import read_job_command
from trichord.launch.plan import make_plan
from trichord.shards.reading import root
from trichord.shards.reading.manifest import Manifest
from trichord.shards.reading.root import ALLOW, allow_typed, parse_root

COMMAND = "pipe:touch ran; cat shards/{name}"
REFUSED = f"was not typed here, but found in {{origin}}, so it was not run. Next: if you trust it, add {ALLOW}"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with shards, in a process that allows nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(root, "_PERMISSION", root._Permission())
    write_shards(tmp_path / "shards")
    return tmp_path


def write(path: str, values: object) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(write_yaml(json.loads(json.dumps(values))))
    return path


def small(sources: object) -> dict[str, object]:
    found = settings(Path("shards"), steps=20)
    found["data"] |= {"sources": sources}
    return found


def in_a_recipe() -> str:
    return write("recipe.yaml", small([COMMAND]))


def in_its_base() -> str:
    in_a_recipe()
    return write("above.yaml", {"base": "recipe.yaml", "steps": 3})


def as_a_manifest() -> str:
    return write("recipe.yaml", small([{"root": "shards", "manifest": COMMAND}]))


def in_a_run_folder() -> str:
    tested = {"objective": {"kind": "classification"}, "data": {"sources": [COMMAND], "batch_size": 4}}
    return str(Path(write("run/config.yaml", tested)).parent)


FILES = [
    (in_a_recipe, "show {}", "recipe.yaml"),
    (in_a_recipe, "pretrain {} --dry-run", "recipe.yaml"),
    (in_a_recipe, "pretrain {} data.sources.0.weight=2 --run run", "recipe.yaml"),
    (in_a_recipe, "launch --cluster slurm --dry-run pretrain {}", "recipe.yaml"),
    (in_a_recipe, "finetune {} --run run", "recipe.yaml"),
    (in_its_base, "show {}", "above.yaml"),
    (as_a_manifest, "pretrain {} --run run", "recipe.yaml"),
    (in_a_run_folder, "evaluate {}", "run/config.yaml"),
    (in_a_run_folder, "launch --cluster slurm --dry-run evaluate {}", "run/config.yaml"),
]


@pytest.mark.parametrize(("file", "words", "origin"), FILES)
def test_command_in_a_file_is_refused_by_name(
    file: object, words: str, origin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(file)
    assert cli.main(words.format(file()).split()) == 2
    shown = capsys.readouterr()
    assert f"'{COMMAND}' is a shell command. It {REFUSED.format(origin=origin)}" in shown.err
    assert shown.out == "" and not Path("ran").exists()


def test_flag_allows_it_and_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", in_a_recipe(), "--dry-run", ALLOW]) == 0
    assert f"{ALLOW}: '{COMMAND}', found in recipe.yaml, may run\n" in capsys.readouterr().err
    assert Path("ran").exists()


@pytest.mark.parametrize(
    "typed",
    [
        f"data.sources={COMMAND}",
        f'data.sources=["{COMMAND}", shards]',
        f'data.sources=[{{root: "{COMMAND}", weight: 2}}]',
    ],
)
def test_typed_command_runs(typed: str) -> None:
    assert cli.main(["pretrain", write("recipe.yaml", small("elsewhere")), typed, "--dry-run"]) == 0
    assert Path("ran").exists()


def test_only_the_typed_command_is_allowed() -> None:
    allow_typed([f"data.sources={COMMAND}"])
    assert parse_root(COMMAND).is_pipe
    for other in (f"{COMMAND} ", COMMAND.replace("ran", "other"), "pipe:cat shards/{name}"):
        with pytest.raises(UserError, match="was not typed here"):
            Manifest.load(other)


def test_job_may_run_what_was_typed_or_allowed_at_its_launch() -> None:
    write("plain.yaml", small("shards"))
    assert ALLOW not in words_of_job("plain.yaml")
    assert words_of_job("plain.yaml", f"data.sources={COMMAND}").count(ALLOW) == 1
    with pytest.raises(UserError, match="was not typed here"):
        words_of_job(write("other.yaml", small([COMMAND.replace("ran", "other")])))
    root.allow_all_commands()
    words = words_of_job("other.yaml")
    assert words.count(ALLOW) == 1
    assert ALLOW not in vars(read_job_command(words)).values()  # the job parses it


def words_of_job(*words: str) -> list[str]:
    plan = make_plan("slurm", ClusterSettings(), {}, None, ["pretrain", *words])
    return list(plan.work(plan.elements[0]).words)


@pytest.mark.parametrize("words", ["status --allow-comands", "--allow-command shards verify x", "show --alow-commands"])
def test_misspelt_flag_is_answered_with_the_right_one(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words.split()) == 2
    assert "Did you mean --allow-commands?" in capsys.readouterr().err
