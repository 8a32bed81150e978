"""Products of matrices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras.src.ops import nn
from keras.src.ops import numpy as op

from ddq_tf.graph import MOST_MASKED, FlatNode, numbers
from ddq_tf.kinds.operations.entry import SEQUENCE, Made, example_numbers, ops, table_entry
from ddq_tf.kinds.operations.weights import kernel_at, owner_of, weighted
from ddq_tf.kinds.products import Letters, attention, dense, einsum, matrix_product
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps, Value

L = keras.layers


def _product(steps: Steps, node: FlatNode) -> Made:
    """Of a tensor and a matrix: a dense layer without bias."""
    kernel = kernel_at(node, 1, 2)
    if kernel is None or not _contracts_one(node):
        return None
    return _dense(steps, steps.inputs[0], kernel)


def _contracts_one(node: FlatNode) -> bool:
    axes = getattr(node.layer, "axes", 1)
    last = len(node.shapes[0]) - 1
    return axes == 1 or axes in ([[last], [0]], ([last], [0]), ((last,), (0,)), ([-1], [0]))


def _dense(steps: Steps, value: Value, kernel: Any) -> Value:
    units = int(kernel.shape[1])
    return weighted(steps, value, lambda name: L.Dense(units, use_bias=False, name=name), kernel)


def _matmul(steps: Steps, node: FlatNode) -> Made:
    """Of two tensors, or a tensor and a matrix."""
    if len(steps.inputs) == 2:
        left, right = steps.inputs
        return matrix_product(steps, left, right)
    return _product(steps, node)


def _einsum(steps: Steps, node: FlatNode) -> Made:
    """Of two tensors, or a tensor and a kernel."""
    letters = Letters.of(node.layer.subscripts, len(node.shapes[0]))
    if letters is None or len(letters.writes) < 2:
        return None
    if len(steps.inputs) == 2:
        left, right = steps.inputs
        return einsum(steps, left, right, letters)
    kernel = kernel_at(node, 1, len(letters.right))
    if kernel is None:
        return None
    return dense(steps, steps.inputs[0], letters, kernel, owner=owner_of(kernel))


def _attention(steps: Steps, node: FlatNode) -> Made:
    """With a bias and a mask that do not vary, which stand behind the three tensors."""
    operation = node.layer
    given = (*node.constants[3:], None, None, None)[:3]
    if len(steps.inputs) != 3 or operation.attn_logits_soft_cap:
        return None
    query, key, value = node.shapes[:3]
    if query[2:] != key[2:] or key[1:3] != value[1:3]:
        return None  # Keras's symbolic tensors do not ask for that
    rank = len(query)
    bias, mask = (None if each is None else numbers(each, None, rank) for each in given[:2])
    if (bias is None, mask is None) != (given[0] is None, given[1] is None):
        return None  # one that varies
    rows, columns = (shape[1] or 0 for shape in node.shapes[:2])
    kept = np.tri(rows, columns, dtype=bool) | (not operation.is_causal)
    if mask is not None:
        kept = kept & (mask.values > 0.5)
    if bias is None:
        return attention(steps, given[2], kept=kept)
    is_bias = bias.values > MOST_MASKED
    return attention(steps, given[2], np.where(is_bias, bias.values, 0.0), kept & is_bias)


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "matmul",
        _matmul,
        op.Matmul,
        needs="a tensor and a matrix of fixed numbers or variables, or two tensors of fixed "
        "sizes and rank 3 or more, alike in all but the last two axes",
        examples=(
            lambda x: ops.matmul(x, example_numbers(4, 5)),
            lambda x: L.Reshape((2, 4, 8, 4))(x) @ L.Reshape((2, 4, 4, 8))(x),
            lambda x: ops.matmul(x, L.Conv2D(8, 1)(ops.transpose(x, (0, 1, 3, 2)))),
            lambda x: L.ReLU()(ops.matmul(L.Reshape((64, 4))(x), L.Reshape((4, 64))(x))),
            Example(build=lambda x: x @ ops.relu(L.Permute((2, 1))(x)), shape=SEQUENCE),
            Example(
                build=lambda x: ops.matmul(ops.softmax(x), L.Dense(12)(x)[:, :4]),
                shape=SEQUENCE,
            ),
        ),
    ),
    table_entry(
        "dot and tensordot with a matrix",
        _product,
        op.Dot,
        op.Tensordot,
        needs="a tensor and a matrix of fixed numbers or variables",
        examples=(
            lambda x: ops.dot(L.Flatten()(x), example_numbers(256, 5)),
            lambda x: ops.tensordot(x, example_numbers(4, 5), 1),
        ),
    ),
    table_entry(
        "einsum as `abc,cd->abd` or `abc,adc->abd`",
        _einsum,
        op.Einsum,
        needs="a tensor and a kernel of fixed numbers or variables, as 'abc,cd->abd', or two "
        "tensors of the same batch, as 'abc,adc->abd', and no other sums than products",
        examples=(
            lambda x: ops.einsum("abcd,cde->aeb", x, example_numbers(8, 4, 3)),
            lambda x: ops.einsum("aecd,abcd->acbe", x, L.Dense(4)(x)),
            Example(build=lambda x: ops.einsum("abc,adc->adb", x, L.Dense(4)(x)), shape=SEQUENCE),
            Example(
                build=lambda x: ops.einsum("abc,cd->abd", x, example_numbers(4, 5)), shape=SEQUENCE
            ),
        ),
    ),
    table_entry(
        "dot_product_attention",
        _attention,
        nn.DotProductAttention,
        needs="three tensors of fixed sizes (batch, length, heads, dim), a mask and a bias that do "
        "not vary, if any, and no soft cap",
        examples=(
            lambda x: ops.dot_product_attention(x, L.Dense(4)(x), x, scale=0.7),
            lambda x: ops.dot_product_attention(
                x, L.Dense(4)(x), x, bias=example_numbers(1, 8, 8, 8), is_causal=True
            ),
        ),
    ),
)
