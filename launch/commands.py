"""The commands of `trichord` in the order of its help: a line for each, or an entry point of a plug-in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trichord.core.command import Command
from trichord.core.registry import Registry
from trichord.finetune.retrieval import index_commands
from trichord.pretrain.weights import command as weights_command
from trichord.shards import commands as shards_commands


@dataclass(frozen=True)
class CommandGroup:
    """Commands under a common first word."""

    name: str
    summary: str
    commands: Sequence[Command]


SHARDS = CommandGroup("shards", shards_commands.SUMMARY, shards_commands.COMMANDS)
INDEX = CommandGroup("index", index_commands.SUMMARY, index_commands.COMMANDS)
WEIGHTS = CommandGroup("weights", weights_command.SUMMARY, (weights_command.INSPECT,))

COMMANDS: Registry[Command | CommandGroup] = Registry(
    "commands",
    {
        "quickstart": "trichord.launch.quickstart:COMMAND",
        "doctor": "trichord.launch.doctor:COMMAND",
        "shards": f"{__name__}:SHARDS",
        "launch": "trichord.launch.launch_command:COMMAND",
        "status": "trichord.launch.run_commands:STATUS",
        "logs": "trichord.launch.run_commands:LOGS",
        "cancel": "trichord.launch.run_commands:CANCEL",
        "pretrain": "trichord.pretrain.commands:PRETRAIN",
        "finetune": "trichord.finetune.commands:FINETUNE",
        "evaluate": "trichord.finetune.commands:EVALUATE",
        "zeroshot": "trichord.finetune.zeroshot.command:ZEROSHOT",
        "compare": "trichord.finetune.commands:COMPARE",
        "embed": "trichord.finetune.retrieval.commands:EMBED",
        "search": "trichord.finetune.retrieval.commands:SEARCH",
        "retrieval": "trichord.finetune.retrieval.commands:RETRIEVAL",
        "serve": "trichord.finetune.page.command:SERVE",
        "visualise": "trichord.finetune.token_maps.command:VISUALISE",
        "show": "trichord.finetune.commands:SHOW",
        "plot": "trichord.pretrain.plotting.command:PLOT",
        "replay": "trichord.finetune.commands:REPLAY",
        "export": "trichord.finetune.commands:EXPORT",
        "models": "trichord.pretrain.backbones.command:MODELS",
        "index": f"{__name__}:INDEX",
        "weights": f"{__name__}:WEIGHTS",
    },
)
