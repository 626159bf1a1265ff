"""The command `trichord`: finds the verb that was typed, runs it, and turns mistakes into messages."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from trichord import __version__
from trichord.core.errors import Interrupted, RunStopped, UserError
from trichord.core.parser import CommandParser, add_command, add_floor
from trichord.finetune.commands import COMPARE, EVALUATE, EXPORT, FINETUNE, REPLAY, SHOW
from trichord.finetune.page.command import SERVE
from trichord.finetune.retrieval import index_commands
from trichord.finetune.retrieval.commands import EMBED, RETRIEVAL, SEARCH
from trichord.finetune.token_maps.command import VISUALISE
from trichord.finetune.zeroshot.command import ZEROSHOT
from trichord.launch import doctor, launch_command, quickstart
from trichord.launch.run_commands import CANCEL, LOGS, STATUS
from trichord.pretrain import commands as pretrain_commands
from trichord.pretrain.backbones.command import MODELS
from trichord.pretrain.plotting.command import PLOT
from trichord.pretrain.weights.command import INSPECT
from trichord.pretrain.weights.command import SUMMARY as OF_WEIGHTS
from trichord.shards import commands as shards_commands

_DESCRIPTION = """\
Pretrains video transformers together with sound and text, and puts what they learn to work."""
_EPILOG = """\
Every command explains itself with --help and prints its figures as JSON with --json.
Exit status: 0 done, 1 checked and found wanting, 2 a mistake you can mend, 75 told to stop by the cluster, all saved,
type it again to go on, 130 interrupted."""
_OF_RUNS = (
    *(pretrain_commands.PRETRAIN, FINETUNE, EVALUATE, ZEROSHOT, COMPARE),
    *(EMBED, SEARCH, RETRIEVAL),
    *(SERVE, VISUALISE),
    *(SHOW, PLOT, REPLAY, EXPORT, MODELS),
)
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    try:
        return _run(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunStopped as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 130 if interruption.signal_number == signal.SIGINT else _TRY_AGAIN
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().read(argv)
    if arguments.run is None:
        arguments.parser.print_help()
        return 0
    return int(arguments.run(arguments))


def _parser() -> CommandParser:
    parser = CommandParser(prog="trichord", description=_DESCRIPTION, epilog=_EPILOG)
    parser.set_defaults(run=None, command=None, parser=parser)
    parser.add_argument("--version", action="version", version=f"trichord {__version__}", help="print the version")
    floors = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
    add_command(floors, quickstart.COMMAND)
    add_command(floors, doctor.COMMAND)
    add_floor(floors, "shards", shards_commands.SUMMARY, shards_commands.COMMANDS)
    for command in (launch_command.COMMAND, STATUS, LOGS, CANCEL):
        add_command(floors, command)
    for command in _OF_RUNS:
        add_command(floors, command)
    add_floor(floors, "index", index_commands.SUMMARY, index_commands.COMMANDS)
    add_floor(floors, "weights", OF_WEIGHTS, (INSPECT,))
    return parser


if __name__ == "__main__":
    sys.exit(main())
