"""`python -m benchmarks`: comparisons with other tools, and learning experiments."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.harness import conditions
from benchmarks.learning.command import LEARNING
from benchmarks.reading.command import READING
from benchmarks.search.command import SEARCH
from benchmarks.training.commands import CLUSTERING, CONTRAST, GROWTH, MODEL_STEPS, SCAN, STEP
from trichord.core.errors import RunStopped, UserError
from trichord.core.parser import CommandParser, add_command

COMMANDS = (READING, STEP, SCAN, CONTRAST, CLUSTERING, MODEL_STEPS, GROWTH, SEARCH, LEARNING)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = CommandParser(
        prog="python -m benchmarks", description="Comparisons with other tools, and learning experiments."
    )
    parser.set_defaults(run=None, command=None, parser=parser)
    below = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)
    for command in COMMANDS:
        add_command(below, command)
    try:
        arguments = parser.read(argv)
        if arguments.run is None:
            parser.print_help()
            return 0
        status = int(arguments.run(arguments))
    except (UserError, RunStopped) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(conditions(), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
