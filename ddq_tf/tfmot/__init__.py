"""A bridge from TensorFlow Model Optimization (TFMOT), which lives on Keras 2 (tf_keras).

    pip install 'ddq_tf[tfmot]'

`from_tfmot` takes a project's model over, with what it learned. `DDQQuantizeScheme` and
`DDQQuantizeConfig` let `quantize_apply` train with learned ranges at 2 to 8 bits. Nothing of TFMOT
or tf_keras is imported before one of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ddq_tf.tfmot.convert import from_tfmot
from ddq_tf.tfmot.opened import quantize_scope

if TYPE_CHECKING:
    from ddq_tf.tfmot.quantizers import (
        DDQActivationQuantizer,
        DDQQuantizeConfig,
        DDQQuantizeScheme,
        DDQWeightQuantizer,
    )

__all__ = [
    "DDQActivationQuantizer",
    "DDQQuantizeConfig",
    "DDQQuantizeScheme",
    "DDQWeightQuantizer",
    "from_tfmot",
    "quantize_scope",
]


def __getattr__(name: str) -> Any:
    """Imports what stands on TFMOT's classes when it is first asked for."""
    if name in __all__:
        return getattr(importlib.import_module("ddq_tf.tfmot.quantizers"), name)
    raise AttributeError(f"module 'ddq_tf.tfmot' has no attribute {name!r}")
