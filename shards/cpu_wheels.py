"""Lets torchvision and torchaudio wheels that were linked against CUDA be imported beside a CPU build of torch.

The wheels of both libraries on the usual index carry native code that needs CUDA's runtime. Beside a CPU build of torch
`import torchaudio` then fails outright, and `import torchvision` (hence open_clip, timm and the models of transformers)
fails because it describes operators that its native code never registered. Nothing of this project needs that native
code, so on a CPU build the two gaps are filled: the operators are declared, without an implementation, and torchaudio
gets the answers it would compute itself had it been built in pure Python. On a CUDA or ROCm build, or where the native
code loads, nothing is touched. Until one of the two libraries is imported this costs nothing: torch stays unimported.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# Each is imported by its package before anything else of it that would miss the native code.
_TORCHVISION_GAP = "torchvision._meta_registrations"
_TORCHAUDIO_GAP = "torchaudio._extension"

_declarations: list[Any] = []  # torch forgets the operators when the object that declared them is collected


class _NativeCodeFinder(importlib.abc.MetaPathFinder):
    """Steps in at two modules, once each; every other import passes by on two comparisons of strings."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == _TORCHVISION_GAP and _torch_is_for_cpu():
            _declare_torchvision_operators()
        elif fullname == _TORCHAUDIO_GAP and _torch_is_for_cpu() and not _torchaudio_loads(path or ()):
            return importlib.machinery.ModuleSpec(fullname, _PurePythonTorchaudio())
        return None


class _PurePythonTorchaudio(importlib.abc.Loader):
    """Stands for `torchaudio._extension` with every native part reported as absent."""

    def exec_module(self, module: ModuleType) -> None:
        def fail_if_no_align(function: Any) -> Any:
            def refuse(*arguments: object, **options: object) -> NoReturn:
                raise RuntimeError(f"{function.__name__} needs torchaudio's native code, which does not fit this torch")

            return refuse

        vars(module).update(
            _IS_TORCHAUDIO_EXT_AVAILABLE=False,
            _IS_ALIGN_AVAILABLE=False,
            _check_cuda_version=lambda: None,
            _load_lib=lambda lib: False,
            fail_if_no_align=fail_if_no_align,
        )


def install() -> None:
    """Put the finder in front of Python's own; doing it twice changes nothing."""
    if not any(isinstance(finder, _NativeCodeFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NativeCodeFinder())


def _torch_is_for_cpu() -> bool:
    import torch

    return torch.version.cuda is None and getattr(torch.version, "hip", None) is None


def _declare_torchvision_operators() -> None:
    """Declare the operators whose shapes torchvision describes on import, whether or not they exist."""
    import torch

    if importlib.import_module("torchvision.extension")._has_ops():
        return
    make_library: Any = torch.library.Library  # its constructor carries no types
    library = make_library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.append(library)


def _torchaudio_loads(package_path: Sequence[str]) -> bool:
    libraries = [file for folder in package_path for file in Path(folder, "lib").glob("_torchaudio*.so")]
    try:
        for library in libraries:
            ctypes.CDLL(str(library))
    except OSError:
        return False
    return True
