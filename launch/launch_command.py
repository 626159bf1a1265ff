"""`trichord launch`: check a command, take a snapshot of it and submit it to the cluster."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from trichord.core.command import add_json, command_line, read_pairs
from trichord.core.console import show_figures, track
from trichord.core.errors import UserError
from trichord.core.field_docs import field_docs
from trichord.core.run_folder import RunFolder
from trichord.launch.cluster_file import ClusterSettings, default_path, load_cluster_file, make_settings
from trichord.launch.commands import job_command_names
from trichord.launch.history import Cluster, Submitted, now_s, write_event
from trichord.launch.plan import Plan, make_plan
from trichord.launch.preflight import preflight, quick_checks
from trichord.launch.snapshot import take_snapshot
from trichord.launch.submit import sbatch_text, submit

_CLUSTERS = ("slurm", "local", "debug")


def declare(parser: ArgumentParser) -> None:
    """Declare the arguments of `trichord launch`: an option for each setting of a job, then the command to run."""
    listed = ", ".join(job_command_names())
    parser.description = (
        f"{parser.description}\n\nVERB is one of: {listed}. Options of launch go before it.\n"
        "In ARGS, a.b=1,2,3 makes one run per value: a sweep, submitted as one SLURM array."
    )
    parser.add_argument(
        "--cluster",
        choices=_CLUSTERS,
        help="SLURM, processes on this machine, or this process (default: slurm if sbatch is found, else local)",
    )
    for name, field in ClusterSettings.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        default = "" if field.default in (None, ()) or field.is_required() else f" (default: {field.default})"
        default = "" if name == "sbatch" else default
        text = f"{_phrase(field_docs(ClusterSettings)[name])}{default}".replace("%", "%%")
        if name == "sbatch":
            parser.add_argument(option, action="append", metavar="NAME=VALUE", help=text)
        elif name in ("setup", "srun"):
            parser.add_argument(option, action="append", metavar="LINE" if name == "setup" else "OPTION", help=text)
        else:
            parser.add_argument(option, metavar=_metavar(field.annotation), help=text)
    parser.add_argument(
        "--array",
        metavar="N[%M]",
        help="split the work into N parts, at most M at a time; for a sweep, %%M limits the runs at a time",
    )
    parser.add_argument(
        "--cluster-file",
        type=Path,
        metavar="FILE",
        help=f"YAML file with the settings above (default: {_with_tilde(default_path())})",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted, and do not submit it")
    add_json(parser)
    parser.add_argument("words", nargs=REMAINDER, metavar="VERB ARGS", help="the command to run in the job")


def _phrase(sentence: str) -> str:
    """Return a sentence as the help of an option: without its stop, and in lower case unless it begins with a name."""
    first = sentence.partition(" ")[0]
    return (sentence if first.isupper() else sentence[0].lower() + sentence[1:]).removesuffix(".")


def _metavar(annotation: Any) -> str:
    return "N" if "int" in str(annotation) else "X" if "float" in str(annotation) else "TEXT"


def _with_tilde(path: Path) -> str:
    return str(path).replace(str(Path.home()), "~", 1)


def run_launch(arguments: Namespace) -> int:
    """Check, snapshot and submit the command of parsed arguments, or show in a dry run what would be submitted."""
    given = {
        name: getattr(arguments, name) for name in ClusterSettings.model_fields if getattr(arguments, name) is not None
    }
    if "sbatch" in given:
        given["sbatch"] = read_pairs("--sbatch", given["sbatch"])
    site = load_cluster_file(arguments.cluster_file)
    settings = make_settings({**site, **given}, "trichord launch")
    cluster: Cluster = arguments.cluster or ("slurm" if shutil.which("sbatch") else "local")
    plan = make_plan(cluster, settings, given, arguments.array, arguments.words)
    if arguments.dry_run:
        return _show(plan, arguments.json)
    for line in preflight(plan):
        print(line, file=sys.stderr)
    rows = _submit(plan)
    show_figures("submitted", rows, arguments.json)
    if plan.cluster != "debug":
        logs = command_line("logs", plan.elements[0].job.folder, "--follow")
        print(f"next: {command_line('status', plan.folder)}; {logs}", file=sys.stderr)
    return 0


def _show(plan: Plan, as_json: bool) -> int:
    ranks = plan.settings.ranks
    text = sbatch_text(plan.order) if plan.cluster == "slurm" else ""
    files = {
        str(plan.snapshot_of(element) / name): content
        for element in plan.elements
        for name, content in element.job.files(ranks).items()
    }
    commands = [command_line(*plan.work(element).words) for element in plan.elements]
    if as_json:
        row = {"ranks": ranks, "sbatch": text, "commands": commands, "files": files}
        show_figures("would be submitted", [row], as_json=True)
        return 0
    for line in quick_checks(plan):
        print(line, file=sys.stderr)
    if text:
        print(f"# what sbatch would receive\n{text}")
    for name, content in files.items():
        print(f"# {name}\n{content}")
    print("# each rank would run", *commands, sep="\n")
    print("nothing was submitted", file=sys.stderr)
    return 0


def _submit(plan: Plan) -> list[dict[str, object]]:
    about = {
        "words": plan.elements[0].words,
        "cluster": plan.cluster,
        "settings": dict(plan.typed),
    }
    try:
        _prepare(plan, json.dumps(about, indent=1) + "\n")
    except OSError as error:  # a full disk, or a concurrent launch that took this snapshot's name
        raise UserError(
            f"{plan.snapshot} could not be written: {error}\nNext: {command_line('status', plan.folder)}"
        ) from error
    began_s = now_s()
    rows: list[dict[str, object]] = []
    job_ids = submit(plan.order, [plan.work(element) for element in plan.elements])
    for element, job_id in zip(plan.elements, job_ids, strict=True):
        event = Submitted(
            time_s=began_s,
            job_id=job_id,
            cluster=plan.cluster,
            host=socket.gethostname(),
            snapshot=plan.snapshot.name,
            words=element.words,
            nodes=plan.settings.nodes,
            ranks=plan.settings.ranks,
        )
        if plan.cluster != "debug":
            write_event(element.job.folder, event)
        rows.append({"job": job_id, "run": str(element.job.folder), "ranks": plan.settings.ranks})
    return rows


def _prepare(plan: Plan, about: str) -> None:
    take_snapshot(plan.snapshot, {"launch.json": about})
    for element in track(plan.elements, "preparing runs"):
        own = plan.snapshot_of(element)
        own.mkdir(parents=True, exist_ok=True)
        for name, text in element.job.files(plan.settings.ranks).items():
            (own / name).write_text(text, encoding="utf-8")
        if element.job.folder != plan.folder:
            _link_logs(RunFolder(plan.folder).logs, RunFolder(element.job.folder).logs)


def _link_logs(logs: Path, link: Path) -> None:
    """Link the logs into each run's folder of an array: submitit writes all logs of an array to one folder."""
    if link.exists() and not link.is_symlink():
        raise UserError(
            f"{link.parent} was launched on its own before and has its own logs. Launch it on its own again, or give "
            "another --run"
        )
    if not link.is_symlink():
        link.symlink_to(Path("..") / logs.name, target_is_directory=True)
