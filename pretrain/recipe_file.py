"""Recipe files: find them by name, and read them."""

from __future__ import annotations

import difflib
from pathlib import Path

from trichord.core.errors import UserError

FOLDER = Path(__file__).parent / "recipes"
SUFFIX = ".yaml"


def find_recipe(name: str, beside: Path | None = None, folder: Path = FOLDER) -> Path:
    """Return the path of a recipe given its name in `folder` or its file; `beside` is the base of relative paths."""
    path = (beside or Path()) / name
    if path.suffix == SUFFIX and path.is_file():
        return path
    shipped = list_recipes(folder)
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(
        f"no recipe or file is called {name!r}.{hint}\nRecipes: {', '.join(shipped)}; or the path of a {SUFFIX} file"
    )


def list_recipes(folder: Path = FOLDER) -> dict[str, Path]:
    """Return the recipes in a folder by name; by default the pretraining recipes shipped with trichord."""
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def first_comment(path: Path) -> str:
    """Return the first comment line of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").rstrip()
