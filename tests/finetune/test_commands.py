"""The commands: recipes that follow from a run, errors with a message, a head from start to end, and fast help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.finetune.small_head import BOTH, CLASSES, settings, small_config, write_shards
from trichord.core.yaml_subset import write_yaml
from trichord.finetune.recipe import FINETUNING, load_finetune_recipe
from trichord.finetune.tasks.classification.spec import ClassificationSpec
from trichord.launch import cli
from trichord.launch.commands import read_job_command
from trichord.pretrain.recipe import to_yaml
from trichord.pretrain.recipe_file import list_recipes


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory, svt: Path, quick_starts: None) -> Path:
    """Make shards and a recipe, next to a pretraining run and its shards."""
    top = tmp_path_factory.mktemp("typed")
    write_shards(top / "train", 8)
    for name in ("svt", "plain"):
        (top / name).symlink_to(svt.parent / name)
    (top / "small.yaml").write_text(write_yaml(settings(top / "train", steps=2)))
    (top / "nothing").mkdir()
    return top


@pytest.mark.parametrize("name", list_recipes(FINETUNING.folder))
def test_recipe_is_completed_from_the_run_and_the_shards(name: str, top: Path) -> None:
    given = [f"init_from.path={top / 'svt'}", f"data.sources={top / 'train'}"]
    if name == "kinetics_fine_tuning":  # whose views have sizes of their own
        given += [
            f"objective.{each}=16" for each in ("view.crop.size", "test_view.crop.size", "test_view.crop.short_side")
        ]
    resolved = load_finetune_recipe(name, given)
    config = resolved.config
    assert config.backbone is not None and (config.backbone.kind, config.backbone.size) == ("timesformer", 16)
    assert config.pretrained == "svt" and resolved.origins["backbone.dim"] == f"run {top / 'svt'}"
    if isinstance(config.objective, ClassificationSpec):
        assert config.objective.classes == CLASSES
        assert resolved.origins["objective.classes"] == f"shards {top / 'train'}"
    written = top / f"{name}.yaml"
    written.write_text(to_yaml(config))
    assert load_finetune_recipe(written).config == config
    assert list_recipes(FINETUNING.folder)[name].read_text().startswith("# ")


def test_every_recipe_is_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "--json"]) == 0
    listed = {row["recipe"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert listed == {*list_recipes(), *list_recipes(FINETUNING.folder)}
    for name in list_recipes(FINETUNING.folder):
        assert cli.main(["show", name, "--json"]) == 0
        rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
        is_of_classes = rows["objective.kind"]["value"] == "classification"
        assert not is_of_classes or rows["objective.classes"]["from"] == "to be given"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("finetune linear_prob", "Did you mean 'linear_probe'?"),
        ("finetune small.yaml objective.head.poool=mean", "nearest 'objective.head.pool'"),
        ("finetune small.yaml objective.classes=3", "has 4 classes and objective.classes 3"),
        ("finetune small.yaml objective.classes=[a,b,c,d]", "calls class 0 'red', and objective.classes 'a'"),
        ("finetune small.yaml objective.inputs=[audio]", "set sound.kind, for example to kaldi_fbank"),
        ("finetune small.yaml backbone=null", "objective.inputs name video: give backbone.kind"),
        ("finetune small.yaml features=kept", "features need a frozen backbone"),
        ("finetune small.yaml objective.clips.clips=2", "training takes one view of each video"),
        ("finetune small.yaml objective.mix={} data.batch_size=2", "set data.batch_size to at least 4"),
        ("finetune small.yaml init_from.path=nothing", "found no file nothing"),
        ("finetune linear_probe data.sources=train", "init_from.path is missing"),
        ("evaluate nothing", "is not a run folder"),
        ("evaluate svt data.batch_size=4", "set the batch size of a test with --batch-size N"),
        ("evaluate svt", "trichord finetune linear_probe init_from.path=svt"),
        ("compare nothing", "trichord evaluate nothing --data SHARDS"),
    ],
)
def test_mistakes_exit_2_with_a_message(
    words: str, expected: str, top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    assert expected in shown.err and shown.out == ""


def test_head_from_the_recipe_to_the_table(
    top: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(top)
    assert cli.main(["finetune", "small.yaml", "--dry-run", "--json"]) == 0
    assert cli.main(["finetune", "small.yaml", "--run", "head"]) == 0
    assert cli.main(["finetune", "small.yaml", "--run", "head"]) == 0
    assert "all 2 steps are done" in capsys.readouterr().err
    assert cli.main(["evaluate", "head", "--data", "train", "--pictures", "none", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["clips"], row["views"]) == (8, "2 views of a clip, softmax averaged")
    more = ["--data", "train", "--name", "more", "objective.test_clips.clips=3"]
    assert cli.main(["evaluate", "head", *more]) == 0
    drawn = sorted(path.suffixes[-2] for path in (top / "head/evaluations").glob("*.png"))
    assert drawn == [".classes", ".confusion", ".reliability"]
    capsys.readouterr()
    _launches(["evaluate", "head", "data.workers=1", "--data", "train"])
    assert cli.main(["compare", "head", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [each["top1"] for each in rows][1] == row["top1"] and len(rows) == 2
    frozen = ["objective.frozen=true", "objective.clips.placement=centre", "features=kept"]
    assert cli.main(["finetune", "small.yaml", *frozen, "--run", "on_kept"]) == 0
    assert sorted(path.name for path in (top / "kept/0").iterdir()) == ["00000.tar", "00001.tar", "manifest.json"]
    assert cli.main(["evaluate", "head", "--data", "plain"]) == 2  # its clips have no labels
    assert "0 labels, expected exactly 1. For clips of several classes, or of none" in capsys.readouterr().err


def _launches(typed: list[str]) -> None:
    """Return the job of an evaluation before it runs: alone, and in a sweep."""
    arguments = read_job_command(typed)
    job = arguments.command.job(arguments)
    words = ("evaluate", "head", "data.workers=1", "--pictures", "png", "--batch-size", "8", "--data", "train")
    assert job.words(Path("snapshot"), None) == words and read_job_command(words).data == ["train"]
    assert "--name train-average=max" in " ".join(job.within("average=max").words(Path("snapshot"), None))
    assert job.folder == Path("head/evaluations/jobs") and not job.files(ranks=2)
    assert job.check(ranks=3) == ["shards: train holds 8 clips"] and "of step 2" in job.weigh(3, None)[0]


def test_launched_job_repeats_the_arguments(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(top)
    arguments = read_job_command(["finetune", "small.yaml", "--run", "head"])
    job = arguments.command.job(arguments)
    assert job.words(Path("snapshot"), None) == ("finetune", "snapshot/config.yaml", "--run", "head")
    assert "classes: 4" in job.check(ranks=2)
    both = small_config(top / "train", **BOTH)
    assert both.with_checkpointing(True).checkpoints_activations and not both.checkpoints_activations


@pytest.mark.parametrize("command", ["finetune", "evaluate", "compare"])
def test_help_imports_nothing_heavy(command: str) -> None:
    script = f"""
import sys
from trichord.launch.cli import main
try:
    main(["{command}", "--help"])
except SystemExit as stop:
    assert stop.code == 0
print(sorted({{"torch", "numpy", "pydantic", "webdataset"}} & set(sys.modules)))
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
