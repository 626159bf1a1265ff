"""The code keeps its structure: imports point down, files stay short, and what is imported is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trichord"
LAYERS = ("core", "shards", "pretrain", "finetune", "api", "launch")  # each imports only those before it
OF_THE_PACKAGE = ("core", "api")  # the others are folders at the top of the repository
LONGEST_FILE = 300
MOST_IMPORTS_IN_FUNCTIONS = 90
LONGEST_FUNCTION = 80
# Modules that need the extra `page`.
OF_THE_PAGE = {f"finetune/page/{name}.py" for name in ("access", "app", "connections", "requests", "serving")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROVIDERS = packages_distributions()
HEAVY = {"torch", "torchaudio", "torchvision", "numpy", "av", "transformers", "deepspeed", "open_clip", "webdataset"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted(folder_of(folder).rglob("*.py"))]


def folder_of(layer: str) -> Path:
    return PACKAGE / layer if layer in OF_THE_PACKAGE else ROOT / layer


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported_modules(nodes: Iterator[ast.AST]) -> set[str]:
    """Return the modules that these nodes import, or the names that they import from one."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that what they reach can be seen"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Return the top-level packages that these nodes import."""
    return {name.partition(".")[0] for name in imported_modules(nodes)}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the code that runs on import: not the bodies of functions, not code for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from at_import(child)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_only_point_down(layer: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(layer) + 1], "", "__version__"}
    for path in sources(layer):
        for name in imported_modules(ast.walk(ast.parse(path.read_text()))):
            first, _, rest = name.partition(".")
            assert first not in {*LAYERS, "tests", "benchmarks"}, f"{name_of(path)} imports {name}"
            if first == "trichord":
                assert rest.partition(".")[0] in allowed, f"{name_of(path)} imports {name}"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("trichord", *parts) if parts[0] != "trichord" else parts).removesuffix(".__init__")


def test_no_import_cycles() -> None:
    """Imports inside functions and for type checkers count as well, as do those of a module by itself."""
    paths = {module_of(path): path for path in sources(*LAYERS)}
    edges = {
        module: {
            target
            for name in imported_modules(ast.walk(ast.parse(path.read_text())))
            for target in [name if name in paths else name.rpartition(".")[0]]
            if target in paths
        }
        for module, path in paths.items()
    }
    while leaves := [module for module, targets in edges.items() if not targets]:
        for leaf in leaves:
            del edges[leaf]
        for targets in edges.values():
            targets.difference_update(leaves)
    assert not edges, f"a circle, and what leads to it: {sorted(edges)}"


def test_trichord_is_the_only_package_and_links_to_the_four_folders() -> None:
    links = {path.name: path.readlink() for path in PACKAGE.iterdir() if path.is_symlink()}
    assert links == {layer: Path("..", layer) for layer in LAYERS if layer not in OF_THE_PACKAGE}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["setuptools"]["packages"]["find"]["include"] == ["trichord", "trichord.*"]
    assert PROJECT["scripts"] == {"trichord": "trichord.launch.cli:main"}
    folders = {path.parent for path in sources(*LAYERS)}
    assert all((folder / "__init__.py").exists() for folder in folders)


@pytest.mark.parametrize(
    "path", [*sources("launch"), ROOT / "shards/commands.py", folder_of("core") / "command.py"], ids=name_of
)
def test_command_line_imports_nothing_heavy(path: Path) -> None:
    assert not imported(at_import(ast.parse(path.read_text()))) & HEAVY


@pytest.mark.parametrize("path", sources(*LAYERS), ids=name_of)
def test_files_and_functions_are_short_and_documented(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= LONGEST_FILE
    assert ast.get_docstring(tree), "a module opens with one sentence on what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_imports_are_at_the_top_of_modules() -> None:
    """Imports inside functions are for optional libraries, for networks that a spec builds, and for fast help."""
    inside = [
        f"{name_of(path)}:{line}"
        for path in sources(*LAYERS)
        for line in {
            node.lineno
            for function in ast.walk(ast.parse(path.read_text()))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
    ]
    assert len(inside) <= MOST_IMPORTS_IN_FUNCTIONS, inside


def test_no_two_public_classes_have_the_same_name() -> None:
    places: dict[str, list[str]] = {}
    for path in sources(*LAYERS):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_kinds_are_compared_in_registries_only() -> None:
    """Everything else asks the spec: no comparison of a `kind`, and no match on one."""
    found = []
    for path in sources(*LAYERS):
        for node in ast.walk(ast.parse(path.read_text())):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            values = [each.value for side in sides for each in ast.walk(side) if isinstance(each, ast.Constant)]
            sides = sides if any(isinstance(value, str) for value in values) else []
            sides += [node.subject] if isinstance(node, ast.Match) else []
            if any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert not found


def test_no_module_has_a_catch_all_name() -> None:
    names = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
    assert not [name_of(path) for path in sources(*LAYERS, "tests") if path.name in names]


def test_imported_packages_are_declared() -> None:
    declared = required() | optional()
    for path in sources(*LAYERS, "tests"):
        for name in (
            imported(ast.walk(ast.parse(path.read_text())))
            - {"trichord", "tests", "benchmarks"}
            - sys.stdlib_module_names
        ):
            assert owners(name) & declared, f"{name_of(path)} imports {name}, which pyproject.toml does not declare"


def test_optional_packages_are_not_imported_at_module_level() -> None:
    for path in sources(*LAYERS):
        if name_of(path) in OF_THE_PAGE:
            continue
        for name in imported(at_import(ast.parse(path.read_text()))):
            missing = owners(name) & (optional() - required())
            assert not missing, f"{name_of(path)} needs the extra that brings {name} just to be imported"


def test_page_is_imported_only_by_itself_and_inside_its_command() -> None:
    of_the_page = {name.removesuffix(".py").replace("/", ".") for name in OF_THE_PAGE}
    for path in sources(*LAYERS):
        for node in at_import(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in of_the_page:
                assert name_of(path) in OF_THE_PAGE, f"{name_of(path)} needs the extra page just to be imported"


def required() -> set[str]:
    return {distribution(text) for text in PROJECT["dependencies"]}


def optional() -> set[str]:
    return {distribution(text) for texts in PROJECT["optional-dependencies"].values() for text in texts}


def owners(package: str) -> set[str]:
    """Return the distributions that provide a package; one that is not installed has its own name."""
    return {normal(owner) for owner in PROVIDERS.get(package, [package])}


def distribution(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return normal(found[0])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_docstrings_of_functions_start_with_the_imperative() -> None:
    words = re.compile(r"(Give|Say|Tell|Let)\b")
    for path in sources(*LAYERS):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert not words.match(ast.get_docstring(node) or ""), f"{name_of(path)}: {node.name}"
