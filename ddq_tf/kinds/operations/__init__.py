"""Operations of `keras.ops`: of which layers each consists.

One table: an entry says what an operation is in layers, so that the rest of the package knows
layers only. Variables and constants that an operation multiplies with become weights of a layer.
"""

from ddq_tf.kinds.operations import (
    activations,
    casts,
    convolutions,
    elementwise,
    normalizations,
    parts,
    products,
    reductions,
    resizing,
    shapes,
    windows,
)
from ddq_tf.kinds.operations.elementwise import largest, smallest
from ddq_tf.kinds.rule import Family

FAMILY = Family(
    title="keras.ops",
    rules=(
        *activations.RULES,
        *elementwise.RULES,
        *products.RULES,
        *convolutions.RULES,
        *normalizations.RULES,
        *windows.RULES,
        *reductions.RULES,
        *resizing.RULES,
        *shapes.RULES,
        *parts.RULES,
        *casts.RULES,
    ),
)

__all__ = ["FAMILY", "largest", "smallest"]
