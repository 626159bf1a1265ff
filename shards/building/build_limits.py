"""What a build refuses: groups on two sides of a split, too many missing files, too many that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trichord.core.errors import UserError
from trichord.shards.building.build_summary import count_causes
from trichord.shards.building.shard_file import Skipped
from trichord.shards.layouts import Listing

_NAMED = 12  # how many offenders an error message names; the rest stands in build.json


def check_groups(listings: Mapping[str, Listing]) -> None:
    """Refuse splits that share a group: clips of one source on both sides make a test worthless."""
    sides: dict[str, set[str]] = {}
    for split, listing in listings.items():
        for item in listing.items:
            if item.annotation.group is not None:
                sides.setdefault(item.annotation.group, set()).add(split)
    shared = {group: sorted(of) for group, of in sorted(sides.items()) if len(of) > 1}
    if shared:
        named = "\n  ".join(f"{group}: {', '.join(of)}" for group, of in list(shared.items())[:_NAMED])
        raise UserError(
            f"{len(shared)} groups are in more than one split:\n  {named}\n"
            "Clips of one group come from one source, so every group must be in one split only. "
            "Next: mend the column or list that assigns splits."
        )


def check_missing(listing: Listing, split: str, root: Path, max_missing_fraction: float) -> None:
    """Refuse a split of which too much is not on the disk."""
    listed = len(listing.items) + len(listing.missing)
    if listed == 0:
        raise UserError(f"The split {split} under {root} lists no clip at all.")
    if len(listing.missing) > max_missing_fraction * listed or not listing.items:
        named = "\n  ".join(listing.missing[:_NAMED])
        share = len(listing.missing) / listed
        raise UserError(
            f"{len(listing.missing)} of the {listed} files listed for {split} are not under {root} ({share:.1%}):\n"
            f"  {named}\nThe limit is {max_missing_fraction:.1%}. "
            f"Next: put them there, or accept it with --max-missing-fraction {min(1.0, share + 0.01):.2f}"
        )


def check_bad(skipped: Sequence[Skipped], clips: int, max_bad_fraction: float, split: str) -> None:
    """Stop as soon as it is certain that too many clips of a split cannot be used."""
    if len(skipped) > max_bad_fraction * clips:
        named = "\n  ".join(f"{each.key} ({each.source}): {each.cause}: {each.detail}" for each in skipped[:_NAMED])
        causes = ", ".join(f"{cause}: {count}" for cause, count in count_causes(skipped).items())
        raise UserError(
            f"{len(skipped)} of the {clips} clips of {split} cannot be used ({causes}); the limit is "
            f"{max_bad_fraction:.1%}:\n  {named}\n"
            "Next: replace these files, or accept the loss with a larger --max-bad-fraction."
        )
