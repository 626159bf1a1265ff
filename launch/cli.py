"""The command `trichord`: run the given subcommand and turn errors into messages and exit statuses."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from trichord import __version__
from trichord.core.console import printable
from trichord.core.errors import Interrupted, RunStopped, UserError, explain
from trichord.core.parser import CommandParser, add_command, add_group
from trichord.launch.commands import COMMANDS, CommandGroup
from trichord.shards.reading.root import ALLOW, permitted

_DESCRIPTION = "Pretrain video models, optionally with audio and text, then fine-tune, evaluate and search with them."
_EPILOG = (
    "Every command describes its options with --help; those that print figures print them as JSON with --json.\n"
    "Exit status: 0 success, 1 a check failed, 2 user error, 75 stopped by the cluster with everything saved (run the "
    "same command again to resume), 130 interrupted."
)
_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        return _run(argv)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except RunStopped as stop:
        print(f"stopped: {printable(str(stop))}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 130 if interruption.signal_number == signal.SIGINT else _TRY_AGAIN
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        _drop_output()
        return 0
    except OSError as error:
        print(f"error: {printable(explain(error))}", file=sys.stderr)
        _drop_output()
        return 2


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().read(permitted(sys.argv[1:] if argv is None else argv))
    if arguments.run is None:
        arguments.parser.print_help()
        return 0
    status = int(arguments.run(arguments))
    sys.stdout.flush()  # here, where a full disk still becomes a message
    return status


def _drop_output() -> None:
    """Discard what standard output cannot take, so that the interpreter does not try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> CommandParser:
    parser = CommandParser(prog="trichord", description=_DESCRIPTION, epilog=_EPILOG)
    parser.set_defaults(run=None, command=None, parser=parser)
    parser.add_argument("--version", action="version", version=f"trichord {__version__}", help="print the version")
    what = "run the shell commands (`pipe:`) that recipes, run folders and indexes name as places of shards"
    parser.add_argument(ALLOW, action="store_true", help=what)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
    for command in COMMANDS.values():
        if isinstance(command, CommandGroup):
            add_group(subparsers, command.name, command.summary, command.commands)
        else:
            add_command(subparsers, command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
