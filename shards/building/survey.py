"""What a build would read: the listings of a dataset's splits, refused where they cannot make a shard set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trichord.core.errors import UserError
from trichord.shards.building.build_limits import check_groups, check_missing
from trichord.shards.layouts import Layout, Listing, open_layout


class Survey(NamedTuple):
    """A dataset as it lies on the disk."""

    layout: Layout
    listings: dict[str, Listing]  # of the chosen splits, in the order they were chosen


def survey(
    layout: str,
    root: Path,
    options: Mapping[str, object] | None = None,
    splits: Sequence[str] | None = None,
    max_missing_fraction: float = 0.05,
) -> Survey:
    """Read the listings. Groups are compared over all splits, chosen or not."""
    opened = open_layout(layout, options)
    if not root.exists():
        raise UserError(f"--root {root} does not exist. The layout {layout} expects:\n{opened.expects.rstrip()}")
    known = opened.splits(root)
    listings = {split: opened.read(root, split) for split in known}
    chosen = tuple(splits or known)
    for split in chosen:
        if split not in listings:
            raise UserError(f"{layout}: {root} has no split {split!r}. Next: --splits with some of: {', '.join(known)}")
        check_missing(listings[split], split, root, max_missing_fraction)
    check_groups(listings)
    return Survey(opened, {split: listings[split] for split in chosen})
