"""The way a model trains stays its own: a subclass with its own `train_step`, and what it needs."""

from __future__ import annotations

from typing import Any

import keras
from absl import logging

from ddq_tf.errors import DDQError
from ddq_tf.graph.functional import defines, is_keras

TRAINING = (
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "metrics",
    "fit",
)


def own_class(model: Any) -> type | None:
    """Returns a model's class if it trains in a way of its own, else None.

    Raises:
        DDQError: if it is a Sequential: its graph is kept, but not its class; or if it has a
            `call` of its own, which its training may go around.
    """
    kind = type(model)
    own = [name for name in TRAINING if defines(kind, name)]
    if not own:
        return None
    if issubclass(kind, keras.Sequential):
        raise DDQError(
            f"model {model.name!r} ({kind.__name__}) has its own {', '.join(own)}: that is kept in "
            "subclasses of keras.Model, made by "
            f"{kind.__name__}(inputs, outputs). Received: a subclass of keras.Sequential"
        )
    if defines(kind, "call"):
        raise DDQError(
            f"model {model.name!r} ({kind.__name__}) has its own {', '.join(own)} and a call() of "
            "its own: what trains may go around call(), by layers that the DDQ model replaces. "
            "Quantize the network that it trains, or make it a subclass of keras.Model without "
            f"call(), made by {kind.__name__}(inputs, outputs)"
        )
    return kind


def own_attributes(model: Any) -> dict[str, Any]:
    """Returns what the methods of an own class may read from the instance; {} without such a class.

    Raises:
        DDQError: if one is a layer or model of the graph: the DDQ model has none of these.
    """
    if own_class(model) is None:
        return {}
    inputs = keras.Input((1,))
    usual = {*vars(keras.Model(inputs, keras.layers.Identity()(inputs))), *_SET_BY_KERAS}
    found = {n: v for n, v in vars(model).items() if n not in usual and not n.startswith("_")}
    graph = {id(layer) for layer in _layers_of(model)}
    lost = [n for n, v in found.items() if any(id(x) in graph for x in keras.tree.flatten(v))]
    if lost:
        raise DDQError(
            f"model {model.name!r} ({type(model).__name__}) trains in a way of its own, which may "
            f"read its attributes {', '.join(lost)}: layers of the float graph, which the DDQ "
            "model replaces. Find layers by self.get_layer(name) instead, and keep no attribute"
        )
    return found


_SET_BY_KERAS = ("loss", "stop_training", "history", "output_names", "input_spec")


def _layers_of(model: Any) -> list[Any]:
    """The operations of a model's graph, also of the models within."""
    # One that a `call` calls may have no graph of its own.
    own = getattr(model, "operations", model.layers)
    inner = [m for m in own if isinstance(m, keras.Model)]
    return [*own, *(layer for m in inner for layer in _layers_of(m))]


def ddq_class(base: type, own: type | None) -> type:
    """Returns a DDQ model's class: the base itself, or one that trains as a user's class does."""
    if own is None:
        return base
    made = type(base.__name__, (base, own), {"__module__": base.__module__, "own": own})
    # Saved files name the base, which makes the class anew from what the configuration tells.
    for kind in (made, base):
        keras.saving.register_keras_serializable(package="ddq_tf", name=base.__name__)(kind)
    return made


def keras_base(kind: type) -> Any:
    """Returns the first of Keras's classes that a class inherits from."""
    return next(base for base in kind.__mro__ if is_keras(base))


def to_config(own: type | None, attributes: dict[str, Any]) -> dict[str, Any] | None:
    """Returns an own class and its attributes as a configuration holds them; None for none."""
    if own is None:
        return None
    kept, lost = {}, []
    for name, value in attributes.items():
        try:
            kept[name] = keras.saving.serialize_keras_object(value)
        except (TypeError, ValueError, NotImplementedError, AttributeError):
            lost.append(name)
    if lost:
        logging.warning(
            "attributes %s of %s cannot be saved: a loaded model has none", lost, own.__name__
        )
    return {"name": keras.saving.get_registered_name(own), "attributes": kept}


def from_config(
    config: dict[str, Any] | None, custom_objects: Any
) -> tuple[type | None, dict[str, Any]]:
    """Returns the class and the attributes of `to_config`.

    Raises:
        DDQError: if the class is not known to Keras.
    """
    if config is None:
        return None, {}
    name = config["name"]
    own = keras.saving.get_registered_object(name, custom_objects)
    if own is None:
        short = name.rpartition(">")[2]
        raise DDQError(
            f"the model trains as the class {name!r} does, which Keras does not know: pass "
            f"custom_objects={{{name!r}: {short}}} to load_model, or decorate the class with "
            "keras.saving.register_keras_serializable()"
        )
    restored = {
        key: keras.saving.deserialize_keras_object(value, custom_objects)
        for key, value in config["attributes"].items()
    }
    return own, restored
