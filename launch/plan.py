"""What a launch will do, before it does anything: which jobs there are, where each keeps its run, what each types.

From one command line to several: `a.b=1,2,3` is a run for each value, and for each pair where there are two such.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trichord.core.errors import UserError
from trichord.core.job import Job
from trichord.core.run_folder import RunFolder
from trichord.launch import verbs
from trichord.launch.cluster_file import Settings
from trichord.launch.history import Cluster
from trichord.launch.snapshot import CODE, next_snapshot
from trichord.launch.submit import Order
from trichord.launch.work import Work

_ARRAY = re.compile(r"(?P<parts>\d+)?(?:%(?P<at_once>\d+))?")


@dataclass(frozen=True)
class Element:
    """One job: a run, one run of a sweep, or one part of a work of parts."""

    job: Job
    words: tuple[str, ...]  # as typed
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of a launch; more than one are one array, whose logs and code lie together in `folder`."""

    cluster: Cluster
    settings: Settings
    typed: Mapping[str, Any]  # of the settings, those that snapshots tell: a site's own may hold what is not for them
    folder: Path
    name: str
    elements: tuple[Element, ...]
    snapshot: Path
    at_once: int | None

    @property
    def order(self) -> Order:
        """How it is handed over."""
        return Order(
            cluster=self.cluster,
            settings=self.settings,
            name=self.name,
            logs=RunFolder(self.folder.absolute()).logs,
            code=self.snapshot.absolute() / CODE,
            jobs=len(self.elements),
            at_once=self.at_once,
        )

    def snapshot_of(self, element: Element) -> Path:
        """Say where the work's own files go: beside the code, and of an array to each run."""
        return element.job.folder / self.snapshot.relative_to(self.folder)

    def work(self, element: Element) -> Work:
        """Give what a job runs."""
        return Work(
            words=tuple(element.job.words(self.snapshot_of(element).absolute(), element.part)),
            run=element.job.folder.absolute(),
            saves_when_told=element.job.saves_when_told,
            max_restarts=self.settings.max_restarts,
            warning_s=self.settings.warning_s,
        )


def make_plan(
    cluster: Cluster, settings: Settings, typed: Mapping[str, Any], array: str | None, words: Sequence[str]
) -> Plan:
    """Read the command that is to be launched, and lay it out as jobs; `typed` are the settings that no file gave."""
    parts, at_once = _read_array(array)
    runs = expand(words)
    jobs = [(label, each, _job(each)) for label, each in runs]
    whole = jobs[0][2]
    if parts is not None and (len(runs) > 1 or not whole.is_of_parts):
        raise UserError(
            f"--array {array}: this work has no parts that could be done apart. A sweep such as seed=1,2,3 makes an "
            "array by itself, of which --array %4 lets four run at once"
        )
    if whole.is_of_parts and settings.ranks > 1:
        raise UserError(
            f"this work is done by processes that know nothing of each other: --array {settings.ranks} instead of "
            f"{settings.ranks} ranks"
        )
    if len(runs) > 1:
        if cluster != "slurm":
            raise UserError(
                f"a sweep of {len(runs)} runs needs SLURM, to run one beside the other. Here: launch them one by one"
            )
        elements = [Element(job.within(label), tuple(each)) for label, each, job in jobs]
    elif parts is not None:
        labels = [f"part-{number:03d}-of-{parts:03d}" for number in range(1, parts + 1)]
        elements = [
            Element(whole.within(label), tuple(words), (number, parts)) for number, label in enumerate(labels, 1)
        ]
    else:
        elements = [Element(whole, tuple(words))]
    _refuse_what_cannot_be(cluster, settings)
    snapshot = next_snapshot(whole.folder)
    return Plan(cluster, settings, typed, whole.folder, whole.name, tuple(elements), snapshot, at_once)


def _job(words: Sequence[str]) -> Job:
    try:
        arguments = verbs.read(words)
    except UserError as error:
        options = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
        misplaced = [word for word in words if word.partition("=")[0] in options]
        hint = f"\n{misplaced[0]} of launch stands before {words[0]}" if misplaced else ""
        raise UserError(f"{error}{hint}\nWhat can be launched: {', '.join(verbs.names())}") from error
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


def _refuse_what_cannot_be(cluster: Cluster, settings: Settings) -> None:
    if cluster == "local" and settings.nodes > 1:
        raise UserError(f"--nodes {settings.nodes} with --cluster local: there is one machine. Give --tasks-per-node")
    if cluster == "debug" and settings.ranks > 1:
        raise UserError(f"{settings.ranks} ranks with --cluster debug, which is this one process. Take --cluster local")


_SETTING = re.compile(r"(?P<name>[A-Za-z_][\w]*(?:\.\w+)*)=(?P<value>.*)", re.DOTALL)
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "'\""
_MOST = 1000


def expand(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Give each run's label and words; without a sweep one, whose label is empty. Brackets and quotes hold commas."""
    choices: list[list[tuple[str, str]]] = []  # for each word, what it may be and the part of the label it brings
    for word in words:
        is_other = word.startswith("-") or Path(word).exists()  # runs of a sweep keep their folders by such names
        setting = None if is_other else _SETTING.fullmatch(word)
        values = _split(setting["value"]) if setting else [""]
        if setting is None or len(values) == 1:
            choices.append([("", word)])
            continue
        if not all(values):
            raise UserError(f"{word!r} has an empty value. Expected values such as seed=1,2,3")
        choices.append([(f"{setting['name']}={value}", f"{setting['name']}={value}") for value in values])
    runs = [
        (",".join(_for_a_folder(label) for label, _ in chosen if label), [word for _, word in chosen])
        for chosen in itertools.islice(itertools.product(*choices), _MOST + 1)
    ]
    if len(runs) > _MOST:
        raise UserError(f"this sweep has more than {_MOST} runs. Take fewer values, or launch it in several pieces")
    labels = [label for label, _ in runs]
    if len(set(labels)) < len(labels):
        raise UserError("two runs of this sweep are the same, or differ only in what a folder's name cannot hold")
    return runs


def _split(value: str) -> list[str]:
    """Cut at commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts


def _for_a_folder(label: str) -> str:
    return re.sub(r"[^\w.=+-]", "_", label)
