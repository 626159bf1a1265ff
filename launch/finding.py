"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `mend` says that it is wrong and what to do."""

    part: str
    what: str
    found: str
    mend: str | None = None
