"""Products of tensors: of two activations, or of one and a kernel of any rank.

Both are written as Einstein sums: axes are permuted and joined until a matrix product is left.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
from keras.src.ops.numpy import Matmul

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds import checks
from ddq_tf.kinds.functions import activation_name
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQConstant, DDQMask, DDQMatmul, DDQRescaling

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers
_HIGHEST_RANK = 4
_MOST_TERMS = 2**31 // (255 * 128)  # whose sum 32 bits hold
_OF_ROWS = ("softmax", "log_softmax")  # which see the last axis


class Letters(NamedTuple):
    """An Einstein sum of two tensors: a letter for each axis.

    Attributes:
        left: of the first.
        right: of the second.
        writes: of the result.
    """

    left: str
    right: str
    writes: str

    @classmethod
    def of(cls, equation: str, rank: int) -> Letters | None:
        """Returns the letters of an equation, None if it is none of two tensors.

        Args:
            equation: as "abc,cd->abd" or "...x,xy->...y".
            rank: of the first tensor.
        """
        reads, _, writes = equation.replace(" ", "").partition("->")
        left, _, right = reads.partition(",")
        count = rank - len(left.replace("...", ""))
        free = "".join(c for c in string.ascii_letters if c not in equation)[: max(count, 0)]
        found = cls(left.replace("...", free), right, writes.replace("...", free))
        known = all(each.isalpha() and len(set(each)) == len(each) for each in found)
        return found if known and len(found.left) == rank else None

    @property
    def summed(self) -> str:
        """What both tensors have, and the result does not."""
        return "".join(c for c in self.left if c in self.right and c not in self.writes)

    @property
    def common(self) -> str:
        """What all three have, in the order of the result."""
        return "".join(c for c in self.writes if c in self.left and c in self.right)

    @property
    def of_left(self) -> str:
        """What only the first tensor and the result have."""
        return "".join(c for c in self.left if c in self.writes and c not in self.right)

    @property
    def of_right(self) -> str:
        """What only the second tensor and the result have."""
        return "".join(c for c in self.right if c in self.writes and c not in self.left)

    @property
    def is_product(self) -> bool:
        """Whether no axis is summed alone or copied, and the batch stays first."""
        known = (
            {*self.common, *self.of_left, *self.summed} == {*self.left}
            and {*self.common, *self.of_right, *self.summed} == {*self.right}
            and {*self.common, *self.of_left, *self.of_right} == {*self.writes}
        )
        return known and bool(self.summed) and self.left[0] == self.writes[0]

    @property
    def swapped(self) -> Letters:
        """The same sum with its tensors in the other order."""
        return Letters(self.right, self.left, self.writes)


def _sizes(letters: str, shape: Sequence[int | None]) -> dict[str, int]:
    return {c: size or 0 for c, size in zip(letters, shape, strict=True)}


def _ordered(steps: Steps, role: str, value: Value, letters: str, wanted: str) -> Value:
    """A value with its axes, named by letters, in another order; the batch is the first of both."""
    return steps.permuted(role, value, tuple(letters.index(c) for c in wanted[1:]))


# A tensor and a kernel


def dense(
    steps: Steps, value: Value, letters: Letters, kernel: Any, *, owner: Any = None, **options: Any
) -> Value | None:
    """Returns a tensor times a kernel: a Dense layer, between what moves axes.

    Args:
        steps: where it is written down.
        value: the tensor.
        letters: of tensor, kernel and result.
        kernel: a variable or a constant.
        owner: whose weights these are, where several calls share them.
        **options: of the layer; `bias`: the values of one, along the axes of the kernel alone.

    Returns:
        None if the equation has no such form.
    """
    shape, made = tuple(int(n) for n in kernel.shape), letters.of_right
    kept = letters.of_left
    fits = letters.is_product and not letters.common and len(kept) < _HIGHEST_RANK
    if not fits or len(shape) != len(letters.right) or None in value.shape[1:]:
        return None
    sizes = _sizes(letters.left, value.shape) | _sizes(letters.right, shape)
    terms, units = (math.prod(sizes[c] for c in part) for part in (letters.summed, made))
    activation, bias = options.pop("activation", None), options.pop("bias", None)
    value = _ordered(steps, "moved", value, letters.left, kept + letters.summed)
    value = steps.reshaped("rows", value, (*(sizes[c] for c in kept[1:]), terms))

    def built(name: str) -> Any:
        layer: Any = L.Dense(units, activation, use_bias=bias is not None, name=name, **options)
        layer.build(value.shape)
        order = [letters.right.index(c) for c in letters.summed + made]
        matrix = as_float64(keras.ops.convert_to_tensor(kernel)).transpose(order)
        layer.kernel.assign(matrix.reshape(terms, units))
        if bias is not None:
            layer.bias.assign(bias)
        return layer

    role = f"dense {letters}" if owner is not None else ""
    value = steps.call(role, built, value, owner=owner, label="")
    value = steps.reshaped("axes", value, tuple(sizes[c] for c in (kept + made)[1:]))
    return _ordered(steps, "written", value, kept + made, letters.writes)


def _einsum_dense(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A Dense layer, and behind it the activation if that sees axes that were joined."""
    layer, steps = node.layer, Steps(to, node)
    letters = Letters.of(layer.equation, len(node.shapes[0]))
    bias = None if letters is None or layer.bias is None else _bias(layer, letters)
    if letters is None or (bias is None) != (layer.bias is None):
        return [node]
    of_rows = activation_name(layer) in _OF_ROWS
    value = dense(
        steps,
        steps.inputs[0],
        letters,
        layer.kernel,
        owner=layer,
        bias=bias,
        activation=None if of_rows else layer.activation,
        kernel_regularizer=layer.kernel_regularizer,
        bias_regularizer=layer.bias_regularizer,
        activity_regularizer=layer.activity_regularizer,
    )
    if value is None:
        return [node]
    if of_rows:
        function = layer.activation
        value = steps.call("activation", lambda name: L.Activation(function, name=name), value)
    return steps.writing(value)


def _bias(layer: Any, letters: Letters) -> np.ndarray | None:
    """The bias along the axes of the kernel alone, or None if it has others."""
    made, values = letters.of_right, as_float64(layer.bias)
    axes = letters.writes[len(letters.writes) - values.ndim :]
    if any(size > 1 and c not in made for c, size in zip(axes, values.shape, strict=True)):
        return None
    sizes = dict(zip(letters.right, layer.kernel.shape, strict=True))
    full = values.reshape([1] * (len(letters.writes) - values.ndim) + [*values.shape])
    others = [c for c in letters.writes if c not in made]
    moved = full.transpose([letters.writes.index(c) for c in (*others, *made)])
    rows = moved.reshape(moved.shape[len(others) :])
    return np.broadcast_to(rows, [sizes[c] for c in made]).ravel()


def _check_einsum_dense(graph: FlatGraph, node: FlatNode) -> str | None:
    problem = checks.known_activation(node)
    return problem or (
        "needs an equation of a Dense on the last axes, as 'abc,cd->abd' or 'abc,cde->abde', at "
        "most four axes before and behind it, all sizes fixed, and a bias along the kernel's own "
        f"axes. Received: shape {node.shapes[0]}, equation={node.layer.equation!r}, "
        f"bias_axes={node.layer.bias_axes!r}"
    )


# Two tensors


def matrix_product(steps: Steps, left: Value, right: Value, role: str = "") -> Value | None:
    """Returns the product of the last two axes of two tensors that are alike before these."""
    ranks = len(left.shape), len(right.shape)
    is_known = None not in (*left.shape[1:], *right.shape[1:])
    if not is_known or ranks[0] != ranks[1] or ranks[0] < 3:
        return None
    if left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-2]:
        return None
    if ranks[0] > _HIGHEST_RANK:
        around = math.prod(size or 0 for size in left.shape[1:-2])
        name = f"{role}_" if role else ""
        rows = steps.reshaped(f"{name}left", left, (around, *left.shape[-2:]))
        columns = steps.reshaped(f"{name}right", right, (around, *right.shape[-2:]))
        made = steps.call(role, lambda name: DDQMatmul(name=name), rows, columns)
        target = (*left.shape[1:-1], right.shape[-1])
        return steps.reshaped(f"{name}axes", made, target)
    return steps.call(role, lambda name: DDQMatmul(name=name), left, right)


def einsum(
    steps: Steps, left: Value, right: Value, letters: Letters, role: str = ""
) -> Value | None:
    """Returns the Einstein sum of two tensors, None if it has no form as a matrix product.

    One number for each example has the shape (batch, 1).
    """
    fits = letters.is_product and len(letters.right) == len(right.shape) and letters.common
    known = None not in (*left.shape[1:], *right.shape[1:])
    if not fits or not known or letters.right[0] != letters.writes[0]:
        return None
    if letters.writes[-1] in letters.of_left:
        left, right, letters = right, left, letters.swapped
    sizes = _sizes(letters.left, left.shape) | _sizes(letters.right, right.shape)

    def size(part: str) -> int:
        return math.prod(sizes[c] for c in part)

    common, rows, summed, columns = (
        letters.common,
        letters.of_left,
        letters.summed,
        letters.of_right,
    )
    around = [size(common[1:])] if len(common) > 1 else []
    name = f"{role}_" if role else ""
    left = _ordered(steps, f"{name}left", left, letters.left, common + rows + summed)
    left = steps.reshaped(f"{name}rows", left, (*around, size(rows), size(summed)))
    right = _ordered(steps, f"{name}right", right, letters.right, common + summed + columns)
    right = steps.reshaped(f"{name}columns", right, (*around, size(summed), size(columns)))
    made = matrix_product(steps, left, right, role)
    if made is None:
        return None
    order = common + rows + columns
    if len(order) == 1:
        return steps.reshaped(f"{name}axes", made, (1,))
    made = steps.reshaped(f"{name}axes", made, tuple(sizes[c] for c in order[1:]))
    return _ordered(steps, f"{name}written", made, order, letters.writes)


def attention(
    steps: Steps,
    scale: float | None,
    bias: np.ndarray | None = None,
    kept: np.ndarray | None = None,
) -> Value | None:
    """Returns softmax(scale q k^T + bias) v of tensors of shape (batch, length, heads, dim).

    Args:
        steps: where it is written down; reads query, key and value.
        scale: None for 1 / sqrt(dim).
        bias: broadcasts to (heads, length of the query, length of the key); None for none.
        kept: likewise: what the softmax sees; None for all.
    """
    query, key, value = steps.inputs
    if len(query.shape) != _HIGHEST_RANK or None in query.shape[1:]:
        return None
    gain = (query.shape[-1] or 1) ** -0.5 if scale is None else scale
    query = steps.call("scaled", lambda name: DDQRescaling(gain, name=name), query)
    scores = einsum(steps, query, key, Letters("btnh", "bsnh", "bnts"), "scores")
    if scores is None:
        return None
    if bias is not None:
        constant = steps.call("bias", lambda name: DDQConstant.holding(bias, name), scores)
        scores = steps.call("biased", lambda name: L.Add(name=name), scores, constant)
    if kept is not None and not kept.all():
        kept = kept.reshape((1,) * (3 - kept.ndim) + kept.shape)
        scores = steps.call("mask", lambda name: DDQMask.keeping(kept, name), scores)
    weights = steps.call("weights", lambda name: L.Softmax(name=name), scores)
    return einsum(steps, weights, value, Letters("bnts", "bsnh", "btnh"))


def _dot(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    layer, steps = node.layer, Steps(to, node)
    ranks = [len(shape) for shape in node.shapes]
    if len(ranks) != 2 or max(ranks) > _HIGHEST_RANK:
        return [node]
    axes = [layer.axes] * 2 if isinstance(layer.axes, int) else layer.axes
    first, second = (axis % rank for axis, rank in zip(axes, ranks, strict=True))
    are_last = first == ranks[0] - 1 and second == ranks[1] - 1
    if 0 in (first, second) or (layer.normalize and not are_last):
        return [node]
    left = string.ascii_lowercase[: ranks[0]]
    right = [left[0], *string.ascii_uppercase[1 : ranks[1]]]
    right[second] = left[first]
    writes = "".join(c for c in (*left, *right[1:]) if c != left[first])
    x, y = steps.inputs
    if layer.normalize:
        x, y = (
            steps.call(f"norm_{n}", lambda name: L.UnitNormalization(name=name), each)
            for n, each in enumerate((x, y))
        )
    made = einsum(steps, x, y, Letters(left, "".join(right), writes))
    return [node] if made is None else steps.writing(made)


def _check_dot(graph: FlatGraph, node: FlatNode) -> str | None:
    shapes = " and ".join(map(str, node.shapes))
    return (
        "needs two tensors of fixed sizes, of rank 4 at most, and one axis that is not the batch, "
        f"the last with normalize=True. Received: shapes {shapes}, axes={node.layer.axes}, "
        f"normalize={node.layer.normalize}"
    )


def _check_terms(graph: FlatGraph, node: FlatNode) -> str | None:
    terms = node.shapes[0][-1] or 0
    if terms > _MOST_TERMS:
        return f"needs sums of at most {_MOST_TERMS} products. Received: {terms}"
    return None


# Integer operators


def _lower(into: Lowering, node: FlatNode) -> None:
    """BATCH_MATMUL."""
    reads = tuple(into.names[tensor] for tensor in node.inputs)
    writes = into.result(node, node.outputs[0])
    into.emit("BATCH_MATMUL", reads, writes, source=node.name)


_SEQUENCE = (12, 4)


FAMILY = Family(
    title="products of tensors",
    rules=(
        LayerRule(
            layers=(L.EinsumDense,),
            words="EinsumDense (of the last axes, as `abc,cde->abde`)",
            expand=_einsum_dense,
            problem=_check_einsum_dense,
            examples=(
                Example(
                    build=lambda x: L.EinsumDense("abc,cd->abd", (None, 6), "relu", "d")(x),
                    shape=_SEQUENCE,
                ),
                Example(
                    build=lambda x: L.EinsumDense("abc,cde->abde", (None, 2, 3), None, "de")(x),
                    shape=_SEQUENCE,
                ),
                Example(
                    build=lambda x: L.EinsumDense("abc,cde->aebd", (3, None, 2), "softmax", "d")(x),
                    shape=_SEQUENCE,
                ),
                Example(build=lambda x: L.EinsumDense("abcd,cde->abe", (None, 6), None, "e")(x)),
                Example(build=lambda x: L.EinsumDense("...x,xy->...y", 5)(x)),
            ),
        ),
        LayerRule(
            layers=(L.Dot,),
            words="Dot",
            expand=_dot,
            problem=_check_dot,
            examples=(
                Example(build=lambda x: L.Dot(1)([x, L.Dense(6)(x)]), shape=_SEQUENCE),
                Example(build=lambda x: L.Dot(-1)([x, L.Dense(4)(x)]), shape=_SEQUENCE),
                Example(build=lambda x: L.Dot(1)([x, L.Dense(7)(x)]), shape=(7,)),
                Example(build=lambda x: L.Dot(-1, normalize=True)([x, L.Dense(7)(x)]), shape=(7,)),
            ),
        ),
        LayerRule(
            layers=(DDQMatmul,),
            words="MultiHeadAttention, GroupQueryAttention and Attention (masks must not vary)",
            problem=_check_terms,
            output=Output.OWN,
            lower=_lower,
            operator="BATCH_MATMUL",
            operation=lambda layer, shape: Matmul(),
            factor=lambda node: 1.0,
            examples=(
                Example(
                    build=lambda x: L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True),
                    shape=_SEQUENCE,
                ),
                Example(
                    build=lambda x: L.MultiHeadAttention(2, 3, 2, output_shape=5)(
                        x, x[:, :7], return_attention_scores=True
                    )[0],
                    shape=_SEQUENCE,
                ),
                Example(
                    build=lambda x: L.MultiHeadAttention(2, 4, 3)(x, x, L.Dense(6)(x)),
                    shape=_SEQUENCE,
                ),
                Example(build=lambda x: L.GroupQueryAttention(3, 4, 2)(x, x), shape=_SEQUENCE),
                Example(build=lambda x: L.Attention()([x, L.Dense(4)(x)]), shape=_SEQUENCE),
            ),
        ),
    ),
)
