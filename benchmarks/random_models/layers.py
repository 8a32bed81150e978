"""Rules of layers and operations with more to choose: normalizations, products, recurrent ones.

Each takes the maker and a tensor, adds calls and returns the last tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ddq_tf.kinds import FUNCTIONS

from .examples import EXAMPLES, is_operation
from .spec import Spec, as_lists

if TYPE_CHECKING:
    from .generate import Maker

# Keras's names of the activations that are steps of floats in the file.
ISLANDS = tuple(
    name
    for name, function in FUNCTIONS.items()
    if function.formula is not None and name not in ("threshold", "glu")
)
_MOST_STEPS = 4
_MOST_INPUTS = 4
_EQUATIONS: dict[int, tuple[tuple[str, tuple[int | None, ...], str], ...]] = {
    1: (("...x,xy->...y", (4,), "y"),),
    2: (
        ("abc,cd->abd", (None, 6), "d"),
        ("abc,cde->abde", (None, 2, 3), "de"),
        ("abc,cde->aebd", (3, None, 2), "d"),
        ("...x,xy->...y", (5,), "y"),
        ("abc,bcd->ad", (5,), "d"),
    ),
    3: (
        ("abcd,de->abce", (None, None, 5), "e"),
        ("abcd,cde->abe", (None, 6), "e"),
        ("...x,xy->...y", (3,), "y"),
    ),
}


def island(maker: Maker, tensor: int) -> int:
    """An activation in float between two int8 tensors."""
    return maker.call("Activation", tensor, activation=maker.pick(*ISLANDS))


def row_norm(maker: Maker, tensor: int) -> int:
    """A normalization of the values themselves."""
    shape, number = maker.shapes[tensor], maker.count
    kind = maker.pick(*("Layer", "Layer", "RMS", "Unit", "Group"))
    arguments: dict[str, Any] = {}
    if kind != "Unit" and maker.chance(0.6):
        arguments["epsilon"] = maker.pick(1e-3, 1e-5, 1e-6, 0.1)
    if kind == "Group":
        sizes = [n for n in range(1, shape[-1] + 1) if shape[-1] % n == 0]
        arguments["groups"] = maker.pick(-1, *sizes)
    elif maker.chance(0.15):
        axes = list(range(1, len(shape) + 1))
        arguments["axis"] = maker.pick(-1, len(shape), axes, axes[-2:], axes[0])
    changes: list[tuple[str, str]] = []
    if kind in ("Layer", "Group"):
        for switch, name in (("scale", "gamma"), ("center", "beta")):
            if maker.chance(0.2):
                arguments[switch] = False
                continue
            arguments[f"{name}_initializer"] = ["normal", 1.0, number]
            if maker.extreme and maker.chance(0.3):
                few = (
                    ("plus_1e4", "minus_20") if name == "beta" else ("zero", "tiny", "zero_channel")
                )
                changes.append((name, maker.pick(*few)))
    return maker.call(f"{kind}Normalization", tensor, changes=tuple(changes), **arguments)


def einsum_dense(maker: Maker, tensor: int) -> int:
    """A dense layer by an equation."""
    shape = maker.shapes[tensor]
    equation, output_shape, bias_axes = maker.pick(*_EQUATIONS[min(len(shape), 3)])
    arguments: dict[str, Any] = {"equation": equation, "output_shape": list(output_shape)}
    if maker.chance(0.75):
        arguments["bias_axes"] = bias_axes
    arguments.update(maker.kernel(shape[-1]), **maker.activation(len(shape)))
    changes = tuple(c for c in maker.weight_changes({"use_bias": False}) if c[1] != "huge_row")
    return maker.call("EinsumDense", tensor, changes=changes, **arguments)


def attention(maker: Maker, tensor: int) -> int:
    """Attention of a sequence to itself or to another; images are rows of pixels first."""
    tensor = _sequence(maker, tensor)
    shape = maker.shapes[tensor]
    kind = maker.pick(
        "MultiHeadAttention", "MultiHeadAttention", "GroupQueryAttention", "Attention"
    )
    others = [t for t, s in maker.shapes.items() if len(s) == 2]
    if kind == "Attention":
        others = [t for t in others if maker.shapes[t][1] == shape[1]]
    reads = [tensor, maker.pick(tensor, tensor, *others)]
    if maker.chance(0.25):
        rows = maker.shapes[reads[1]][0]
        reads.append(maker.pick(*(t for t in others if maker.shapes[t][0] == rows)))
        if kind == "Attention":
            reads[1:] = reads[:0:-1] if maker.shapes[reads[2]][1] == shape[1] else [tensor]
    options: dict[str, Any] = {"use_causal_mask": True} if maker.chance(0.2) else {}
    arguments: dict[str, Any] = {}
    changes: list[tuple[str, str]] = []
    if kind == "Attention":
        if maker.chance(0.3):
            arguments["use_scale"] = True
        if maker.chance(0.05):
            arguments["score_mode"] = "concat"
        return maker.call(kind, *reads, options=options, **arguments)
    deviation = maker.pick(0.3, 0.6, 1.2)
    arguments["kernel_initializer"] = ["normal", deviation, maker.count]
    if maker.chance(0.3):
        arguments["use_bias"] = False
    if kind == "MultiHeadAttention":
        arguments.update(num_heads=maker.whole(1, 3), key_dim=maker.whole(1, 4))
        if maker.chance(0.3):
            arguments["value_dim"] = maker.whole(1, 4)
        if maker.chance(0.3):
            arguments["output_shape"] = maker.whole(1, 6)
    else:
        heads = maker.whole(1, 2)
        arguments.update(head_dim=maker.whole(1, 4), num_key_value_heads=heads)
        arguments["num_query_heads"] = heads * maker.whole(1, 2)
    if maker.chance(0.1):
        arguments["dropout"] = 0.1
    if maker.extreme and maker.chance(0.5):
        part = maker.pick("query", "key", "value", "output")
        changes.append((f"_{part}_dense.kernel", maker.pick("huge_channel", "zero", "tiny")))
    return maker.call(kind, *reads, options=options, changes=tuple(changes), **arguments)


def _sequence(maker: Maker, tensor: int) -> int:
    """A tensor as a sequence of few rows."""
    shape = maker.shapes[tensor]
    if len(shape) == 2:
        return tensor
    if len(shape) == 1:
        made = maker.call("Dense", tensor, units=12, **maker.kernel(shape[0]))
        return maker.call("Reshape", made, target_shape=maker.pick([3, 4], [4, 3], [2, 6]))
    if np.prod(shape[:2]) > 16:
        strides = [-(-shape[0] // 4), -(-shape[1] // 4)]
        tensor = maker.call("MaxPooling2D", tensor, pool_size=strides, padding="same")
        shape = maker.shapes[tensor]
    return maker.call("Reshape", tensor, target_shape=[shape[0] * shape[1], shape[2]])


def dot(maker: Maker, tensor: int) -> int:
    """A product of two tensors: Dot or @."""
    if maker.chance(0.7):
        tensor = _sequence(maker, tensor)
    shape = maker.shapes[tensor]
    others = [t for t, s in maker.shapes.items() if len(s) == len(shape)]
    other = maker.pick(tensor, *others)
    if maker.chance(0.5) or len(shape) == 1:
        axes = maker.pick(1, -1, len(shape), [1, 1], [len(shape), len(shape)], [1, len(shape)])
        arguments: dict[str, Any] = {"normalize": True} if maker.chance(0.05) else {}
        return maker.call("Dot", tensor, other, axes=axes, **arguments)
    swapped = [*range(1, len(shape) - 1), len(shape), len(shape) - 1]
    right = maker.call("Permute", other, dims=swapped)
    return maker.call("matmul", tensor, right)


def recurrent(maker: Maker, tensor: int) -> int:
    """A recurrent layer over few steps."""
    tensor = _sequence(maker, tensor)
    length = maker.shapes[tensor][0]
    steps = maker.whole(2, _MOST_STEPS)
    if length > steps:
        first = maker.whole(0, length - steps)
        tensor = maker.call("Cropping1D", tensor, cropping=[first, length - steps - first])
    whole: dict[str, Any] = {"return_sequences": True} if maker.chance(0.6) else {}
    if maker.chance(0.25):
        whole["go_backwards"] = True
    kind = maker.pick("LSTM", "GRU", "SimpleRNN")
    if maker.chance(0.15):
        cells = [_cell(maker, maker.pick("LSTM", "GRU", "SimpleRNN")) for _ in range(2)]
        return maker.call("RNN", tensor, cell=[[f"{k}Cell", a] for k, a in cells], **whole)
    _, arguments = _cell(maker, kind)
    if maker.chance(0.1):
        arguments["unroll"] = True
    if maker.chance(0.25):
        merge = maker.pick("concat", "sum", "mul", "ave")
        inner = [kind, {**arguments, **whole}]
        return maker.call("Bidirectional", tensor, layer=inner, merge_mode=merge)
    changes: tuple[tuple[str, str], ...] = ()
    if maker.extreme and maker.chance(0.5):
        part = maker.pick("kernel", "recurrent_kernel")
        changes = ((f"cell.{part}", maker.pick("huge_channel", "zero", "tiny", "half_zero")),)
    return maker.call(kind, tensor, changes=changes, **arguments, **whole)


def _cell(maker: Maker, kind: str) -> tuple[str, dict[str, Any]]:
    """What a cell is given."""
    arguments: dict[str, Any] = {"units": maker.whole(1, 4)}
    arguments["kernel_initializer"] = ["normal", maker.pick(0.4, 0.8, 1.5), maker.count]
    if maker.chance(0.5):
        arguments["recurrent_initializer"] = ["normal", maker.pick(0.3, 0.8), maker.count + 1]
    if maker.chance(0.25):
        arguments["use_bias"] = False
    elif maker.chance(0.5):
        arguments["bias_initializer"] = ["normal", 0.3, maker.count]
    if maker.chance(0.25):
        arguments["activation"] = maker.pick("relu", "sigmoid", "linear", "softsign", "elu")
    if kind != "SimpleRNN" and maker.chance(0.25):
        arguments["recurrent_activation"] = maker.pick("hard_sigmoid", "tanh")
    if kind == "LSTM" and maker.chance(0.2):
        arguments["unit_forget_bias"] = False
    if kind == "GRU" and maker.chance(0.4):
        arguments["reset_after"] = False
    return kind, arguments


def operation(maker: Maker, tensor: int) -> int:
    """An operation of keras.ops, with axes."""
    shape = maker.shapes[tensor]
    rank = len(shape)
    axis = maker.pick(-1, *range(1, rank + 1))
    kind = maker.pick(
        *("mean", "max", "sum", "negative", "square", "maximum", "minimum", "stack", "softmax"),
        *("transpose", "flip", "roll", "repeat", "pad", "part", "divide_by_number"),
    )
    if kind in ("mean", "max", "sum"):
        axes = axis if maker.chance(0.5) else sorted({axis % (rank + 1), maker.whole(1, rank)})
        return maker.call(kind, tensor, axis=axes, keepdims=maker.chance(0.6))
    if kind in ("maximum", "minimum", "stack"):
        alike = [t for t, s in maker.shapes.items() if s == shape]
        rest = {"axis": axis} if kind == "stack" else {}
        return maker.call(kind, tensor, maker.pick(*alike), **rest)
    arguments: dict[str, Any] = {
        "transpose": {"axes": [0, *(int(n) + 1 for n in maker.rng.permutation(rank))]},
        "roll": {"by": maker.pick(1, -2, 3), "axis": axis},
        "repeat": {"by": 2, "axis": axis},
        "pad": {"widths": [[0, 0], *([maker.whole(0, 2), maker.whole(0, 2)] for _ in shape)]},
        "flip": {"axis": axis},
        "softmax": {"axis": axis if maker.chance(0.2) else -1},
        "divide_by_number": {"number": maker.pick(2.0, 0.3, -5.0)},
        "part": {"axis": axis % (rank + 1) or rank, "first": 0, "last": maker.whole(1, 3)},
    }
    return maker.call(kind, tensor, **arguments.get(kind, {}))


def example(maker: Maker, tensor: int) -> int:
    """A rule's own example, in the graph or as a model of its own."""
    rule = maker.pick(*EXAMPLES)
    number = maker.whole(0, len(EXAMPLES[rule]) - 1)
    wanted = EXAMPLES[rule][number].shape
    if maker.shapes[tensor] != wanted and maker.chance(0.6):
        tensor = _of_shape(maker, tensor, wanted)
    if maker.chance(0.35) or maker.is_own:
        shape = list(maker.shapes[tensor])
        return maker.call("example", tensor, rule=rule, number=number, shape=shape)
    return maker.call("use", tensor, rule=rule, number=number)


def _of_shape(maker: Maker, tensor: int, wanted: tuple[int, ...]) -> int:
    """A tensor of a shape: one that is there, a new input, or what leads there."""
    there = [t for t, shape in maker.shapes.items() if shape == wanted]
    if there:
        return maker.pick(*there)
    if len(maker.inputs) < _MOST_INPUTS and not maker.is_own and maker.chance(0.5):
        return maker.add_input(wanted)
    shape = maker.shapes[tensor]
    if shape[:-1] == wanted[:-1]:
        return maker.call("Dense", tensor, units=wanted[-1], **maker.kernel(shape[-1]))
    flat = maker.call("Flatten", tensor)
    size = int(np.prod(wanted))
    made = maker.call("Dense", flat, units=size, **maker.kernel(int(np.prod(shape))))
    return maker.call("Reshape", made, target_shape=list(wanted))


def own(maker: Maker, tensor: int) -> int:
    """A user's layer, subclassed model or Lambda."""
    kind = maker.pick("OwnLayer", "OwnLayer", "OwnModel", "OwnLambda")
    inner = maker.inner()
    first = inner.add_input(maker.shapes[tensor])
    inner.is_own = True
    if kind == "OwnLambda":
        _operations(inner, first)
    else:
        for _ in range(maker.whole(1, 4)):
            inner.step()
    if not inner.calls:
        raise ValueError("nothing fits")
    spec = Spec(
        inputs=tuple(inner.inputs), calls=tuple(inner.calls), outputs=(inner.calls[-1].writes,)
    ).pruned(keep_inputs=True)
    maker.count = inner.count
    made = maker.call(kind, tensor, spec=as_lists(spec))
    is_alike = maker.shapes[made] == maker.shapes[tensor]
    return maker.again(made, made) if is_alike and maker.chance(0.3) else made


def _operations(maker: Maker, tensor: int) -> None:
    """One to three calls without layers."""
    plain = [
        (rule, number)
        for rule in EXAMPLES
        if rule.startswith("ops.")
        for number in range(len(EXAMPLES[rule]))
        if is_operation(rule, number)
    ]
    for _ in range(maker.whole(1, 3)):
        try:
            if maker.chance(0.5):
                tensor = operation(maker, tensor)
            else:
                rule, number = plain[maker.whole(0, len(plain) - 1)]
                tensor = maker.call("use", tensor, rule=rule, number=number)
        except ValueError:
            continue


def called_twice(maker: Maker, tensor: int) -> int:
    """A layer of this file that is called twice."""
    rule = maker.pick(row_norm, einsum_dense, attention, recurrent, dot, island, example)
    rule(maker, tensor)
    owner = maker.calls[-1]
    alike = [
        t
        for t, shape in maker.shapes.items()
        if shape == maker.shapes[owner.reads[0]] and t != owner.writes
    ]
    others = [maker.pick(owner.reads[0], *alike), *owner.reads[1:]]
    if maker.chance(0.5) and maker.shapes[owner.writes] == maker.shapes[owner.reads[0]]:
        others[0] = owner.writes
    elif others[0] == owner.reads[0] and len(maker.shapes[others[0]]) > 0:
        others[0] = maker.call("Activation", others[0], activation=maker.pick("tanh", "relu"))
    second = maker.again(owner.writes, *others)
    if maker.chance(0.3):
        return maker.call("Add", owner.writes, second)
    return second
