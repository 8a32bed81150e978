"""The graph of any Keras model: its own, or what tracing its `call` shows."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import keras

from ddq_tf.errors import DDQError
from ddq_tf.graph.flat_graph import unused
from ddq_tf.graph.tracing import NotReadableError, Trace, trace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced:
    """A subclassed model as if it were a Functional one.

    Attributes:
        name: of the model.
        input: the structure of its inputs; `inputs` in order.
        output: the structure of its outputs; `outputs` in order.
        output_names: in order.
        found: what its `call` does.
    """

    name: str
    input: Any
    inputs: tuple[Any, ...]
    output: Any
    output_names: tuple[str, ...]
    found: Trace

    @property
    def outputs(self) -> list[Any]:
        """The symbolic tensors of `output`, in order."""
        return self.found.outputs


def functional_of(model: Any) -> Any:
    """Returns the Functional model behind a Sequential or Functional one; others as `Traced`.

    Args:
        model: a Keras model, or what this function returned.

    Raises:
        DDQError: if the model is unbuilt, or no Keras 3 model; if it is subclassed and its `call`
            cannot be read.
    """
    if isinstance(model, Traced):
        return model
    if not isinstance(model, keras.Model):
        raise DDQError(
            "model must be a Keras 3 model (keras.Model; tf_keras models must be re-saved with "
            f"Keras 3). Received: {type(model).__module__}.{type(model).__name__}"
        )
    own = graph_of(model)
    if own is not None:
        return own
    if isinstance(model, keras.Sequential):
        raise DDQError(
            f"model {model.name!r} is not built: its input shape is unknown. Start it with "
            "keras.Input(shape) or call model.build(input_shape)."
        )
    return _read(model)


def graph_of(model: Any) -> Any | None:
    """Returns the Functional model that says what a model computes, None if there is none.

    There is none for layers, subclassed models and those whose class has a `call` of its own.
    """
    if not isinstance(model, keras.Model) or defines(type(model), "call"):
        return None
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if hasattr(model, "_nodes_by_depth") else None


def _read(model: Any) -> Traced:
    """What a model does whose class has a `call` of its own."""
    given = _given(model)
    try:
        found = trace(model, (given,), {}, graph_of)
    except NotReadableError as error:
        raise DDQError(f"model {model.name!r} ({type(model).__name__}) {error}") from error
    paths = [path for path, _ in keras.tree.flatten_with_path(found.output)]
    names: list[str] = []
    for path in paths:
        names.append(unused("_".join(("output", *map(str, path))), names))
    return Traced(
        name=model.name,
        input=given,
        inputs=tuple(keras.tree.flatten(given)),
        output=found.output,
        output_names=tuple(names),
        found=found,
    )


def _given(model: Any) -> Any:
    """The inputs of a model without a graph, as symbolic tensors in their structure."""
    if getattr(model, "inputs", None):  # made of a graph, with a call() of its own
        return keras.tree.map_structure(lambda t: t, model.input)
    parameters = [
        p
        for p in inspect.signature(model.call).parameters.values()
        if p.name not in ("training", "mask") and p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    shapes = _shapes_seen(model)
    if shapes is None:
        state, cure = "was never called", "Call it once on a batch: model(images[:1])"
        if model.built:
            state = "was called, but Keras could not read its call()"
            cure = "Say what it takes: model.build((None, 224, 224, 3))"
        raise DDQError(
            f"model {model.name!r} ({type(model).__name__}) {state}: its input shape is unknown. "
            f"{cure}"
        )
    if len(parameters) > 1:
        names = ", ".join(p.name for p in parameters)
        raise DDQError(
            f"model {model.name!r} ({type(model).__name__}) takes several arguments ({names}), of "
            "which Keras keeps no shapes. Say them: keras.Model([a, b], model(a, b)) with a, b = "
            "keras.Input(...) of each"
        )
    return _symbolic(shapes, (parameters[0].name if parameters else "inputs",))


def _symbolic(shapes: Any, path: tuple[str, ...]) -> Any:
    """Inputs of these shapes; those in a dictionary have the names of their keys."""
    if isinstance(shapes, Mapping):
        return {key: _symbolic(shape, (str(key),)) for key, shape in shapes.items()}
    if all(isinstance(size, int | None) for size in shapes):
        return keras.Input(batch_shape=(None, *shapes[1:]), name="_".join(path))
    return [_symbolic(shape, (*path, str(number))) for number, shape in enumerate(shapes)]


def _shapes_seen(model: Any) -> Any:
    """The shapes that a model was built with, in the structure of its inputs, or None."""
    built = getattr(model, "_build_shapes_dict", None)
    return next(iter(built.values())) if model.built and built else None


def is_keras(kind: type) -> bool:
    """Returns whether a class is one of Keras's own."""
    return kind.__module__.split(".")[0] == "keras"


def defines(kind: type, name: str) -> bool:
    """Returns whether a user's class, not Keras, says what a method of a model does."""
    definer = next((base for base in kind.__mro__ if name in vars(base)), None)
    return definer is not None and not is_keras(definer)


def input_names(functional: Any) -> tuple[str, ...]:
    """Returns the names of a Functional or traced model's inputs, in order."""
    return tuple(tensor._keras_history.operation.name for tensor in functional.inputs)


def output_names(functional: Any) -> tuple[str, ...]:
    """Returns what a Functional model calls its outputs, in order, each name once.

    The keys of a dictionary; otherwise the names of the layers that write them.
    """
    names: list[str] = []
    rows = zip(
        keras.tree.flatten_with_path(functional.output), functional.output_names, strict=True
    )
    for (path, _), layer in rows:
        by_key = bool(path) and all(isinstance(step, str) for step in path)
        names.append(unused("_".join(path) if by_key else layer, names))
    return tuple(names)
