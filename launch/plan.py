"""The plan of a launch: its jobs, the run folder of each, and the command that each runs.

A sweep turns one command line into several: `a.b=1,2,3` makes one run per value, and two such settings make one run per
combination.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trichord.core.command import Job
from trichord.core.errors import UserError
from trichord.core.run_folder import RunFolder
from trichord.launch.cluster_file import ClusterSettings
from trichord.launch.commands import job_command_names, read_job_command
from trichord.launch.history import Cluster
from trichord.launch.snapshot import CODE, next_snapshot
from trichord.launch.submit import SubmitOptions
from trichord.launch.work import JobCommand
from trichord.shards.reading.root import ALLOW, untyped_commands

_ARRAY = re.compile(r"(?P<parts>\d+)?(?:%(?P<at_once>\d+))?")


@dataclass(frozen=True)
class Element:
    """One job: a run, one run of a sweep, or one part of work that is split into parts."""

    job: Job
    words: tuple[str, ...]  # as typed
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of a launch; several form one array, whose logs and code are kept together in `folder`."""

    cluster: Cluster
    settings: ClusterSettings
    typed: Mapping[str, Any]  # the settings that snapshots record: a site's own may be private
    folder: Path
    name: str
    elements: tuple[Element, ...]
    snapshot: Path
    at_once: int | None

    @property
    def order(self) -> SubmitOptions:
        """How the jobs are submitted."""
        return SubmitOptions(
            cluster=self.cluster,
            settings=self.settings,
            name=self.name,
            logs=RunFolder(self.folder.absolute()).logs,
            code=self.snapshot.absolute() / CODE,
            jobs=len(self.elements),
            at_once=self.at_once,
        )

    def snapshot_of(self, element: Element) -> Path:
        """Return the folder for the work's own files: next to the code, or in each run of an array."""
        return element.job.folder / self.snapshot.relative_to(self.folder)

    def work(self, element: Element) -> JobCommand:
        """Return what a job runs."""
        words = element.job.words(self.snapshot_of(element).absolute(), element.part)
        return JobCommand(
            words=(*words, ALLOW) if untyped_commands() and ALLOW not in words else tuple(words),
            run=element.job.folder.absolute(),
            saves_on_signal=element.job.saves_on_signal,
            max_restarts=self.settings.max_restarts,
            warning_s=self.settings.warning_s,
        )


def make_plan(
    cluster: Cluster, settings: ClusterSettings, typed: Mapping[str, Any], array: str | None, words: Sequence[str]
) -> Plan:
    """Parse the command to launch and plan its jobs; `typed` holds the settings given on the command line."""
    parts, at_once = _read_array(array)
    runs = expand(words)
    jobs = [(label, each, _job(each)) for label, each in runs]
    whole = jobs[0][2]
    if parts is not None and (len(runs) > 1 or not whole.is_of_parts):
        raise UserError(
            f"--array {array}: this work cannot be split into parts. A sweep such as seed=1,2,3 makes an array by "
            "itself; --array %4 lets four of its runs run at once"
        )
    if whole.is_of_parts and settings.ranks > 1:
        raise UserError(
            f"the parts of this work run as independent processes: give --array {settings.ranks} instead of "
            f"{settings.ranks} ranks"
        )
    if len(runs) > 1:
        if cluster != "slurm":
            raise UserError(
                f"a sweep of {len(runs)} runs needs SLURM to run them in parallel. Without it, launch them one by one"
            )
        elements = [Element(job.within(label), tuple(each)) for label, each, job in jobs]
    elif parts is not None:
        labels = [f"part-{number:03d}-of-{parts:03d}" for number in range(1, parts + 1)]
        elements = [
            Element(whole.within(label), tuple(words), (number, parts)) for number, label in enumerate(labels, 1)
        ]
    else:
        elements = [Element(whole, tuple(words))]
    _refuse_impossible(cluster, settings)
    snapshot = next_snapshot(whole.folder)
    return Plan(cluster, settings, typed, whole.folder, whole.name, tuple(elements), snapshot, at_once)


def _job(words: Sequence[str]) -> Job:
    try:
        arguments = read_job_command(words)
    except UserError as error:
        options = {f"--{name.replace('_', '-')}" for name in ClusterSettings.model_fields}
        misplaced = [word for word in words if word.partition("=")[0] in options]
        hint = f"\n{misplaced[0]} is an option of launch and goes before {words[0]}" if misplaced else ""
        raise UserError(f"{error}{hint}\nWhat can be launched: {', '.join(job_command_names())}") from error
    arguments.words = list(words)
    job: Job = arguments.command.job(arguments)
    return job


def _read_array(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    found = _ARRAY.fullmatch(text)
    if not text or not found or "0" in (found["parts"], found["at_once"]):
        raise UserError(f"--array {text}: expected a number of parts such as 16, or 16%4 for four at once, or %4")
    parts, at_once = found["parts"], found["at_once"]
    return (int(parts) if parts else None), (int(at_once) if at_once else None)


def _refuse_impossible(cluster: Cluster, settings: ClusterSettings) -> None:
    if cluster == "local" and settings.nodes > 1:
        raise UserError(f"--nodes {settings.nodes} with --cluster local, which has one machine. Give --tasks-per-node")
    if cluster == "debug" and settings.ranks > 1:
        raise UserError(
            f"{settings.ranks} ranks with --cluster debug, which is this single process. Use --cluster local"
        )


_SETTING = re.compile(r"(?P<name>[A-Za-z_][\w]*(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)
_LEFT_BRACKETS, _RIGHT_BRACKETS, _QUOTES = "[{(", "]})", "'\""
_MAX_RUNS = 1000


def expand(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each run's label and words; without a sweep the label is empty. Commas in brackets or quotes are kept."""
    choices: list[list[tuple[str, str]]] = []  # for each word: pairs of its part of the label and its value
    for word in words:
        # An existing path may contain `=`: the folders of a sweep's runs do.
        is_other = word.startswith("-") or Path(word).exists()
        setting = None if is_other else _SETTING.fullmatch(word)
        values = _split(setting["value"]) if setting else [""]
        if setting is None or len(values) == 1:
            choices.append([("", word)])
            continue
        if not all(values):
            raise UserError(f"{word!r} has an empty value. Expected values such as seed=1,2,3")
        choices.append([(f"{setting['name']}={value}", f"{setting['name']}={value}") for value in values])
    runs = [
        (",".join(_folder_name(label) for label, _ in chosen if label), [word for _, word in chosen])
        for chosen in itertools.islice(itertools.product(*choices), _MAX_RUNS + 1)
    ]
    if len(runs) > _MAX_RUNS:
        raise UserError(f"this sweep has more than {_MAX_RUNS} runs. Use fewer values, or launch it as several sweeps")
    labels = [label for label, _ in runs]
    if len(set(labels)) < len(labels):
        raise UserError(
            "two runs of this sweep are the same, or differ only in characters that a folder name cannot hold"
        )
    return runs


def _split(value: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _LEFT_BRACKETS:
            depth += 1
        elif character in _RIGHT_BRACKETS:
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts


def _folder_name(label: str) -> str:
    return re.sub(r"[^\w.=+-]", "_", label)
