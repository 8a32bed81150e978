"""tensorflow_model_optimization and tf_keras, which nothing else of ddq_tf needs."""

from __future__ import annotations

import importlib
from typing import Any

from ddq_tf.errors import DDQError

_CURE = "pip install 'ddq_tf[tfmot]' (tensorflow-model-optimization and tf_keras)"


def tf_keras() -> Any:
    """Returns Keras 2, as `tf_keras`."""
    return _imported("tf_keras")


def tfmot() -> Any:
    """Returns TensorFlow Model Optimization."""
    tf_keras()  # without it, tfmot takes Keras 3 and fails later
    return _imported("tensorflow_model_optimization")


def inner(path: str) -> Any:
    """Returns a module of TensorFlow Model Optimization that it does not export.

    Args:
        path: behind `tensorflow_model_optimization.python.core`.
    """
    tfmot()
    return _imported(f"tensorflow_model_optimization.python.core.{path}")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DDQError(f"this needs {name.split('.')[0]}: {_CURE}. {error}") from error
