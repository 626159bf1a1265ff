"""The commands whose work is worth a cluster: read on the login node when they are launched, and again in the job."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from trichord.core.parser import CommandParser, add_command, add_floor
from trichord.finetune.commands import EVALUATE, FINETUNE
from trichord.finetune.retrieval.commands import EMBED
from trichord.pretrain.commands import PRETRAIN
from trichord.shards import commands as shards_commands

_ALONE = (PRETRAIN, FINETUNE, EVALUATE, EMBED)
_OF_SHARDS = tuple(command for command in shards_commands.COMMANDS if command.job)


def names() -> list[str]:
    """Name them as they are typed."""
    return [*(command.name for command in _ALONE), *(f"shards {command.name}" for command in _OF_SHARDS)]


def read(words: Sequence[str]) -> Namespace:
    """Read what is to run; `command` is the Command that it is."""
    parser = CommandParser(prog="trichord")
    floors = parser.add_subparsers(metavar="VERB", parser_class=CommandParser, required=True)
    for command in _ALONE:
        add_command(floors, command)
    add_floor(floors, "shards", shards_commands.SUMMARY, _OF_SHARDS, required=True)
    return parser.read(words)


def run(words: Sequence[str]) -> int:
    """Run one of them here; mistakes and interruptions are raised."""
    arguments = read(words)
    return int(arguments.run(arguments))
