"""The README and the pages of docs/: marked blocks run, links lead somewhere, and what they name exists."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import warm
from tests.folders import write_shadowing_modules
from trichord.core.command import Command
from trichord.finetune.recipe import FINETUNING
from trichord.launch.commands import COMMANDS, CommandGroup
from trichord.pretrain.recipe import PRETRAINING
from trichord.pretrain.recipe_file import list_recipes
from trichord.shards.layouts import LAYOUTS

ROOT = Path(__file__).resolve().parent.parent
DOCS, README = ROOT / "docs", ROOT / "README.md"
SOURCES = ("trichord/core", "shards", "pretrain", "finetune", "launch", "benchmarks")
MARK = "<!-- executed -->\n"
MARKED = re.compile(re.escape(MARK) + r"```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
FENCED = re.compile(r"^ *```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
# A command line, up to the end of the line or the next command of a shell.
COMMAND_LINE = re.compile(r"\btrichord(?: --)? (?P<first>[a-z][\w-]*)(?![\w:-])(?P<rest>[^\n|;&`]*)")
PATH = re.compile(r"(tests|shards|pretrain|finetune|launch|benchmarks|docs|\.ci)/[\w/.-]+\.(py|yaml|md|txt)")
PROSE = ("runs", "set", "sets", "works")  # words that follow the project's name in sentences of messages
PLUG_IN = re.compile(r"^(\w+) = \"my_plugin\.commands:", re.MULTILINE)  # a command that a page declares itself
SHELLS = ("", "sh", "bash", "console")


def pages() -> list[Path]:
    """Return the README and the pages in the order of the site's navigation."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    names = re.findall(r"([\w-]+\.md)$", navigation, re.MULTILINE)
    return [README if name == "index.md" else DOCS / name for name in names]


PAGES = pages()
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


def test_marked_blocks_run_in_order_in_a_folder_with_shadowing_modules(tmp_path: Path) -> None:
    write_shadowing_modules(tmp_path)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "trichord").write_text(warm.command_of("trichord"))
    (binaries / "trichord").chmod(0o755)
    path = f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    count = 0
    for page in PAGES:
        blocks = list(MARKED.finditer(page.read_text()))
        assert len(blocks) == page.read_text().count(MARK), f"{page.name}: a mark has no block after it"
        for block in blocks:
            command = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}[block["language"]]
            code = block["code"]
            done = subprocess.run([*command, code], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stderr}"
            assert done.stdout, f"{page.name}:\n{code}\nprinted nothing"
            count += 1
    assert count >= 15


def test_every_page_is_in_the_navigation() -> None:
    assert {*DOCS.glob("*.md"), README} == set(PAGES)
    assert len(PAGES) == len(set(PAGES))


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 250


@EACH_PAGE
def test_links_point_to_existing_files_and_headings(page: Path) -> None:
    for link in (first or second for first, second in LINK.findall(_without_code(page.read_text()))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: {link} names no heading of {target.name}"


@EACH_PAGE
def test_named_tests_and_sources_exist(page: Path) -> None:
    for name in INLINE.findall(page.read_text()):
        if re.fullmatch(
            r"(tests|shards|pretrain|finetune|launch|benchmarks|docs|\.ci)/[\w/.-]+\.(py|yaml|md|txt)", name
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


@EACH_PAGE
def test_shown_commands_and_options_exist(page: Path) -> None:
    names = {*PROSE, *PLUG_IN.findall(page.read_text())}
    for text in _code(page.read_text()):
        for line in COMMAND_LINE.finditer(text.replace("\\\n", " ")):
            if line["first"] in names:
                continue
            commands = _commands_on(line)
            assert commands, f"{page.name}: {line[0]!r} is no command"
            known = {option for command in commands for option in _options(command)}
            used = set(re.findall(r"(?<=\s)--[a-z][\w-]*", line["rest"].partition(" #")[0]))
            assert used <= known | {"--help"}, f"{page.name}: {line[0]!r} has unknown options {used - known}"


def test_every_command_is_shown() -> None:
    shown = {command.name for page in PAGES for text in _code(page.read_text()) for command in _shown_in(text)}
    assert shown >= {command.name for command in _all_commands()}


def test_commands_in_messages_exist() -> None:
    found = 0
    for place, text in _messages():
        for line in COMMAND_LINE.finditer(text):
            if line["first"] not in PROSE:
                assert _commands_on(line), f"{place}: {line[0]!r} is no command"
                found += 1
    assert found > 100


def test_every_recipe_is_named() -> None:
    text = "".join(page.read_text() for page in PAGES)
    recipes = {*list_recipes(PRETRAINING.folder), *list_recipes(FINETUNING.folder)}
    assert {name for name in recipes if f"| `{name}` |" not in text} == set()
    table = (DOCS / "pretraining.md").read_text().partition("| recipe |")[2].partition("\n\n")[0]
    assert set(re.findall(r"\n\| `(\w+)` \|", table)) == set(list_recipes(PRETRAINING.folder))


def test_every_layout_is_named() -> None:
    table = (DOCS / "your-data.md").read_text().partition("| layout |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(LAYOUTS)


def test_named_make_targets_and_variables_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{page.name}: make {target}"
    variables = re.findall(r"\n\| `([A-Z_]+)`", README.read_text().partition("| variable |")[2].partition("\n\n")[0])
    assert len(variables) > 2
    for variable in variables:
        assert f"\n{variable} ?=" in makefile


def _without_code(text: str) -> str:
    return INLINE.sub("", FENCED.sub("", text))


def _code(text: str) -> Iterator[str]:
    """Yield the text of blocks in a shell's language, and of inline code."""
    for block in FENCED.finditer(text):
        if block["language"] in SHELLS:
            yield block["code"]
    yield from INLINE.findall(FENCED.sub("", text))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as code hosts make them, and those that it sets itself."""
    text = page.read_text()
    anchors = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        anchors.add(slug if slug not in anchors else f"{slug}-1")
    return anchors


def _all_commands() -> Iterator[Command]:
    for entry in COMMANDS.values():
        yield from entry.commands if isinstance(entry, CommandGroup) else [entry]


def _commands_on(line: re.Match[str]) -> list[Command]:
    """Return the commands of a command line: one, or for `launch` also the one that it submits; none if unknown."""
    words = [line["first"], *line["rest"].split()]
    first = COMMANDS.get(words[0])
    if first is None:
        return []
    if isinstance(first, CommandGroup):
        within = {command.name: command for command in first.commands}
        is_whole = len(words) == 1 or not re.fullmatch(r"[a-z]+", words[1])
        return list(within.values()) if is_whole else [within[words[1]]] if words[1] in within else []
    if first.name != "launch":
        return [first]
    submitted = [each for each in _all_commands() if each.name in words[1:] and each.job]
    return [first, *submitted]


def _shown_in(text: str) -> Iterator[Command]:
    for line in COMMAND_LINE.finditer(text):
        commands = _commands_on(line)
        yield from commands if len(commands) < 3 else []


@cache
def _options(command: Command) -> frozenset[str]:
    parser = argparse.ArgumentParser()
    command.declare(parser)
    return frozenset(name for action in parser._actions for name in action.option_strings)


def _messages() -> Iterator[tuple[str, str]]:
    """Yield the strings of the sources except docstrings; what an f-string inserts becomes an ellipsis."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            pieces = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            skipped = pieces | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.JoinedStr):
                    values = node.values
                    yield place, "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                    yield place, node.value
