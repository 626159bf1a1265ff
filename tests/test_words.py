"""Names, docstrings, comments and messages use the words of the glossary in docs/architecture.md."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path
    for folder in ("shards", "pretrain", "finetune", "launch", "trichord/core", "trichord/api", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Words of names (of modules, classes, functions, parameters and variables), and what to use instead.
NAMES = {
    **dict.fromkeys(("told", "tell", "tells", "telling"), "predicted, logged, generated, reported, given"),
    **dict.fromkeys(("said", "says"), "logged, reported, given"),
    "surprise": "nll, cross_entropy",
    "beginning": "init",
    "opening": "load, loading",
    "speaking": "decoding",
    **dict.fromkeys(("sense", "senses"), "modality"),
    **dict.fromkeys(("watcher", "eyes"), "inference, video encoder"),
    "trunk": "backbone",
    "feeder": "prefetcher",
    "viewing": "transforms",
    "hearing": "audio",
}
# In prose, as regular expressions.
PROSE = {
    r"\btold\b": "given, predicted, logged",
    r"\bsurprise\b": "nll, cross-entropy",
    r"\bfirst weights\b": "initial weights",
    r"\bway back\b|\bgoing backward\b": "backward pass",
    r"\bstands? still\b": "frozen",
    r"\bleft to chance\b": "random",
    r"\bwatchers?\b": "inference",
    r"\b(the|a|generated|synthetic) world\b": "synthetic data set",
    r"\b(each|other|own|both|which|two|every) senses?\b|\bsense of\b": "modality",
    r"\b1 (ranks|clips|shards|processes|steps|files)\b|\bone ranks\b": "the singular",
    r"\bwhereof\b|\bwherein\b|\bthereof\b|\bwho wants\b": "plain English",
}
SEEDS = {'"first weights"'}
# Names that a file format, a recipe or another library fixes.
FIXED = re.compile(r"^(first_weights|world_size|sense|senses)$")


def words_of(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word.lower() for word in spaced.split("_") if word]


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a module defines, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def prose_in(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments and strings with their lines; strings of one word, and those that seed draws, are data."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_text = token.type == tokenize.STRING and " " in token.string.strip("\"'") and token.string not in SEEDS
        if token.type == tokenize.COMMENT or is_text:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_prose_use_the_glossary(path: Path) -> None:
    text = path.read_text()
    found = [
        f"{path.name}:{line}: {name} ({NAMES[word]})"
        for line, name in [(1, path.stem), *names_in(ast.parse(text))]
        if not FIXED.match(name)
        for word in words_of(name)
        if word in NAMES
    ]
    found += [
        f"{path.name}:{line}: {match[0]} ({instead})"
        for line, words in prose_in(text)
        for pattern, instead in PROSE.items()
        if (match := re.search(pattern, words))
    ]
    assert not found
