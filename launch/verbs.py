"""The commands that can run as cluster jobs: parsed on the login node at the launch, and again in the job."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace

from trichord.core.command import Command
from trichord.core.parser import CommandParser, add_command, add_group
from trichord.launch.commands import COMMANDS, CommandGroup


def _top_level() -> list[Command]:
    return [each for each in COMMANDS.values() if isinstance(each, Command) and each.job]


def _groups() -> list[CommandGroup]:
    """Return the groups with the commands that can run as jobs alone."""
    groups = [each for each in COMMANDS.values() if isinstance(each, CommandGroup)]
    found = [replace(each, commands=[command for command in each.commands if command.job]) for each in groups]
    return [each for each in found if each.commands]


def names() -> list[str]:
    """Return the names of the commands, as typed."""
    within = [f"{group.name} {command.name}" for group in _groups() for command in group.commands]
    return [*(command.name for command in _top_level()), *within]


def read(words: Sequence[str]) -> Namespace:
    """Parse a command line; the result's `command` is the Command."""
    parser = CommandParser(prog="trichord")
    subparsers = parser.add_subparsers(metavar="VERB", parser_class=CommandParser, required=True)
    for command in _top_level():
        add_command(subparsers, command)
    for group in _groups():
        add_group(subparsers, group.name, group.summary, group.commands, required=True)
    return parser.read(words)


def run(words: Sequence[str]) -> int:
    """Run one of the commands in this process and return its exit status; errors and interruptions are raised."""
    arguments = read(words)
    return int(arguments.run(arguments))
