"""Make torchvision and torchaudio wheels that were built for CUDA importable beside a CPU build of torch.

Where an index has wheels for the same build as torch, the installer takes those and this module has no effect. The
wheels of the default index contain native code that needs CUDA's runtime. Beside a CPU build of torch, `import
torchaudio` then fails, and so does `import torchvision` (hence open_clip, timm and many models of transformers),
because it describes operators that its native code never registered. Nothing in this project needs that native code,
so the operators are declared without an implementation, and torchaudio gets the extension module of a build without
native code. Nothing is changed beside a GPU build of torch.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_TORCHAUDIO_NATIVE = "torchaudio._extension"

_declarations: list[Any] = []  # torch forgets operators when the object that declared them is collected


@functools.cache
def make_importable() -> None:
    """Make both libraries importable; call before the first import of them, or of a library that imports them."""
    if not _torch_is_for_cpu():
        return
    if "torchvision" not in sys.modules and not native_code_loads("torchvision"):
        _declare_torchvision_operators()
    if "torchaudio" not in sys.modules and not native_code_loads("torchaudio"):
        sys.modules[_TORCHAUDIO_NATIVE] = _torchaudio_without_native_code()


def native_code_loads(package: str) -> bool:
    """Return whether the package is absent, has no native code, or has native code whose linked libraries are found."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    import torch  # noqa: F401  (the libraries link to torch's)

    try:
        for folder in folders:
            for library in (*folder.glob("_C*.so"), *folder.glob("lib/_torchaudio*.so")):
                ctypes.CDLL(str(library))
    except OSError:
        return False
    return True


def _torch_is_for_cpu() -> bool:
    import torch

    return torch.version.cuda is None and getattr(torch.version, "hip", None) is None


def _declare_torchvision_operators() -> None:
    """Declare the operators whose shapes torchvision describes on import."""
    import torch

    make_library: Any = torch.library.Library  # its constructor is untyped
    library = make_library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declarations.append(library)


def _torchaudio_without_native_code() -> ModuleType:
    """Return a `torchaudio._extension` that reports every native part as absent."""

    def fail_if_no_align(function: Any) -> Any:
        def refuse(*arguments: object, **options: object) -> NoReturn:
            raise RuntimeError(f"{function.__name__} needs torchaudio's native code, which does not fit this torch")

        return refuse

    module = ModuleType(_TORCHAUDIO_NATIVE)
    module.__spec__ = ModuleSpec(_TORCHAUDIO_NATIVE, None)
    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        _load_lib=lambda lib: False,
        fail_if_no_align=fail_if_no_align,
    )
    return module
