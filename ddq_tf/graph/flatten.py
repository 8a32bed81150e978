"""One flat list of layer calls for any Keras model: with a graph, or read by tracing its `call`.

With `tracing` and `functional` the only file that reads Keras's private graph (`_nodes_by_depth`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

from ddq_tf.errors import DDQError
from ddq_tf.graph.beside import Beside, operands
from ddq_tf.graph.beside import numbers as numbers_beside
from ddq_tf.graph.flat_graph import FlatGraph, FlatNode, Shape, read_by, unused
from ddq_tf.graph.functional import Traced, functional_of, graph_of, input_names
from ddq_tf.graph.origin import set_origin
from ddq_tf.graph.tracing import (
    Call,
    NotReadableError,
    Trace,
    in_order,
    is_misread,
    is_opened,
    trace,
    users_function,
    written_spec,
)
from ddq_tf.layers import DDQConstant, DDQMask


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Called:
    """A call that becomes a node.

    Attributes:
        layer: what is called.
        args, kwargs: with what.
        name: of the node.
        inference, trouble, place: as of `FlatNode`.
        batch: the size at which it was read; None for any.
        around: the user's layer that calls it; None where a graph does.
    """

    layer: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    name: str
    inference: bool = False
    trouble: str = ""
    place: str = ""
    batch: int | None = None
    around: Any = None


class _Flattener:
    """Numbers tensors and collects nodes while walking nested models."""

    def __init__(self) -> None:
        self.nodes: list[FlatNode] = []
        self._names: dict[int, str] = {}
        self._held: dict[tuple[int, Shape], DDQConstant] = {}
        self._bare: dict[int, Any] = {}
        self._shapes: list[Shape] = []

    def new_tensor(self, shape: Shape) -> int:
        """Returns an unused tensor number, of a tensor of this shape."""
        self._shapes.append(tuple(shape))
        return len(self._shapes) - 1

    def walk(
        self, functional: Any, inputs: Sequence[int], prefix: str, inference: bool
    ) -> list[int]:
        """Appends the nodes of a model; returns the numbers of its outputs."""
        if isinstance(functional, Traced):
            return self._play(functional.found, inputs, prefix, inference)
        numbers = {id(t): n for t, n in zip(functional.inputs, inputs, strict=True)}
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    self._visit(node, numbers, prefix, inference)
        return [numbers[id(tensor)] for tensor in functional.outputs]

    def _visit(self, node: Any, numbers: dict[int, int], prefix: str, inference: bool) -> None:
        layer = node.operation
        reads = [numbers[id(tensor)] for tensor in node.arguments.keras_tensors]
        fixed = inference or _says_inference(node.arguments.kwargs)
        inner, trouble = graph_of(layer), ""
        if inner is not None:
            given = in_order(inner, (*node.arguments.args, *node.arguments.kwargs.values()))
            reads = [numbers[id(tensor)] for tensor in given]
            _check_fits(layer, inner, [self._shapes[number] for number in reads])
            writes = self.walk(inner, reads, f"{prefix}{layer.name}_", fixed)
            numbers.update({id(t): n for t, n in zip(node.outputs, writes, strict=True)})
            return
        found, trouble = self._opened(node, reads) if is_opened(layer) else (None, "")
        if found is not None:
            writes = self._play(found, reads, f"{prefix}{layer.name}_", fixed)
            numbers.update({id(t): n for t, n in zip(node.outputs, writes, strict=True)})
            return
        name = self._unique(layer, prefix)
        called = _Called(
            layer=layer,
            args=node.arguments.args,
            kwargs=node.arguments.kwargs,
            name=name,
            inference=fixed,
            trouble=trouble,
        )

        def shapes_of(shapes: tuple[Shape, ...]) -> list[Shape]:
            return _written_shapes(node, shapes, name)

        writes = self._append(called, numbers, shapes_of)
        numbers.update({id(t): n for t, n in zip(node.outputs, writes, strict=True)})

    def _opened(self, node: Any, reads: Sequence[int]) -> tuple[Trace | None, str]:
        """What the layer of a node does on the shapes that it reads, or why that is not known."""
        known = {
            id(tensor): keras.KerasTensor(self._shapes[number], dtype=tensor.dtype)
            for tensor, number in zip(node.arguments.keras_tensors, reads, strict=True)
        }
        try:
            args, kwargs = node.arguments.fill_in(known)
            return trace(node.operation, args, kwargs, graph_of), ""
        except NotReadableError as error:
            return None, str(error)

    def _play(self, found: Trace, inputs: Sequence[int], prefix: str, inference: bool) -> list[int]:
        """Appends what was seen of a layer; returns the numbers of its outputs."""
        numbers = {id(t): n for t, n in zip(found.inputs, inputs, strict=True)}
        for call in found.calls:
            around = prefix + "".join(f"{layer.name}_" for layer in call.within[1:])
            layer = _of_any_batch(call, found.batch)
            name = layer.name
            if not isinstance(layer, keras.layers.Layer):  # numbered by Keras, in each process
                where = f"{call.within[-1].name}_" if around else ""
                name, around = f"{where}{to_snake_case(type(layer).__name__)}", ""
            name = self._unique(layer, around, name)
            written = [_any_batch(tensor.shape, found.batch) for tensor in call.outputs]
            called = _Called(
                layer=layer,
                args=call.args,
                kwargs=call.kwargs,
                name=name,
                inference=inference or _says_inference(call.kwargs),
                trouble=call.trouble,
                place=_place(call),
                batch=found.batch,
                around=call.within[-1] if call.within else None,
            )
            writes = self._append(called, numbers, lambda _, written=written: written)
            numbers.update({id(t): n for t, n in zip(call.outputs, writes, strict=True)})
        return [
            numbers[id(leaf)]
            if isinstance(leaf, keras.KerasTensor)
            else self._returned(leaf, found, inputs[0], prefix)
            for leaf in found.outputs
        ]

    def _append(
        self,
        called: _Called,
        numbers: Mapping[int, int],
        written: Callable[[tuple[Shape, ...]], list[Shape]],
    ) -> list[int]:
        """Appends a call; returns the numbers of its outputs.

        Args:
            called: the call.
            numbers: of the symbolic tensors.
            written: the shapes of its outputs, from those of what it reads.
        """
        layer, name = called.layer, called.name
        found = operands(layer, called.args, called.kwargs, called.batch)
        if found is None:
            leaves = keras.tree.flatten((called.args, dict(called.kwargs)))
            reads = [numbers[id(t)] for t in leaves if isinstance(t, keras.KerasTensor)]
            return self._node(
                called,
                reads,
                written,
                constants=_constants(layer, called),
                trouble=called.trouble or _arrays_beside(layer, called),
            )
        first = next(t for t in found.places if isinstance(t, keras.KerasTensor))
        reads = [
            numbers[id(place)]
            if isinstance(place, keras.KerasTensor)
            else self._constant(place, called, numbers[id(first)])
            for place in found.places
        ]
        if found.kept is None:
            return self._node(called, reads, written)
        # First what is added, if anything is, then the mask, then the softmax if it is its own.
        is_softmax = isinstance(layer, keras.layers.Softmax)
        if len(reads) > 1:
            reads = self._node(called, reads, written)
        mask = DDQMask.keeping(found.kept, unused(f"{name}_mask", self._names.values()))
        self._names[id(mask)] = mask.name
        masking = dataclasses.replace(called, layer=mask, name=mask.name)
        reads = self._node(masking, reads, lambda shapes: [shapes[0]])
        return self._node(called, reads, written) if is_softmax else reads

    def _node(
        self,
        called: _Called,
        reads: Sequence[int],
        written: Callable[[tuple[Shape, ...]], list[Shape]],
        *,
        constants: tuple[Any, ...] = (),
        trouble: str = "",
    ) -> list[int]:
        function = users_function(called.layer)
        if function is not None:
            if not isinstance(called.layer, keras.layers.Activation):
                bare = dataclasses.replace(called, layer=self._without_function(called))
                reads = self._node(bare, reads, written, constants=constants, trouble=trouble)
            return self._function(called, function, reads)
        shapes = tuple(self._shapes[number] for number in reads)
        writes = [self.new_tensor(shape) for shape in written(shapes)]
        self.nodes.append(
            FlatNode(
                layer=called.layer,
                name=called.name,
                inputs=tuple(reads),
                outputs=tuple(writes),
                shapes=shapes,
                inference=called.inference,
                constants=constants,
                place=called.place,
                trouble=trouble or called.trouble,
            )
        )
        return writes

    def _without_function(self, called: _Called) -> Any:
        """A layer without its activation, for all its calls; it has the layer's variables."""
        layer = called.layer
        if id(layer) not in self._bare:
            bare = object.__new__(type(layer))  # Keras would make a copy with weights of its own
            vars(bare).update(vars(layer), activation=keras.activations.linear)
            set_origin(bare, layer)
            self._bare[id(layer)] = bare
            self._names[id(bare)] = called.name
        return self._bare[id(layer)]

    def _function(self, called: _Called, function: Any, reads: Sequence[int]) -> list[int]:
        """Appends what a user's function does that is a layer's activation."""
        own = getattr(function, "__name__", type(function).__name__).strip("<>")
        name = unused(f"{called.name}_{own}", self._names.values())
        layer = keras.layers.Lambda(function, name=name)
        self._names[id(layer)] = name
        given = keras.KerasTensor(self._shapes[reads[0]])
        try:
            found = trace(layer, (given,), {}, graph_of)
        except NotReadableError as error:
            unread = dataclasses.replace(called, layer=layer, name=name, trouble=str(error))
            return self._node(unread, reads, lambda shapes: [shapes[0]])
        return self._play(found, reads, f"{called.name}_", called.inference)

    def _returned(self, given: Any, found: Trace, like: int, prefix: str) -> int:
        """The number of what a layer returned that does not depend on its inputs."""
        name = prefix.rstrip("_")
        called = _Called(layer=found.layer, args=(), kwargs={}, name=name, around=found.layer)
        beside = numbers_beside(given, found.batch, len(given.shape))
        if beside is not None:
            return self._constant(beside, called, like)
        words = (
            "must return the same for each example where what it returns does not depend on its "
            f"inputs. Received: shape {tuple(given.shape)}"
        )
        return self._node(called, [like], lambda _: [tuple(given.shape)], trouble=words)[0]

    def _constant(self, beside: Beside, called: _Called, like: int) -> int:
        """The number of a tensor that is the same for each example.

        Args:
            beside: what it holds.
            called: what reads it.
            like: a tensor that tells how many examples there are.
        """
        owner = beside.owner
        is_variable = isinstance(owner, keras.Variable)
        key = (id(owner), beside.values.shape)
        layer = self._held.get(key) if is_variable else None
        if layer is None:
            name = unused(f"{called.name}_{beside.label}", self._names.values())
            layer = DDQConstant.holding(beside.values, name)
            self._names[id(layer)] = name
            # Arrays may be made of weights, as what an Embedding gives for fixed positions.
            within = getattr(called.around, "trainable_variables", ())
            layer.trainable = bool(owner.trainable if is_variable else within)
            self._held[key] = layer
        reader = dataclasses.replace(called, layer=layer, name=layer.name, trouble="")
        constants = (owner,) if is_variable else ()
        shape = (self._shapes[like][0], *beside.values.shape)
        return self._node(reader, [like], lambda _: [shape], constants=constants)[0]

    def _unique(self, layer: Any, prefix: str, own: str = "") -> str:
        """The layer's own name; prefixed, then numbered, where another layer has it already."""
        own = own or layer.name
        if id(layer) not in self._names:
            name, count = own, 1
            while name in self._names.values():
                name = f"{prefix}{own}" if count == 1 else f"{prefix}{own}_{count}"
                count += 1
            self._names[id(layer)] = name
        return self._names[id(layer)]


def _any_batch(shape: Any, batch: int | None) -> Shape:
    """A shape seen at one batch size, as it is at any."""
    free = batch is not None and len(shape) > 0 and shape[0] == batch
    return (None, *shape[1:]) if free else tuple(shape)


def _of_any_batch(call: Call, batch: int | None) -> Any:
    """What was called; an operation that was told the batch size leaves it open."""
    told = next((n for n in ("newshape", "shape") if hasattr(call.layer, n)), None)
    if batch is None or told is None or isinstance(call.layer, keras.layers.Layer):
        return call.layer
    (written,) = call.outputs
    if tuple(getattr(call.layer, told))[:1] != (batch,) or written.shape[0] != batch:
        return call.layer
    operation = copy.copy(call.layer)
    setattr(operation, told, (-1, *written.shape[1:]))
    return operation


def _of_one(constant: Any, batch: int | None) -> Any:
    """A constant that was made for a batch size, alike for all, as it is for one example."""
    shape = tuple(getattr(constant, "shape", ()))
    if batch is None or shape[:1] != (batch,) or isinstance(constant, keras.Variable):
        return constant
    values = np.asarray(keras.ops.convert_to_numpy(constant))
    return values[:1] if (values == values[:1]).all() else constant


def _place(call: Call) -> str:
    """In which of the user's layers something is called, and in which line."""
    around = call.within[-1] if call.within else None
    inside = f"in {around.name!r} ({type(around).__name__})" if around is not None else ""
    return ", ".join(part for part in (inside, call.place) if part)


def _check_fits(model: Any, functional: Any, shapes: Sequence[Shape]) -> None:
    """Raises DDQError if an inner model is called on shapes that it does not take.

    Keras builds such a model and cannot run it.
    """
    for tensor, shape in zip(functional.inputs, shapes, strict=True):
        declared = tuple(tensor.shape)
        fits = len(declared) == len(shape) and all(
            None in (wanted, given) or wanted == given
            for wanted, given in zip(declared[1:], shape[1:], strict=True)
        )
        if not fits:
            raise DDQError(
                f"the inner model {model.name!r} takes inputs of shape {declared}. "
                f"Received: it is called on shape {shape}"
            )


def _written_shapes(node: Any, shapes: tuple[Shape, ...], name: str) -> list[Shape]:
    """What a node writes where it reads these shapes; an inner model may leave sizes open."""
    tensors = node.arguments.keras_tensors
    if len(tensors) < len(shapes):  # with numbers beside them, of a fixed size
        return [tuple(tensor.shape) for tensor in node.outputs]
    as_built = shapes == tuple(tuple(tensor.shape) for tensor in tensors)
    if as_built and not is_misread(node.operation):
        return [tuple(tensor.shape) for tensor in node.outputs]
    known = {
        id(tensor): keras.KerasTensor(shape, dtype=tensor.dtype)
        for tensor, shape in zip(tensors, shapes, strict=True)
    }
    args, kwargs = node.arguments.fill_in(known)
    try:
        written = written_spec(node.operation, *args, **kwargs)
    except ValueError as error:
        raise DDQError(
            f"layer {name!r} ({type(node.operation).__name__}): cannot read {shapes}. {error}"
        ) from error
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(written)]


def _constants(layer: Any, called: _Called) -> tuple[Any, ...]:
    """What an operation, not a layer, was called with beside tensors."""
    if isinstance(layer, keras.layers.Layer):
        return ()
    given = (_without_tensors(value) for value in (*called.args, *called.kwargs.values()))
    return tuple(_of_one(constant, called.batch) for constant in given)


def _arrays_beside(layer: Any, call: Any) -> str:
    """What is wrong with a call of a Keras layer with fixed arrays, as a mask; "" for nothing.

    Args:
        layer: or an operation, whose arrays are its `constants`.
        call: has `args` and `kwargs`.
    """
    if not isinstance(layer, keras.layers.Layer):
        return ""
    leaves = keras.tree.flatten((call.args, call.kwargs))
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    if not arrays:
        return ""
    return (
        "needs symbolic tensors alone. Received: an array beside them, of shape "
        f"{tuple(arrays[0].shape)}, as a mask is; there is no integer form for masks"
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and not isinstance(value, keras.KerasTensor)


def _without_tensors(value: Any) -> Any:
    """A value, None in the place of tensors; lists of nothing else are None."""
    if isinstance(value, list | tuple) and any(isinstance(v, keras.KerasTensor) for v in value):
        kept = [_without_tensors(each) for each in value]
        return kept if any(each is not None for each in kept) else None
    return None if isinstance(value, keras.KerasTensor) else value


def _says_inference(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("training") is False


def flatten(model: Any) -> FlatGraph:
    """Returns the flat graph of a model, of what outputs need.

    Models with a graph are walked through; subclassed ones, custom layers and Lambdas, at any
    depth, are opened: what stands in their place is what their `call` calls.

    Args:
        model: a Keras model, or what `functional_of` returned for it.

    Raises:
        DDQError: if the model is unbuilt, or no Keras 3 model; if its own `call` cannot be read; if
            it calls an inner model on shapes that it does not take.
    """
    functional = functional_of(model)
    flattener = _Flattener()
    inputs = [flattener.new_tensor(tensor.shape) for tensor in functional.inputs]
    outputs = flattener.walk(functional, inputs, "", False)
    return FlatGraph(
        nodes=read_by(outputs, flattener.nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        input_names=input_names(functional),
        input_shapes=tuple(tuple(tensor.shape) for tensor in functional.inputs),
    )
