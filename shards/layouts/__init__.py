"""The layouts people's videos come in, one file each; a new one is a copy of a neighbour's outline and a line here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module

from pydantic import ValidationError

from trichord.core.errors import UserError
from trichord.shards.layouts.listing import Item, Layout, Listing

__all__ = ["LAYOUTS", "Item", "Layout", "Listing", "open_layout"]

# What each is, in a line for `--help`; a layout's code is imported when it is asked for.
LAYOUTS: dict[str, str] = {
    "folder": "class folders: ROOT/[train|val|test/]CLASS/VIDEO",
    "csv": "a table with a header: path, caption(s), labels, intervals, group, split, start, end",
    "kinetics": "Kinetics-400/600/700: annotations/{train,val,test}.csv|txt and flat or class folders",
    "charades": "Charades_v1_{train,test}.csv, Charades_v1_classes.txt and ID.mp4",
    "ucf101": "UCF-101/CLASS/*.avi and ucfTrainTestlist (fold=1|2|3)",
    "ucf11": "UCF11_updated_mpg/CLASS/GROUP/*.mpg, leave one group out (fold=1..25)",
    "hmdb51": "CLASS/*.avi and testTrainMulti_7030_splits (fold=1|2|3)",
    "ssv2": "Something-Something v2: label JSON of 20bn or Qualcomm and ID.webm",
    "msrvtt": "MSR-VTT: videodatainfo JSON (protocol=full|1k-A, train=9k|7k)",
    "msvd": "MSVD: YouTubeClips/*.avi, AllVideoDescriptions.txt and split lists or youtube_mapping.txt",
    "medmnist3d": "MedMNIST 3D: *mnist3d*.npz volumes as lossless clips",
}
_MODULES = {"csv": "csv_table"}


def open_layout(name: str, options: Mapping[str, object] | None = None) -> Layout:
    """Give a layout by name, with its options; a wrong name or option lists the right ones."""
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"No layout {name!r}.{hint} Layouts: {', '.join(LAYOUTS)}. Next: trichord shards build --help")
    module = import_module(f"shards.layouts.{_MODULES.get(name, name)}")
    layout: type[Layout] = module.LAYOUT
    try:
        return layout.model_validate(dict(options or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(layout.model_fields) or "none"
        raise UserError(f"Layout {name}: option {where!r}: {first['msg']}. Options of this layout: {known}.") from error
