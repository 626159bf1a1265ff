"""The file from which a zip archive of any origin is read."""

from __future__ import annotations

import io

_MOST_AT_ONCE = 1 << 24  # of a directory: some hundred thousand members


class ZipSource(io.FileIO):
    """A file for `zipfile`, which reads an archive's directory in one piece, however large it claims to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or the rest; raise ValueError for more than a directory has."""
        asked = _MOST_AT_ONCE + 1 if size is None or size < 0 else size
        found = super().read(asked) if asked <= _MOST_AT_ONCE + 1 else b""
        if max(len(found), size or 0) > _MOST_AT_ONCE:
            raise ValueError(f"its directory is not of at most {_MOST_AT_ONCE:,} bytes")
        return found
