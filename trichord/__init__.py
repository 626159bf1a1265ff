"""Pretrains video transformers together with sound and text, and puts what they learn to work.

Every name below is imported on first use, so that `import trichord` takes no time::

    import trichord

    model = trichord.load_model("runs/video_text")
    model.zeroshot("clip.mp4", ["opening a box", "jumping"])
    trichord.Index.open("vectors/val/index").search(text="a person opens a box")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trichord.api.backbones import create_backbone, list_models, load_weights
    from trichord.api.data import ShardSet, build_shards, open_shards, stream
    from trichord.api.models import Model, load_model
    from trichord.api.search import build_index, embed
    from trichord.api.training import evaluate, evaluate_retrieval, evaluate_zeroshot, train
    from trichord.core.errors import RunStopped, UserError
    from trichord.finetune.retrieval.index import Index
    from trichord.shards.reading.batch import Batch

_MODULES = {
    "trichord.api.backbones": ("create_backbone", "list_models", "load_weights"),
    "trichord.api.data": ("ShardSet", "build_shards", "open_shards", "stream"),
    "trichord.api.models": ("Model", "load_model"),
    "trichord.api.search": ("build_index", "embed"),
    "trichord.api.training": ("evaluate", "evaluate_retrieval", "evaluate_zeroshot", "train"),
    "trichord.core.errors": ("RunStopped", "UserError"),
    "trichord.finetune.retrieval.index": ("Index",),
    "trichord.shards.reading.batch": ("Batch",),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Batch",
    "Index",
    "Model",
    "RunStopped",
    "ShardSet",
    "UserError",
    "build_index",
    "build_shards",
    "create_backbone",
    "embed",
    "evaluate",
    "evaluate_retrieval",
    "evaluate_zeroshot",
    "list_models",
    "load_model",
    "load_weights",
    "open_shards",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'trichord' has no attribute {name!r}")
    found = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
