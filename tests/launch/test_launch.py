"""`trichord launch`: the exact text that it submits, and its messages about wrong arguments."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.slow_run import ROOT, trichord, write_data, write_recipe
from tests.test_cli import cost
from tests.warm import HANGS_AFTER_S
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.launch import cli
from trichord.launch.cluster_file import ClusterSettings, make_settings, read_minutes
from trichord.launch.plan import expand
from trichord.pretrain.engine.run_lock import take_lock

GOLDEN = Path(__file__).parent / "golden"

VERBS = "What can be launched: pretrain, finetune, evaluate, embed, shards build"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture
def place(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, without the cluster file of the user who runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    write_recipe(data, tmp_path / "fast.yaml", 6)
    return tmp_path


def dry_run(words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert cli.main(["launch", "--cluster", "slurm", "--dry-run", "--json", *shlex.split(words)]) == 0
    row: dict[str, object] = json.loads(capsys.readouterr().out)["rows"][0]
    return row


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain", "pretrain fast.yaml"),
        (
            "large",
            "--nodes 2 --gpus-per-node 2 --cpus-per-task 12 --mem-gb 480 --time 1-12:00:00 --partition gpu "
            "--account lab --qos high "
            "--constraint 'a100|h100' --exclude node[3-4] --sbatch reservation=week --sbatch nice=100 "
            "--sbatch exclusive=true "
            "--setup 'module load cuda' --srun=--mpi=pmix pretrain fast.yaml --run runs/large",
        ),
        ("short", "--time 2 --tasks-per-node 2 pretrain fast.yaml"),
        ("sweep", "--array %2 --time 30 pretrain fast.yaml seed=1,2,3 optimiser.learning_rate=1e-3,1e-4"),
        ("parts", "--array 16%4 --cpus-per-task 8 shards build folder --root videos --out shards"),
    ],
)
def test_text_for_sbatch(name: str, words: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "videos" / "cat").mkdir(parents=True)
    (place / "videos" / "cat" / "1.mp4").write_bytes(b"")
    text = str(dry_run(words, capsys)["sbatch"])
    text = re.sub(f"'({re.escape(str(place))}[^']*)'", r"\1", text)  # it may need quotes
    text = text.replace(str(place), "/somewhere").replace(shlex.quote(sys.executable), "/python")
    golden = GOLDEN / f"{name}.sh"
    if "UPDATE_GOLDEN" in os.environ:
        golden.write_text(text)
    assert text == golden.read_text()
    subprocess.run(["bash", "-n", str(golden)], check=True)


def test_dry_run_shows_the_job_and_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in place.iterdir())
    row = dry_run("--nodes 2 pretrain fast.yaml seed=1,2", capsys)
    assert row["ranks"] == 2
    files = row["files"]
    assert isinstance(files, dict)
    assert sorted(files) == [
        f"runs/fast/seed={seed}/snapshots/001/{name}" for seed in (1, 2) for name in ("config.yaml", "deepspeed.json")
    ]
    assert json.loads(files["runs/fast/seed=2/snapshots/001/deepspeed.json"])["train_micro_batch_size_per_gpu"] == 2
    assert "seed: 2" in files["runs/fast/seed=2/snapshots/001/config.yaml"]
    commands = row["commands"]
    assert isinstance(commands, list) and len(commands) == 2 and "snapshots/001/config.yaml --run " in commands[0]
    assert sorted(path.name for path in place.iterdir()) == before


def test_help_and_dry_run_are_fast_and_import_no_torch(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = "import sys\nfrom trichord.launch.cli import main\ntry:\n main(sys.argv[1:])\nexcept SystemExit: pass\n"
    script += "print('torch' in sys.modules, 'deepspeed' in sys.modules)"
    for words, limit in (["launch", "--help"], 5), (["launch", "--cluster", "slurm", "--dry-run"], 8):
        typed = words if "--help" in words else [*words, "--nodes", "2", "pretrain", "fast.yaml"]
        command = [sys.executable, "-c", script, *typed]

        def start(command: list[str] = command) -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, env=environment, capture_output=True, text=True)

        done = start()
        assert done.stdout.splitlines()[-1] == "False False", done.stderr
        assert cost(start) < limit


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--nods 2 pretrain fast.yaml", ["Did you mean --nodes?", "--gpus-per-node", "--cluster-file"]),
        ("--cluster surm pretrain fast.yaml", ["Did you mean slurm?", "local", "debug"]),
        ("--nodes two pretrain fast.yaml", ["nodes", "found 'two'"]),
        ("--nodes 0 pretrain fast.yaml", ["nodes: Input should be greater than 0"]),
        ("--time soon pretrain fast.yaml", ["time: expected minutes such as 90, or HH:MM:SS"]),
        ("--time 2 --signal-delay-s 90 pretrain fast.yaml", ["more than half of time=2", "at most 60"]),
        ("--sbatch nodes=3 pretrain fast.yaml", ["nodes cannot be set here"]),
        ("--sbatch chdir=/tmp pretrain fast.yaml", ["chdir cannot be set here"]),
        ("--sbatch nice pretrain fast.yaml", ["expected NAME=VALUE"]),
        ("--array x pretrain fast.yaml", ["--array x: expected a number of parts"]),
        ("--array 0 shards build folder --root . --out x", ["--array 0: expected"]),
        ("--array 4 pretrain fast.yaml", ["cannot be split into parts", "seed=1,2,3"]),
        ("--nodes 2 shards build folder --root . --out x", ["--array 2 instead of 2 ranks"]),
        ("", ["required: VERB", VERBS]),
        ("pretrian fast.yaml", ["Did you mean pretrain?", VERBS]),
        ("doctor", ["invalid choice: 'doctor'", VERBS]),
        ("shards verify x", ["invalid choice: 'verify'", VERBS]),
        (
            "pretrain fast.yaml --nodes 2",
            ["trichord pretrain has no option '--nodes'", "--nodes is an option of launch and goes before pretrain"],
        ),
        ("pretrain fast.yaml steps=0", ["steps"]),
        ("pretrain nowhere", ["no recipe or file is called 'nowhere'"]),
        ("pretrain fast.yaml seed=1,,2", ["empty value"]),
        ("pretrain fast.yaml seed=1,1", ["two runs of this sweep are the same"]),
        ("--cluster local --nodes 2 pretrain fast.yaml", ["which has one machine", "--tasks-per-node"]),
        ("--cluster debug --tasks-per-node 2 pretrain fast.yaml", ["this single process"]),
        ("--cluster local pretrain fast.yaml seed=1,2", ["needs SLURM"]),
        ("--tasks-per-node 3 pretrain fast.yaml", ["cannot be divided over 3 ranks"]),
        ("--cluster-file nowhere.yaml pretrain fast.yaml", ["nowhere.yaml is not a file"]),
        (
            "--cluster-file wrong.yaml pretrain fast.yaml",
            ["unknown setting 'partitions'", "Did you mean 'partition'", "qos"],
        ),
        ("pretrain fast.yaml data.sources=nowhere", ["nowhere"]),
        ("pretrain fast.yaml init_from.path=nowhere.pth", ["init_from.path=nowhere.pth does not exist"]),
    ],
)
def test_wrong_argument_is_answered_with_the_valid_ones(
    words: str, expected: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "wrong.yaml").write_text("partitions: gpu\n")
    assert cli.main(["launch", "--cluster", "slurm", "--dry-run", *words.split()]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    for part in expected:
        assert part in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_options_extend_and_override_the_cluster_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "home" / "trichord" / "cluster.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("partition: gpu\ntime: 12:00:00\nsetup: [module load cuda]\nsbatch: {nice: 5}\naccount: 123\n")
    text = str(dry_run("--partition debug pretrain fast.yaml", capsys)["sbatch"])
    assert "--account=123" in text
    assert "--partition=debug" in text and "--time=720" in text and "module load cuda" in text and "--nice=5" in text


def test_no_default_belongs_to_a_particular_cluster() -> None:
    left_to_slurm = {name for name, field in ClusterSettings.model_fields.items() if field.default is None}
    assert {"partition", "account", "qos", "constraint", "exclude", "time", "mem_gb", "cpus_per_task"} <= left_to_slurm


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 91),
        ("2:00:00", 120),
        ("1-0", 1440),
        ("1-12:30", 2190),
        ("1-2:3:4", 1564),
        ("x", 0),
        ("1:", 0),
    ],
)
def test_times_are_parsed_like_sbatch_does(text: str, minutes: int) -> None:
    assert read_minutes(text) == minutes


@pytest.mark.parametrize(("time_limit", "warning_s"), [(None, 120), ("1", 15), ("4", 60), ("8", 120), ("1-0", 120)])
def test_short_job_is_warned_later(time_limit: str | None, warning_s: int) -> None:
    assert make_settings({"time": time_limit} if time_limit else {}, "here").warning_s == warning_s


def test_commas_inside_brackets_and_quotes_do_not_make_a_sweep() -> None:
    assert expand(["pretrain", "x", "a=[1,2]", "b={c: 1, d: 2}", "e='1,2'", "--run", "a,b"]) == [
        ("", ["pretrain", "x", "a=[1,2]", "b={c: 1, d: 2}", "e='1,2'", "--run", "a,b"])
    ]
    assert [label for label, _ in expand(["a.b=1,[2,3]", "c=x/y,z"])] == [
        "a.b=1,c=x_y",
        "a.b=1,c=z",
        "a.b=_2_3_,c=x_y",
        "a.b=_2_3_,c=z",
    ]
    with pytest.raises(UserError, match="more than 1000 runs"):
        expand([f"{name}={','.join(map(str, range(11)))}" for name in "abc"])


def test_folder_of_a_single_run_of_a_sweep_is_not_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("seed=1,depth=2")
    folder.mkdir()
    (folder / "config.yaml").touch()
    words = ["pretrain", f"{folder}/config.yaml", "--run", str(folder)]
    assert expand(words) == [("", words)]


def test_folder_with_a_job_or_foreign_files_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launch", "--cluster", "debug", "pretrain", "fast.yaml", "--run"]
    with take_lock(place / "held"):
        assert cli.main([*words, "held"]) == 2
    assert f"held is in use by process {os.getpid()}" in capsys.readouterr().err
    (place / "file").write_text("")
    assert cli.main([*words, "file"]) == 2
    assert "is a file" in capsys.readouterr().err
    if os.getuid() == 0:
        (place / "other").mkdir()
        os.chown(place / "other", 12345, 12345)
        assert cli.main([*words, "other"]) == 2
        assert "belongs to" in capsys.readouterr().err
    assert not (place / "held" / "snapshots").exists()


def test_failed_preparation_is_reported(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another launch uses the same name for its snapshot, or a run of a sweep already has logs."""
    preflight = "trichord.launch.launch_command.preflight"
    monkeypatch.setattr(preflight, lambda plan: (plan.snapshot.mkdir(parents=True), [])[1])
    words = ["launch", "--cluster", "slurm", "pretrain", "fast.yaml", "--run"]
    assert cli.main([*words, "a run"]) == 2
    printed = capsys.readouterr().err
    assert "snapshots/001 could not be written" in printed and "Next: trichord status 'a run'" in printed
    (place / "sweep" / "seed=2" / "logs").mkdir(parents=True)
    monkeypatch.setattr(preflight, lambda plan: [])
    assert cli.main([*words, "sweep", "seed=1,2"]) == 2
    assert "sweep/seed=2 was launched on its own before" in capsys.readouterr().err


def test_debug_runs_here_and_records_everything(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-in-the-environment")
    (place / "site.yaml").write_text("setup: [export TOKEN=hunter2-of-the-site]\n")
    words = "launch --cluster debug --cluster-file site.yaml pretrain fast.yaml steps=3 --run run"
    done = subprocess.run(
        ["bash", "-c", f"umask 027; {shlex.quote(sys.executable)} -m trichord {words}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr
    run = place / "run"
    snapshot = run / "snapshots" / "001"
    assert {path.name for path in snapshot.iterdir()} - {"changes.diff"} == {
        "code",
        "code.json",
        "config.yaml",
        "deepspeed.json",
        "launch.json",
        "packages.txt",
    }
    for path in (ROOT / "launch").glob("*.py"):
        assert (snapshot / "code" / "trichord" / "launch" / path.name).read_bytes() == path.read_bytes()
    assert "torch==" in (snapshot / "packages.txt").read_text()
    home = str(Path.home())
    for path in run.rglob("*"):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode & 0o777
        assert mode == (0o750 if path.is_dir() else 0o640), f"{path} has mode {mode:o}"
        if path.is_file():
            text = path.read_bytes().replace(str(place.parent).encode(), b"")
            assert b"hunter2" not in text, path
            if "snapshots" in path.parts and "code" not in path.parts and path.name != "changes.diff":
                assert str(ROOT).encode() not in text and home.encode() + b"/" not in text, path
    commit = json.loads((snapshot / "code.json").read_text())["commit"]
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert commit == (head or None)
    assert not RunFolder(run).lock.exists()


def test_local_job_runs_the_recipe_as_it_was_when_launched(place: Path) -> None:
    """Two ranks; the recipe is edited right after the launch, and the terminal is closed."""
    done = trichord("launch", "--cluster", "local", "--tasks-per-node", "2", "pretrain", "fast.yaml", cwd=place)
    assert done.returncode == 0, done.stderr
    run = place / "runs" / "fast"
    assert '"ended"' not in (run / "history.jsonl").read_text(), "what it printed was waited for, its ranks were not"
    again = trichord("launch", "--cluster", "local", "pretrain", "fast.yaml", cwd=place)
    assert again.returncode == 2 and "already uses runs/fast" in again.stderr
    (place / "fast.yaml").write_text("this: is no recipe any more\n")
    end = time.monotonic() + HANGS_AFTER_S
    while '"ended"' not in (run / "history.jsonl").read_text():
        assert time.monotonic() < end, "\n".join(path.read_text() for path in (run / "logs").glob("*_log.out"))
        time.sleep(0.2)
    events = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["submitted", "started", "ended"]
    assert events[-1]["how"] == "finished"
    assert len(list((run / "logs").glob("*_log.out"))) == 2
    log = next((run / "logs").glob("*_0_log.out")).read_text()
    assert "2 ranks on cpu (submitit)" in log
