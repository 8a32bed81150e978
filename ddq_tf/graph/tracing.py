"""What a layer's or model's `call` does: the layers and operations that it calls, as a list.

Read by running `call` on symbolic tensors. Keras's own layers are taken as they are; every other is
opened, at any depth: subclassed models, custom layers, Lambda, models within layers. What is called
are the same objects, with the same weights. The only file that looks into how Keras calls layers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras.src.layers import layer as layer_module
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose
from keras.src.layers.convolutional.base_depthwise_conv import BaseDepthwiseConv
from keras.src.layers.convolutional.base_separable_conv import BaseSeparableConv
from keras.src.ops.nn import DotProductAttention
from keras.src.ops.numpy import Einsum

from ddq_tf.errors import DDQError
from ddq_tf.graph.of_tensorflow import last_unknown, python_of, understood

# Layers that put what they compute through an activation at last.
_DO_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    BaseConv,
    BaseConvTranspose,
    BaseDepthwiseConv,
    BaseSeparableConv,
)
# Whose functions are known by their names.
_KNOWN_BY_NAME = ("keras", "tensorflow", "jax", "ddq_tf")
# Of Keras's own layers those that are nothing but what they call.
_OPENED = (
    keras.layers.Lambda,
    keras.layers.Pipeline,
    keras.layers.SpectralNormalization,
    keras.layers.Attention,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.TimeDistributed,
)
# Do to all rows of a sequence at once what they do to one.
_OF_ROWS = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
)
_OURS = "ddq_tf"
_MACHINERY = ("keras", "tensorflow", "jax", "contextlib", "functools")
# Tried where `call` reads the batch size. Any number that no shape of a network has will do.
TRIED_BATCH = 31
_LONGEST = 300


class _Unsaid(int):
    """`training` where nobody said it: false, but not False, which would freeze layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a layer or an operation.

    Attributes:
        layer: what was called.
        args, kwargs: with what.
        outputs: the symbolic tensors that it wrote.
        within: the opened layers around it, the outermost first.
        place: the line of the user's code, as "model.py:12"; "" where there is none.
        trouble: why it could not be opened; "" if it was not to be.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Any, ...]
    within: tuple[Any, ...]
    place: str
    trouble: str = ""

    @property
    def tensors(self) -> list[Any]:
        """The symbolic tensors among the arguments, in order."""
        leaves = keras.tree.flatten((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """What a layer or model does, as it was seen on symbolic tensors.

    Attributes:
        layer: what was called.
        inputs: the symbolic tensors that it was called with, in order.
        output: what it returned: a structure of symbolic tensors, and arrays or variables where it
            does not depend on the inputs.
        calls: in the order in which they ran.
        batch: the batch size that it was called with; None for any.
    """

    layer: Any
    inputs: tuple[Any, ...]
    output: Any
    calls: tuple[Call, ...]
    batch: int | None

    @property
    def outputs(self) -> list[Any]:
        """What is in `output`, in order."""
        return keras.tree.flatten(self.output)

    @property
    def has_sizes(self) -> bool:
        """Whether all sizes but the batch are known, or those of the inputs are not either."""
        written = [tensor for call in self.calls for tensor in call.outputs]
        open_inputs = any(None in tensor.shape[1:] for tensor in self.inputs)
        return open_inputs or not any(None in tensor.shape[1:] for tensor in written)


class NotReadableError(DDQError):
    """A layer whose `call` cannot be read; the message says why, where and what to do."""


def is_opened(layer: Any) -> bool:
    """Returns whether a layer is read by what its `call` does, not taken as it is.

    All are but Keras's own layers and ours; models are too, which have graphs of their own.
    """
    if not isinstance(layer, keras.layers.Layer):
        return False
    module = type(layer).__module__
    is_own = module.startswith(("keras.src.layers.", f"{_OURS}."))
    return type(layer) in _OPENED or isinstance(layer, keras.Model) or not is_own


def users_function(layer: Any) -> Callable[[Any], Any] | None:
    """Returns the activation of a layer that is a function of the user's; None if it is not.

    It is read by what it does, as a layer of the user's is.
    """
    function = layer.activation if isinstance(layer, _DO_ACTIVATIONS) else None
    if not callable(function) or isinstance(function, keras.layers.Layer):
        return None
    module = getattr(function, "__module__", None) or type(function).__module__
    return None if module.split(".")[0] in _KNOWN_BY_NAME else function


def is_misread(layer: Any) -> bool:
    """Returns whether Keras may tell another shape of a layer's output than it has."""
    return type(layer) in (keras.layers.EinsumDense, DotProductAttention)


def written_spec(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns what a layer writes, as symbolic tensors.

    Keras's EinsumDense leaves sizes open that its input tells, and its attention takes the size of
    the value for that of the query.
    """
    written: Any = layer.compute_output_spec(*args, **kwargs)
    if type(layer) is DotProductAttention:
        query, _, value = args[:3]
        return keras.KerasTensor((*query.shape[:-1], value.shape[-1]), dtype=written.dtype)
    if type(layer) is not keras.layers.EinsumDense or None not in written.shape[1:]:
        return written
    kernel: Any = layer.kernel
    symbolic = keras.KerasTensor(kernel.shape)
    whole: Any = Einsum(layer.equation).compute_output_spec(*args, symbolic)
    return keras.KerasTensor(whole.shape, dtype=written.dtype)


def trace(
    layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], walk: Callable[[Any], Any]
) -> Trace:
    """Returns what a layer or model does when it is called.

    Args:
        layer: built.
        args: symbolic tensors, of any batch size, in any structure.
        kwargs: likewise, and other arguments.
        walk: the graph of a model that has one, which is then not called; None for other layers.

    Raises:
        NotReadableError: if that cannot be seen at all.
    """
    first = _traced(layer, args, kwargs, walk, None)
    is_plain = isinstance(first, Trace) and not any(call.trouble for call in first.calls)
    if isinstance(first, Trace) and is_plain and first.has_sizes:
        return first
    second = _traced(layer, args, kwargs, walk, TRIED_BATCH)
    if isinstance(second, Trace):
        return second
    if isinstance(first, Trace):
        return first
    raise second


def _traced(
    layer: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    walk: Callable[[Any], Any],
    batch: int | None,
) -> Trace | NotReadableError:
    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, keras.KerasTensor):
            return leaf
        shape = tuple(leaf.shape) if batch is None else (batch, *leaf.shape[1:])
        inputs.append(keras.KerasTensor(shape, dtype=leaf.dtype))
        return inputs[-1]

    inputs: list[Any] = []
    args = tuple(keras.tree.map_structure(fresh, leaf) for leaf in args)
    given = {name: keras.tree.map_structure(fresh, leaf) for name, leaf in kwargs.items()}
    tape = _Tape(walk)
    if given.get("training") is None:
        given["training"] = _Unsaid()
    try:
        with _watched_by(tape):
            output = layer(*args, **given)
    except NotReadableError as error:
        return error
    except Exception as error:  # of whatever a user's code raises
        return NotReadableError(_words(error))
    if not all(len(getattr(leaf, "shape", ())) > 0 for leaf in keras.tree.flatten(output)):
        return NotReadableError(
            "its call() must return tensors. Received: "
            f"{', '.join(type(leaf).__name__ for leaf in keras.tree.flatten(output))}"
        )
    return Trace(
        layer=layer, inputs=tuple(inputs), output=output, calls=tuple(tape.calls), batch=batch
    )


class _Tape:
    """Writes down what is called."""

    def __init__(self, walk: Callable[[Any], Any]) -> None:
        self.calls: list[Call] = []
        self._within: list[Any] = []
        self._walk = walk

    def operation(self, called: Any, args: Any, kwargs: Any) -> Any:
        """An operation of Keras, on symbolic tensors."""
        output = written_spec(called, *args, **kwargs)
        self._write(called, args, kwargs, output)
        return output

    def layer(self, called: Any, args: Any, kwargs: Any) -> Any:
        """A layer, on symbolic tensors."""
        if not is_opened(called):
            output = written_spec(called, *args, **kwargs)
            self._write(called, args, kwargs, output)
            return output
        before = len(self.calls)
        self._within.append(called)
        try:
            return self._inside(called, args, kwargs)
        except Exception as error:  # of whatever a user's code raises
            del self.calls[before:]
            if len(self._within) == 1:
                raise
            trouble = str(error) if isinstance(error, NotReadableError) else _words(error)
        finally:
            self._within.pop()
        try:
            output = called.compute_output_spec(*args, **kwargs)
        except Exception as error:
            raise NotReadableError(f"{_label(called)} {trouble}") from error
        self._write(called, args, kwargs, output, trouble)
        return output

    def _inside(self, called: Any, args: Any, kwargs: Any) -> Any:
        if type(called) is keras.layers.TimeDistributed:
            return self._steps(called.layer, *args, **kwargs)
        functional = self._walk(called)
        if functional is None:
            return python_of(called.call)(*args, **kwargs)
        given = keras.tree.flatten(in_order(functional, (*args, *kwargs.values())))
        values = {id(t): v for t, v in zip(functional.inputs, given, strict=True)}
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    inner_args, inner_kwargs = node.arguments.fill_in(values)
                    written = node.operation(*inner_args, **inner_kwargs)
                    leaves = keras.tree.flatten(written)
                    values.update({id(t): v for t, v in zip(node.outputs, leaves, strict=True)})
        outputs = [values[id(tensor)] for tensor in functional.outputs]
        packed = keras.tree.pack_sequence_as(functional.output, outputs)
        return packed[0] if isinstance(packed, list | tuple) and len(packed) == 1 else packed

    def _steps(self, layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """What a layer does to each step: to all at once where it is the same, else one by one."""
        if mask is not None or inputs.shape[1] is None:
            raise NotReadableError(
                "needs a fixed number of steps, and no mask, which has no integer form. Received: "
                f"(steps, ...) of {tuple(inputs.shape[1:])}, mask={mask}"
            )
        before = len(self.calls)
        with contextlib.suppress(Exception):  # of what does not take one axis more
            output = layer(inputs, training=training)
            if all(map(_is_of_rows, self.calls[before:])):
                return output
        del self.calls[before:]
        steps = [layer(inputs[:, step], training=training) for step in range(inputs.shape[1])]
        return keras.ops.stack(steps, axis=1)

    def _write(self, called: Any, args: Any, kwargs: Any, output: Any, trouble: str = "") -> None:
        self.calls.append(
            Call(
                layer=called,
                args=args,
                kwargs=kwargs,
                outputs=tuple(keras.tree.flatten(output)),
                within=tuple(self._within),
                place=_place_now(),
                trouble=trouble,
            )
        )


def _is_of_rows(call: Call) -> bool:
    """Whether a call does to each row the same, however many axes there are."""
    is_last = getattr(call.layer, "axis", -1) in (-1, [-1], (-1,))
    return type(call.layer) in _OF_ROWS and is_last and not call.trouble


def in_order(functional: Any, values: tuple[Any, ...]) -> Any:
    """Returns the tensors that a model with a graph is called with, in the order of its inputs.

    A dictionary goes by the keys of the model's own dictionary, or by its inputs' names.

    Args:
        functional: the model.
        values: what it is called with: symbolic tensors in any structure, and other arguments.
    """
    given = next((value for value in values if isinstance(value, dict)), None)
    if given is None:
        leaves = keras.tree.flatten(values)
        return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
    if isinstance(functional.input, dict):
        return keras.tree.flatten({key: given[key] for key in functional.input})
    return [given[tensor.name] for tensor in functional.inputs]


# How Keras is watched

_LOCK = threading.RLock()
_OPERATORS = ("add", "sub", "mul", "truediv", "pow", "matmul")


@contextlib.contextmanager
def _watched_by(tape: _Tape) -> Iterator[None]:
    """Tells a tape of every call on symbolic tensors that this thread makes."""
    mine = threading.get_ident()

    def watched(original: Callable[..., Any], told: Callable[..., Any]) -> Callable[..., Any]:
        def symbolic_call(called: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != mine:
                return original(called, *args, **kwargs)
            return told(called, args, kwargs)

        return symbolic_call

    def node(*args: Any, **kwargs: Any) -> Any:
        # The layers keep no trace of having been called.
        return None if threading.get_ident() == mine else original_node(*args, **kwargs)

    original_node = layer_module.Node
    filters = keras.config.is_traceback_filtering_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_LOCK)
        stack.enter_context(understood())
        for kind, told in ((keras.Operation, tape.operation), (keras.layers.Layer, tape.layer)):
            replaced = watched(kind.symbolic_call, told)
            stack.enter_context(_set(kind, "symbolic_call", replaced))
        stack.enter_context(_set(layer_module, "Node", node))
        for name in _OPERATORS:
            for method in (f"__{name}__", f"__r{name}__"):
                stack.enter_context(_symbolic_too(method, name))
        # Losses and states stay as they are.
        stack.enter_context(keras.StatelessScope(collect_losses=True))
        keras.config.disable_traceback_filtering()
        try:
            yield
        finally:
            if filters:
                keras.config.enable_traceback_filtering()


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an attribute another value meanwhile."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _symbolic_too(method: str, name: str) -> Any:
    """Lets variables compute with symbolic tensors, as backend tensors in their place would."""
    original = getattr(keras.Variable, method)
    compute = _COMPUTE[name]

    def operate(variable: Any, other: Any) -> Any:
        if not isinstance(other, keras.KerasTensor):
            return original(variable, other)
        pair = (other, variable) if method.startswith("__r") else (variable, other)
        return compute(*pair)

    return _set(keras.Variable, method, operate)


_COMPUTE: dict[str, Callable[[Any, Any], Any]] = {
    "add": keras.ops.add,
    "sub": keras.ops.subtract,
    "mul": keras.ops.multiply,
    "truediv": keras.ops.true_divide,
    "pow": keras.ops.power,
    "matmul": keras.ops.matmul,
}


# Where, and why not


def _place_now() -> str:
    """The line of the user's code that is calling; "" where Keras itself, or we, do."""
    frame: Any = sys._getframe(1)
    while frame is not None and _package(frame) == _OURS:
        frame = frame.f_back
    while frame is not None and (_package(frame) in _MACHINERY or _is_operator(frame)):
        frame = frame.f_back
    if frame is None or _package(frame) == _OURS:
        return ""
    return _line(frame.f_code.co_filename, frame.f_lineno)


def _is_operator(frame: Any) -> bool:
    """Whether this is `_symbolic_too` at work in a user's line."""
    return frame.f_globals is globals() and frame.f_code.co_name == "operate"


def _package(frame: Any) -> str:
    return str(frame.f_globals.get("__name__", "")).split(".")[0]


def _line(file: str, number: int) -> str:
    """A file, shorter where it lies below the working directory, and a line."""
    with contextlib.suppress(ValueError):
        near = os.path.relpath(file)
        file = file if near.startswith("..") else near
    return f"{file}:{number}"


def _label(layer: Any) -> str:
    return f"{layer.name!r} ({type(layer).__name__})"


def _words(error: Exception) -> str:
    """Why a `call` cannot be read, where, and the cure."""
    frames = [
        (frame.f_code.co_filename, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if _package(frame) not in (*_MACHINERY, _OURS)
    ]
    where = f" at {_line(*frames[-1])}" if frames else ""
    said = " ".join(str(error).split())
    cure = next(cure for sign, cure in _CURES if sign in said)
    cure = cure.format(unknown=last_unknown() or "functions")
    said = said.split(". ")[0]
    said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
    return f"cannot be read{where}: {cure}. Received: {type(error).__name__}: {said}"


# By what Keras says of it: what to do.
_CURES = (
    (
        "as a boolean",
        "its control flow (if, while, and, or, not) depends on values of tensors, but a file has "
        "one way for all; compute both ways and choose by keras.ops, as maximum does",
    ),
    (
        "as input to a TensorFlow function",
        "it calls TensorFlow's {unknown} there; write the same by keras.ops or by Keras layers",
    ),
    (
        "add_loss",
        "what its call adds to the loss has no place in the DDQ model, which trains what the layer "
        "is made of; use keras.layers.ActivityRegularization, or compute_loss() of the model",
    ),
    (
        "stateless scope",
        "a layer within has no weights yet; call the model once on a batch",
    ),
    (
        "",
        "call() must be made of Keras layers and keras.ops, which take symbolic tensors; no numpy, "
        "no values of tensors, no loops over them",
    ),
)
