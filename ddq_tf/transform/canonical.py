"""Rewrites a float graph to the few layers that the integer graph knows, before it is checked.

First the batch goes to the front of every tensor (`transform.batches`). Then each node by the rule
of its layer: to other layers (`LayerRule.expand`), or from sequences to images of one row
(`transform.sequences`). Then neighbours:

1. Two Reshapes in a row, and Reshapes that change nothing: see `sequences.join_reshapes`.
2. relu6(x + 3) / 6 written out: the activation hard_sigmoid.
3. Rescalings in a row: one.
4. A rescaling behind a convolution or dense layer, moved or not: part of its weights.
5. A layer without bias before a BatchNormalization that stands elsewhere too: gets a bias of zeros,
   for `grids.align` to move.
6. A tensor of weights, moved, or added behind another: one tensor of weights. A mask before what
   moves it: behind it.
7. A rescaling or BatchNormalization of vectors, or of rank 5 and more, that none of these takes up:
   between Reshapes to an image and back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.graph.origin import set_origin
from ddq_tf.grids.affine import multiplies
from ddq_tf.kinds import activation_name, find_rule, function_of, is_activation
from ddq_tf.kinds.rule import Move
from ddq_tf.kinds.steps import grid_key, on_one_grid
from ddq_tf.layers import DDQConstant, DDQMask, DDQRescaling
from ddq_tf.transform.batches import EXPANDED_FIRST, batch_first, moves_batch
from ddq_tf.transform.sequences import is_sequence, join_reshapes, on_one_row


def canonical(graph: FlatGraph) -> FlatGraph:
    """Returns an equivalent graph of layers that the integer graph knows, as far as they are."""
    return Canonicalizer(graph).run()


class Canonicalizer:
    """Expands nodes one by one; then looks at neighbours.

    Attributes:
        bare: outputs of layers with weights whose activation has been split off.
    """

    def __init__(self, graph: FlatGraph) -> None:
        self.graph = self._given = graph
        self.bare: set[int] = set()
        self._layers: dict[tuple[int, str], Any] = {}
        tensors = [t for node in graph.nodes for t in node.outputs]
        self._count = max((*tensors, *graph.inputs), default=-1) + 1

    def run(self) -> FlatGraph:
        """Rewrites until nothing changes."""
        if moves_batch(self.graph):
            self._expand_all(EXPANDED_FIRST)
            self.graph = batch_first(self.graph)
        while self._expand_all() or self._merge_all():
            pass
        return self.graph.named_apart(self._given)

    def new_tensor(self) -> int:
        """Returns an unused tensor number."""
        self._count += 1
        return self._count - 1

    def layer(self, original: Any, role: str, make: Callable[[], Any]) -> Any:
        """Returns the new layer that plays a role for an old one, for all its calls.

        It trains if the old one does.
        """
        key = (id(original), role)
        if key not in self._layers:
            self._layers[key] = made = make()
            if made is not original:
                # Operations have none.
                made.trainable = made.trainable and getattr(original, "trainable", True)
                set_origin(made, original)
                shared = grid_key(original)
                if shared is not None and grid_key(made) is None:
                    on_one_grid(made, (shared, role))
        return self._layers[key]

    def _expand_all(self, kinds: tuple[type, ...] = (object,)) -> bool:
        """Expands every node of these kinds; returns whether any changed."""
        nodes = [node for node in self.graph.nodes if isinstance(node.layer, kinds)]
        expanded = {node.outputs[0]: self._expand(node) for node in nodes}
        changed = {
            node.outputs[0]: expanded[node.outputs[0]]
            for node in nodes
            if expanded[node.outputs[0]] != [node]
        }
        if changed:
            self.graph = self.graph.replaced(changed)
        return bool(changed)

    def _expand(self, node: FlatNode) -> list[FlatNode]:
        if node.trouble:
            return [node]
        rule = find_rule(node.layer)
        if is_sequence(node):
            return on_one_row(self, node)
        return [node] if rule is None or rule.expand is None else rule.expand(self, node)

    def _merge_all(self) -> bool:
        """Joins neighbours until nothing is left to join; returns whether there were any."""
        # What has parts that a later rule would take away goes first.
        found = [self._merge(rule) for rule in (join_reshapes, *_RULES)]
        return any(found)

    def _merge(self, rule: _Neighbours) -> bool:
        found, again = False, True
        while again:
            again = False
            for node in self.graph.nodes:
                merged = rule(self, node) if self._stands(node) else None
                if merged is not None:
                    self.graph = merged
                    found = again = True
        return found

    def _stands(self, node: FlatNode) -> bool:
        """Whether a node is still in the graph."""
        return self.graph.producer(node.outputs[0]) is node


_Neighbours = Callable[[Canonicalizer, FlatNode], FlatGraph | None]


def _is_rescaling(node: FlatNode) -> bool:
    return isinstance(node.layer, DDQRescaling)


def _two_rescalings(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """A rescaling behind another that it alone reads."""
    before = to.graph.producer(node.inputs[0])
    if before is None or not all(map(_is_rescaling, (before, node))):
        return None
    if to.graph.sole_consumer(node.inputs[0]) is not node:
        return None
    first, second = before.layer.get_config(), node.layer.get_config()
    gain = np.asarray(first["gain"]) * second["gain"]
    shift = np.asarray(first["shift"]) * second["gain"] + second["shift"]
    layer = to.layer(node.layer, f"after {before.name}", lambda: DDQRescaling(gain, shift))
    return _joined(to.graph, [before], node, before.calling(layer, outputs=node.outputs))


def _scaled_kernel(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """A rescaling behind a convolution or dense layer that it alone reads, and that runs once.

    One by the same number for all values may stand behind what moves them.
    """
    if not _is_rescaling(node):
        return None
    by = node.layer.get_config()
    is_uniform = np.size(by["gain"]) == np.size(by["shift"]) == 1
    moves = _moves_before(to.graph, node) if is_uniform else []
    reader = moves[0] if moves else node
    before = to.graph.producer(reader.inputs[0])
    if before is None:
        return None
    layer = before.layer
    fits = type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
    alone = to.graph.sole_consumer(reader.inputs[0]) is reader and to.graph.calls(layer) == 1
    if not fits or not alone or activation_name(layer) != "linear":
        return None

    def make() -> Any:
        config = {**layer.get_config(), "name": before.name, "use_bias": True}
        scaled = type(layer).from_config(config)
        scaled.build(before.shapes[0])
        gain = np.asarray(by["gain"])
        bias = 0.0 if layer.bias is None else as_float64(layer.bias)
        scaled.kernel.assign(as_float64(layer.kernel) * gain)
        scaled.bias.assign(np.broadcast_to(bias * gain + by["shift"], scaled.bias.shape))
        return scaled

    twin = to.layer(layer, f"scaled by {node.name}", make)
    if not moves:
        return _joined(to.graph, [before], node, before.calling(twin, outputs=node.outputs))
    last = moves[-1]
    changes: dict[int, list[FlatNode]] = {
        node.outputs[0]: [],
        last.outputs[0]: [dataclasses.replace(last, outputs=node.outputs)],
        before.outputs[0]: [before.calling(twin)],
    }
    return to.graph.replaced(changes)


def _held_values(node: FlatNode | None) -> np.ndarray | None:
    """The weights of a `DDQConstant`; None for other nodes."""
    return as_float64(node.layer.value) if node is not None and node.is_constant else None


def _constants(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """A tensor of weights that is moved, or added behind another; and what nothing reads."""
    before = to.graph.producer(node.inputs[0])
    values = _held_values(before)
    if node.is_constant or _is_rescaling(node):
        is_read = to.graph.consumers(node.outputs[0]) or node.outputs[0] in to.graph.outputs
        if not is_read:
            return to.graph.replaced({node.outputs[0]: []})
        return _read_earlier(to.graph, node) if node.is_constant else None
    move = _move_of(node)
    if before is None or values is None or move is None:
        return _summed(to, node)
    moved = move(node.layer, values)
    layer = to.layer(
        before.layer, f"moved by {node.name}", lambda: DDQConstant.holding(moved, before.name)
    )
    new = before.calling(layer, outputs=node.outputs)
    return to.graph.replaced({node.outputs[0]: [new]})


def _read_earlier(graph: FlatGraph, node: FlatNode) -> FlatGraph | None:
    """Weights that read, for the number of examples, what was moved, or a sum with weights."""
    before = graph.producer(node.inputs[0])
    if before is None:
        return None
    tensor, held = _parts(graph, before)
    if held is None:
        if _move_of(before) is None and not isinstance(before.layer, keras.layers.ZeroPadding2D):
            return None
        tensor = before.inputs[0]
    shape = before.shapes[before.inputs.index(tensor)]
    earlier = dataclasses.replace(node, inputs=(tensor,), shapes=(shape,))
    return graph.replaced({node.outputs[0]: [earlier]})


def _summed(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """Weights that are added to a sum with weights that it alone reads."""
    first, other = _parts(to.graph, node)
    if first is None or other is None:
        return None
    inner = to.graph.producer(first)
    alone = to.graph.sole_consumer(first) is node
    if inner is None or not alone:
        return None
    rest, before = _parts(to.graph, inner)
    if rest is None or before is None or before.layer.trainable != other.layer.trainable:
        return None
    values = as_float64(before.layer.value) + as_float64(other.layer.value)
    layer = to.layer(
        before.layer, f"and {other.name}", lambda: DDQConstant.holding(values, before.name)
    )
    held = to.new_tensor()
    shape = inner.shapes[inner.inputs.index(rest)]
    changes: dict[int, list[FlatNode]] = {
        inner.outputs[0]: [],
        node.outputs[0]: [
            before.calling(layer, inputs=(rest,), shapes=(shape,), outputs=(held,)),
            dataclasses.replace(
                node, inputs=(rest, held), shapes=(shape, (shape[0], *values.shape))
            ),
        ],
    }
    return to.graph.replaced(changes)


def _parts(graph: FlatGraph, node: FlatNode) -> tuple[int | None, FlatNode | None]:
    """Of a sum of something and weights: the tensor, and what holds the weights."""
    if not isinstance(node.layer, keras.layers.Add) or len(node.inputs) != 2:
        return None, None
    writers = [graph.producer(tensor) for tensor in node.inputs]
    held = [writer is not None and writer.is_constant for writer in writers]
    if sum(held) != 1:
        return None, None
    return node.inputs[held.index(False)], writers[held.index(True)]


def _moved_mask(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """A mask, which stands right before its softmax."""
    before = to.graph.producer(node.inputs[0])
    move = _move_of(node)
    if before is None or not before.is_mask or move is None:
        return None
    if to.graph.sole_consumer(node.inputs[0]) is not node:
        return None
    kept = np.asarray(keras.ops.convert_to_numpy(before.layer.kept))
    kept = np.broadcast_to(kept, [size or 0 for size in node.shapes[0][1:]])
    shape: Any = node.layer.compute_output_shape(node.shapes[0])
    kept = move(node.layer, kept)
    mask = to.layer(before.layer, "moved", lambda: DDQMask.keeping(kept, before.name))
    moved = to.new_tensor()
    changes: dict[int, list[FlatNode]] = {
        before.outputs[0]: [],
        node.outputs[0]: [
            dataclasses.replace(node, inputs=before.inputs, outputs=(moved,)),
            before.calling(mask, inputs=(moved,), outputs=node.outputs, shapes=(tuple(shape),)),
        ],
    }
    return to.graph.replaced(changes)


def _move_of(node: FlatNode) -> Move | None:
    rule = find_rule(node.layer)
    return None if rule is None else rule.move


def _moves_before(graph: FlatGraph, node: FlatNode) -> list[FlatNode]:
    """The Reshapes and Permutes before a node that nothing else reads, in order."""
    found: list[FlatNode] = []
    before = graph.producer(node.inputs[0])
    while before is not None and _move_of(before) is not None:
        if graph.sole_consumer(before.outputs[0]) is None:
            break
        found.insert(0, before)
        before = graph.producer(before.inputs[0])
    return found


def _own_bias(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """A bias of its own, for a layer whose BatchNorm is not its own."""
    layer = node.layer
    if not node.has_kernel or layer.use_bias:
        return None
    norms = [to.graph.norm_of(call) for call in to.graph.nodes if call.layer is layer]
    if all(n is None or to.graph.calls(n.layer) <= to.graph.calls(layer) for n in norms):
        return None

    def make() -> Any:
        with_bias: Any = type(layer).from_config({**layer.get_config(), "use_bias": True})
        with_bias.build(node.shapes[0])
        with_bias.kernel.assign(layer.kernel)
        return with_bias

    twin = to.layer(layer, "with bias", make)
    calls = [call for call in to.graph.nodes if call.layer is layer]
    return to.graph.replaced({call.outputs[0]: [call.calling(twin)] for call in calls})


def _hard_sigmoid(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """relu6(x + 3) / 6."""
    middle = to.graph.producer(node.inputs[0])
    first = None if middle is None else to.graph.producer(middle.inputs[0])
    if middle is None or first is None or not is_activation(middle):
        return None
    alone = all(
        to.graph.sole_consumer(a.outputs[0]) is b for a, b in ((first, middle), (middle, node))
    )
    function = function_of(middle.layer) if alone else None
    if function is None or function.name != "relu6":
        return None
    if not (_rescales(first, 1, 3) and _rescales(node, 1 / 6, 0)):
        return None
    layer = to.layer(
        node.layer, "hard", lambda: keras.layers.Activation("hard_sigmoid", name=node.name)
    )
    hard = node.calling(layer, inputs=first.inputs, shapes=first.shapes)
    return _joined(to.graph, [first, middle], node, hard)


def _rescales(node: FlatNode, gain: float, shift: float) -> bool:
    if not _is_rescaling(node):
        return False
    config = node.layer.get_config()
    return bool(np.allclose(config["gain"], gain)) and bool(np.allclose(config["shift"], shift))


def _joined(graph: FlatGraph, gone: list[FlatNode], node: FlatNode, new: FlatNode) -> FlatGraph:
    """The graph with one node in the place of several; the last of them is `node`."""
    nothing: dict[int, list[FlatNode]] = {n.outputs[0]: [] for n in gone}
    return graph.replaced({**nothing, node.outputs[0]: [new]})


def _flat_scale(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """Gains and shifts of vectors, or of rank 5 and more, that nothing takes up: of an image."""
    layer, shape = node.layer, node.shapes[0]
    if not multiplies(node):
        return None
    if len(shape) in (3, 4) or None in shape[1:]:
        return None
    before = to.graph.producer(node.inputs[0])
    if before is not None and to.graph.norm_of(before) is node:
        return None
    pixel = (shape[0], math.prod(size or 0 for size in shape[1:-1]), 1, shape[-1])
    there, back = to.new_tensor(), to.new_tensor()
    first, last = (
        to.layer(layer, role, lambda target=target, role=role: _reshape_to(target, node, role))
        for role, target in (("pixel", pixel[1:]), ("vector", shape[1:]))
    )
    scale = to.layer(layer, "of a pixel", lambda: _on_a_pixel(layer, pixel))
    nodes = [
        node.calling(first, name=first.name, outputs=(there,)),
        node.calling(scale, inputs=(there,), outputs=(back,), shapes=(pixel,)),
        node.calling(last, name=last.name, inputs=(back,), shapes=(pixel,)),
    ]
    return to.graph.replaced({node.outputs[0]: nodes})


def _reshape_to(target: Any, node: FlatNode, role: str) -> Any:
    return keras.layers.Reshape(target, name=f"{node.name}_{role}")


def _on_a_pixel(layer: Any, shape: Any) -> Any:
    """The layer for images, with its weights."""
    fields = {**layer.get_config(), "dtype": "float32"}
    if "axis" in fields:
        fields["axis"] = -1
    copy = type(layer).from_config(fields)
    if layer.built:
        copy.build(shape)
        for mine, theirs in zip(copy.weights, layer.weights, strict=True):
            mine.assign(theirs)
    return copy


_RULES: tuple[_Neighbours, ...] = (
    _hard_sigmoid,
    _two_rescalings,
    _scaled_kernel,
    _own_bias,
    _constants,
    _moved_mask,
    _flat_scale,
)
