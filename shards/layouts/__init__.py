"""Layouts of video datasets, one module each; to add one, write a module like the existing ones and a line here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from pydantic import ValidationError

from trichord.core.errors import UserError
from trichord.core.registry import Registry
from trichord.shards.layouts.listing import Item, Layout, Listing

__all__ = ["LAYOUTS", "Item", "Layout", "Listing", "open_layout"]

LAYOUTS: Registry[type[Layout]] = Registry(
    "layouts",
    {
        "folder": f"{__name__}.folder:FolderLayout",
        "csv": f"{__name__}.csv_table:CsvLayout",
        "kinetics": f"{__name__}.kinetics:KineticsLayout",
        "charades": f"{__name__}.charades:CharadesLayout",
        "ucf101": f"{__name__}.ucf101:Ucf101Layout",
        "ucf11": f"{__name__}.ucf11:Ucf11Layout",
        "hmdb51": f"{__name__}.hmdb51:Hmdb51Layout",
        "ssv2": f"{__name__}.ssv2:Ssv2Layout",
        "msrvtt": f"{__name__}.msrvtt:MsrvttLayout",
        "msvd": f"{__name__}.msvd:MsvdLayout",
        "medmnist3d": f"{__name__}.medmnist3d:Medmnist3dLayout",
    },
)


def open_layout(name: str, options: Mapping[str, object] | None = None) -> Layout:
    """Return a layout by name, with its options; the error for a wrong name or option lists the valid ones."""
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"No layout {name!r}.{hint} Layouts: {', '.join(LAYOUTS)}. Next: trichord shards build --help")
    layout = LAYOUTS[name]
    try:
        return layout.model_validate(dict(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(layout.model_fields) or "none"
        raise UserError(f"Layout {name}: option {where!r}: {first['msg']}. Options of this layout: {known}.") from error
