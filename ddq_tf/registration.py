"""Keras learns of ddq_tf's layers as soon as both are imported, whichever comes first.

`keras.models.load_model` knows only classes that are registered. Keras takes seconds to import, so
`import ddq_tf` alone waits for it; and then registers stand-ins, which import what they stand for.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_HOMES = {
    "ddq_tf.layers": (
        "DDQActivation",
        "DDQAdd",
        "DDQBatchNormalization",
        "DDQBorderGain",
        "DDQConstant",
        "DDQConv2D",
        "DDQConv2DTranspose",
        "DDQDense",
        "DDQDepthwiseConv2D",
        "DDQFixedGrid",
        "DDQFunction",
        "DDQGroupNormalization",
        "DDQLayerNormalization",
        "DDQMask",
        "DDQMatmul",
        "DDQRMSNormalization",
        "DDQRescaling",
        "DDQSlice",
        "DDQSoftmax",
        "DDQState",
        "DDQUnitNormalization",
        "FloatConv2D",
        "FloatConv2DTranspose",
        "FloatDense",
        "FloatDepthwiseConv2D",
    ),
    "ddq_tf.quantizers": ("ActivationQuantizer", "WeightQuantizer"),
    "ddq_tf.search": ("DDQModel",),
    "ddq_tf.training": ("QuantizerLearningRate",),
}


def register() -> None:
    """Registers ddq_tf's classes with Keras now, or when Keras is imported."""
    if "keras" in sys.modules:
        _register_all()
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())


def _register_all() -> None:
    """Registers a stand-in for each class that Keras does not know yet."""
    saving: Any = importlib.import_module("keras.saving")
    for module, names in _HOMES.items():
        for name in names:
            if saving.get_registered_object(f"ddq_tf>{name}") is None:
                stand_in = _stand_in(module, name)
                saving.register_keras_serializable(package="ddq_tf", name=name)(stand_in)


def _stand_in(module: str, name: str) -> type:
    """A class that Keras can restore objects of; the real one takes its place when imported."""

    def get_config(self: Any) -> dict[str, Any]:
        raise NotImplementedError(f"a stand-in of {module}.{name} has no instances")

    def from_config(cls: type, config: dict[str, Any]) -> Any:
        return getattr(importlib.import_module(module), name).from_config(config)

    return type(name, (), {"get_config": get_config, "from_config": classmethod(from_config)})


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds Keras as Python does, once, and has ddq_tf register itself behind it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the specification of Keras, None for all else."""
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(importlib.abc.Loader):
    """A loader that registers behind another."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Creates the module as the other does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module, then registers."""
        self._loader.exec_module(module)
        _register_all()

    def __getattr__(self, name: str) -> Any:
        """All else, such as reading resources, is the other's."""
        return getattr(self._loader, name)


def load_model(path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Returns a saved model: `keras.models.load_model`, with ddq_tf's layers known to it.

    Args:
        path: of a .keras file.
        kwargs: of `keras.models.load_model`.

    Example:
        >>> model = ddq_tf.load_model("ddq.keras")  # doctest: +SKIP
    """
    keras: Any = importlib.import_module("keras")
    return keras.models.load_model(path, **kwargs)
