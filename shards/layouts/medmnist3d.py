"""MedMNIST 3D: arrays of volumes, written as lossless clips whose frames are the slices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from trichord.core.errors import UserError
from trichord.core.reading import open_regular
from trichord.core.zip_source import ZipSource
from trichord.shards.layouts.listing import Item, Layout, Listing, key_from
from trichord.shards.record import Annotation

_MOST_CLASSES = 10_000
_MOST_BYTES = 1 << 30  # of an array, which a small file may hold in compressed form

# Shapes: volumes_NDHW, volume_DHW (slices first), labels_N.

_CLASSES = {
    "organ": (
        *("liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart", "lung-right"),
        *("lung-left", "spleen", "pancreas"),
    ),
    "nodule": ("benign", "malignant"),
    "adrenal": ("normal", "hyperplasia"),
    "fracture": ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
    "vessel": ("vessel", "aneurysm"),
    "synapse": ("inhibitory synapse", "excitatory synapse"),
}


class Medmnist3dLayout(Layout):
    """Layout of one npz file per data set, with {train,val,test}_images and _labels; nothing in it is unpickled.

    The clips are bit-exact in every mode of the build, because volumes are measurements.
    """

    name: ClassVar[str] = "medmnist3d"
    summary: ClassVar[str] = "MedMNIST 3D: *mnist3d*.npz volumes as lossless clips"
    expects: ClassVar[str] = """\
  ROOT/{organ,nodule,adrenal,fracture,vessel,synapse}mnist3d[_64].npz: one such file, or --root FILE.npz
    arrays train_images (N,D,H,W uint8), train_labels (N,1), and the same for val and test"""
    file: str | None = None
    slices_per_second: int = 14  # 28 slices make a clip of 2 s

    def splits(self, root: Path) -> tuple[str, ...]:
        """Return the splits whose arrays are in the file."""
        names = _array_names(self._archive(root))
        found = tuple(split for split in ("train", "val", "test") if f"{split}_images" in names)
        if not found:
            raise UserError(f"medmnist3d: {self._archive(root)} contains {names}, expected e.g. train_images")
        return found

    def list_split(self, root: Path, split: str) -> Listing:
        """List the volumes of a split by their index in the array."""
        path = self._archive(root)
        labels_N = _labels(path, f"{split}_labels")
        count = len(_array(path, f"{split}_images"))
        if len(labels_N) != count:
            raise UserError(f"medmnist3d: {path}: number of {split} labels: {len(labels_N)}, expected {count}")
        items = [
            Item(
                key=key_from(f"{path.stem}_{split}_{number:05d}"),
                path=path,
                annotation=Annotation(
                    labels=(int(label),), source=f"{path.name}:{split}_images[{number}]", split=split
                ),
                load=partial(lossless_volume, path, f"{split}_images", number, self.slices_per_second),
            )
            for number, label in enumerate(labels_N)
        ]
        return Listing(_class_names(path, labels_N), items)

    def _archive(self, root: Path) -> Path:
        if root.is_file():
            return root
        if self.file is not None:
            return self.find(root, "volume file", [self.file])
        found = sorted(root.glob("*mnist3d*.npz"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"medmnist3d: {root} has {names}. Next: choose one, e.g. --option file={found[0].name}")
        if not found:
            raise self.not_found("volume file", ["*mnist3d*.npz"], root)
        return found[0]


def lossless_volume(path: Path, name: str, number: int, slices_per_second: int) -> bytes:
    """Return volume `number` of an array as an mp4 that decodes to exactly the same grey values."""
    from trichord.shards.building.transcode import lossless_gray  # listing does not need the codec library

    return lossless_gray(_array(path, name)[number], slices_per_second)


def _labels(path: Path, name: str) -> NDArray[np.int64]:
    found = _array(path, name).reshape(-1)
    if (
        not np.issubdtype(found.dtype, np.integer)
        or not 0 <= found.min(initial=0) <= found.max(initial=0) < _MOST_CLASSES
    ):
        raise UserError(f"medmnist3d: {path}: expected {name} to be integers from 0 to {_MOST_CLASSES - 1:,}")
    return found.astype(np.int64)


def _class_names(path: Path, labels_N: NDArray[np.int64]) -> tuple[str, ...]:
    for stem, classes in _CLASSES.items():
        if path.name.startswith(f"{stem}mnist3d"):
            return classes
    return tuple(str(number) for number in range(int(labels_N.max(initial=-1)) + 1))


def _array_names(path: Path) -> list[str]:
    with _opened(path) as archive:
        return list(archive.files)


@lru_cache(maxsize=4)
def _array(path: Path, name: str) -> NDArray[np.uint8]:
    """Load an entire array; an array in an npz is compressed as a whole, so a worker reads it once for all volumes."""
    if name not in _array_names(path):
        raise UserError(f"medmnist3d: {path} has no array {name}")
    with _opened(path) as archive:
        found: NDArray[np.uint8] = archive[name]
        if not isinstance(found, np.ndarray):  # NumPy returns the bytes of what does not begin as an array
            raise ValueError(f"{name} is not an array")
    if name.endswith("_images") and (found.dtype != np.uint8 or found.ndim != 4):
        raise UserError(f"medmnist3d: {name} is {found.dtype} {found.shape}, expected uint8 (N, slices, height, width)")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    """Open an npz file; raise UserError if it, or what is read from it, is damaged, not an array, or too large."""
    try:
        open_regular(path).close()
        with ZipSource(path) as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, NpzFile) or archive.zip is None:
                raise ValueError("it is one array")
            large = [member for member in archive.zip.infolist() if member.file_size > _MOST_BYTES]
            if large:
                raise ValueError(f"{large[0].filename[:80]} has {large[0].file_size:,} bytes once unpacked")
            yield archive
    except UserError:
        raise
    # NumPy, zipfile and zlib raise a dozen kinds of errors for damaged archives and headers, MemoryError among them.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"medmnist3d: {path} is not an npz whose arrays can be read without unpickling ({reason}). "
            "Next: download it again"
        ) from error
