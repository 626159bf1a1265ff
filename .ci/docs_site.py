"""Hooks of mkdocs: links that lead out of docs/ work in the site as they do on a code host.

README.md becomes the first page. A source file that a page links to becomes a page that shows it, a folder one that
lists it; such pages lie under `source/` and are not in the navigation.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)#\s]+")  # the target of a relative link, without its anchor
CODE = re.compile(r"(^(`{3,}|~{3,}).*?^\2\s*$)", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".cff": "yaml", ".md": "markdown"}


def on_files(files: Files, config: Any) -> Files:
    """Add the first page, and a page for each source that some page links to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=readme))
    wanted = {source for file in files.documentation_pages() for source in _sources(file)}
    for source in sorted(wanted):
        files.append(File.generated(config, _page(source), content=_shown(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replace links out of docs/ by links to the pages made of their targets."""
    folder = _folder(page.file)
    if folder is None:
        return markdown
    return "".join(
        text if is_code else LINK.sub(lambda found: _inside(folder, found[0], page.file.src_uri), text)
        for text, is_code in _pieces(markdown)
    )


def _sources(file: File) -> list[str]:
    folder = _folder(file)
    if folder is None:
        return []
    targets = [target for text, is_code in _pieces(file.content_string) if not is_code for target in LINK.findall(text)]
    paths = [posixpath.normpath(posixpath.join(folder, target)) for target in targets]
    return [path for path in paths if not path.startswith("docs/") and path != "README.md"]


def _pieces(markdown: str) -> Iterator[tuple[str, bool]]:
    """Yield a page in pieces, each with whether it is a fenced block of code."""
    end = 0
    for block in CODE.finditer(markdown):
        yield markdown[end : block.start()], False
        yield block[0], True
        end = block.end()
    yield markdown[end:], False


def _folder(file: File) -> str | None:
    """Return the folder of the repository in which a page was written; None for the generated pages of sources."""
    if file.src_uri.startswith("source/"):
        return None
    return "" if file.src_uri == "index.md" else posixpath.dirname(f"docs/{file.src_uri}")


def _inside(folder: str, target: str, page: str) -> str:
    path = posixpath.normpath(posixpath.join(folder, target))
    if path == "README.md":
        new = "index.md"
    elif path.startswith("docs/"):
        new = path.removeprefix("docs/")
    else:
        new = _page(path)
    return posixpath.relpath(new, posixpath.dirname(page) or ".")


def _page(source: str) -> str:
    return f"source/{source}.md"


def _shown(source: str) -> str:
    """Return the Markdown page of a source file or folder."""
    path = ROOT / source
    if source.startswith("..") or not path.exists():
        raise PluginError(f"a page links to {source}, which does not exist")
    if path.is_dir():
        names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in path.iterdir())
        listed = "\n".join(f"- `{name}`" for name in names if not name.startswith(("_", ".")))
        return f"# {source}/\n\n{listed}\n"
    text = path.read_text(encoding="utf-8")
    fence = "~" * 8
    return f"# {source}\n\n{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text}\n{fence}\n"
