"""Numbers that stand beside activations: learned positions, class tokens, masks.

`ddq_tf.graph.flatten` finds them among the arguments of calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds.functions import activation_name
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output
from ddq_tf.kinds.training_only import lower_alias
from ddq_tf.layers import DDQConstant, DDQMask, DDQSoftmax

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering

L = keras.layers
_ops: Any = keras.ops


def _lower_constant(into: Lowering, node: FlatNode) -> None:
    """No operator: a constant, on the grid of its quantizer."""
    into.fixed_codes(node, node.layer.value)


def _check_mask(graph: FlatGraph, node: FlatNode) -> str | None:
    """What is masked stands for minus infinity, which lies on no grid."""
    after = graph.sole_consumer(node.outputs[0])
    is_softmax = after is not None and (
        isinstance(after.layer, DDQSoftmax)
        or (isinstance(after.layer, L.Softmax | L.Activation) and _is_softmax(after.layer))
    )
    if not is_softmax:
        found = "no layer alone" if after is None else f"{after.name!r}"
        return f"needs a softmax over the last axis as the only reader. Received: {found} reads it"
    kept = np.asarray(keras.ops.convert_to_numpy(node.layer.kept))
    if not kept.any(axis=-1).all():
        return "needs something in each row that is not masked. Received: a row where all is"
    return None


def _is_softmax(layer: Any) -> bool:
    return activation_name(layer) == "softmax"


def _tokens(x: Any) -> Any:
    return np.random.default_rng(0).normal(size=(1, *x.shape[1:])).astype(np.float32)


def _with_class(x: Any) -> Any:
    """A class token and learned positions."""
    token = _ops.broadcast_to(_tokens(x[:, :1]), (_ops.shape(x)[0], 1, x.shape[-1]))
    joined = _ops.concatenate([token, x, token, x * 0.5], 1)
    return joined + _tokens(joined)


def _with_channels(x: Any) -> Any:
    """A channel behind the others, as for coordinates."""
    held = _ops.broadcast_to(_tokens(x)[..., :1], (_ops.shape(x)[0], *x.shape[1:-1], 1))
    return _ops.concatenate([x, held], -1)


FAMILY = Family(
    title="constants",
    rules=(
        LayerRule(
            layers=(DDQConstant,),
            words="tensors of weights or numbers that are added, subtracted, multiplied with or "
            "joined (positions, class tokens)",
            output=Output.OWN,
            lower=_lower_constant,
            examples=(
                Example(build=lambda x: x + _tokens(x)),
                Example(build=lambda x: _ops.subtract(_tokens(x)[:, :, :1], x)),
                Example(build=lambda x: x * _tokens(x)),
                Example(build=lambda x: L.ReLU()(x + _tokens(x)), shape=(12, 4)),
                Example(build=lambda x: L.Lambda(_with_class)(x), shape=(12, 4)),
                Example(build=lambda x: L.Lambda(_with_channels)(x)),
            ),
        ),
        LayerRule(
            layers=(DDQMask,),
            words="masks of a softmax that do not vary (`use_causal_mask`, "
            "`where(mask, x, -inf)`, numbers below -50 that are added)",
            problem=_check_mask,
            output=Output.KEEPS,
            in_floats=True,
            lower=lower_alias,
            examples=(
                Example(
                    build=lambda x: L.Softmax()(x, mask=np.tri(12, 4, dtype=bool)[None]),
                    shape=(12, 4),
                ),
                Example(build=lambda x: _ops.softmax(x + np.array([0, -np.inf, 0, -1e9]))),
            ),
        ),
    ),
)
