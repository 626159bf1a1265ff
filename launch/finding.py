"""The result type of `trichord doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check; a `mend` other than None means that it failed, and is the fix."""

    part: str
    what: str
    found: str
    mend: str | None = None
