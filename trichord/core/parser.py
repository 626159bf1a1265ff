"""The command-line parser: commands declare options lazily, and errors suggest the nearest known name."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from argparse import Namespace
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from trichord.core.command import Command
from trichord.core.errors import UserError

_INVALID_CHOICE = re.compile(r"invalid choice: '(?P<found>.*)' \(choose from (?P<known>.*)\)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A help formatter that fills descriptions, preserves tables and examples, and adds the defaults of options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Return a description with each line filled; lines that are indented or short enough stay as they are."""
        return "\n".join(
            indent + line
            if line.startswith(" ") or len(line) <= width
            else textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
            for line in text.splitlines()
        )

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        shows_default = isinstance(action.default, int | float | str | Path) and not isinstance(action.default, bool)
        shows_default = shows_default and bool(action.option_strings) and action.default != argparse.SUPPRESS
        return f"{text} (default: %(default)s)" if text and shows_default else text

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)  # the list of commands without its line COMMAND
        return text.partition("\n")[2] if isinstance(action, argparse._SubParsersAction) else text

    def _iter_indented_subactions(self, action: argparse.Action) -> Generator[argparse.Action, None, None]:
        if isinstance(action, argparse._SubParsersAction):
            yield from action._get_subactions()


class CommandParser(argparse.ArgumentParser):
    """A parser that declares its command's options only on parsing, so that `trichord --help` imports no module."""

    def __init__(self, *, declare: Callable[[argparse.ArgumentParser], None] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, allow_abbrev=False, **options)
        self._declare = declare
        self._is_intermixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if self._declare is not None:
            declare, self._declare = self._declare, None
            declare(self)
        takes_rest = any(action.nargs == argparse.REMAINDER for action in self._actions)
        if self._is_intermixing or takes_rest or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._is_intermixing = True  # a.b=c may also follow options; argparse calls this method again
        try:
            return super().parse_known_intermixed_args(args, namespace)
        finally:
            self._is_intermixing = False

    def read(self, words: Sequence[str] | None) -> Namespace:
        """Parse the command line; raise UserError for unknown arguments."""
        arguments, unknown = self.parse_known_args(words)
        if unknown:
            flags = [action for action in self._actions if isinstance(action, argparse._StoreTrueAction)]
            arguments.parser.refuse(unknown, [name for flag in flags for name in flag.option_strings])
        found: Namespace = arguments
        return found

    def error(self, message: str) -> NoReturn:
        choice = _INVALID_CHOICE.search(message)
        if choice:
            known = re.findall(r"[\w-]+", choice["known"])
            message += _nearest(choice["found"], known)
        raise UserError(f"{message}\nNext: {self.prog} --help")

    def refuse(self, unknown: Sequence[str], flags: Sequence[str] = ()) -> NoReturn:
        """Raise UserError that names an argument which this command does not take; every command takes the flags."""
        options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        found = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        is_option = found.startswith("-")
        problem = "has no option" if is_option else "does not take the argument"
        known = f"\nKnown: {', '.join(options)}" if is_option else ""
        raise UserError(
            f"{self.prog} {problem} {found!r}.{_nearest(found, [*options, *flags])}{known}\nNext: {self.prog} --help"
        )


def add_group(below: Any, name: str, summary: str, commands: Sequence[Command], required: bool = False) -> None:
    """Add the commands of a package to a parser; `below` is the object returned by add_subparsers."""
    listed = ", ".join(command.name for command in commands)
    package = below.add_parser(name, help=f"{summary}: {listed}", description=f"{summary[:1].upper()}{summary[1:]}.")
    package.set_defaults(run=None, command=None, parser=package)
    within = package.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser, required=required)
    for command in commands:
        add_command(within, command)


def add_command(below: Any, command: Command) -> None:
    """Add one command to a parser; `below` is the object returned by add_subparsers."""
    examples = "examples:\n" + "\n".join(f"  {example}" for example in command.examples) if command.examples else None
    parser = below.add_parser(
        command.name,
        declare=command.declare,
        help=command.summary,
        description=command.summary[:1].upper() + command.summary[1:] + ".",
        epilog=examples,
    )
    parser.set_defaults(run=command.run, command=command, parser=parser)


def _nearest(found: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""
