"""DDQ: learned mixed-precision quantization for Keras, exported to int8/int4-packed TFLite."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ddq_tf.config import Budget, DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.latency import LatencyBudget, LatencyTable
from ddq_tf.recipes import ReconstructionConfig
from ddq_tf.registration import load_model, register
from ddq_tf.rules import Rule
from ddq_tf.targets import TARGETS, Target

if TYPE_CHECKING:
    from ddq_tf import export as export
    from ddq_tf import models as models
    from ddq_tf.reconstruction import reconstruct_model
    from ddq_tf.search import DDQModel, PrecisionSearch
    from ddq_tf.transform import KernelRange, Ranges, quantize_model

__version__ = "0.2.0"

__all__ = [
    "TARGETS",
    "Budget",
    "DDQConfig",
    "DDQError",
    "DDQModel",
    "KernelRange",
    "LatencyBudget",
    "LatencyTable",
    "PrecisionSearch",
    "Ranges",
    "ReconstructionConfig",
    "Rule",
    "Target",
    "load_model",
    "quantize_model",
    "reconstruct_model",
]

# Loaded on first use: Keras takes seconds to import, and `ddq --help` or a report need none of it.
_LAZY = {
    "DDQModel": "ddq_tf.search",
    "KernelRange": "ddq_tf.transform",
    "Ranges": "ddq_tf.transform",
    "PrecisionSearch": "ddq_tf.search",
    "quantize_model": "ddq_tf.transform",
    "reconstruct_model": "ddq_tf.reconstruction",
}
_LAZY_MODULES = ("callbacks", "data", "export", "layers", "models", "tfmot", "training")


def __getattr__(name: str) -> Any:
    """Imports what needs Keras when it is first asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"ddq_tf.{name}")
    raise AttributeError(f"module 'ddq_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists what is lazy too."""
    return sorted({*globals(), *_LAZY, *_LAZY_MODULES})


register()
