"""Layers of tf_keras (Keras 2) as layers of Keras 3."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.tfmot.packages import tf_keras

# What Keras 2 stores of a layer and Keras 3 does not know, where it changes no answer: the shape
# that the graph tells too, how a kernel was chosen, and defaults.
_IGNORED = {
    "batch_input_shape",
    "implementation",
    "time_major",
    "renorm_clipping",
    "renorm_momentum",
    "virtual_batch_size",
    "adjustment",
    "fused",
}
_DEFAULTS = {"groups": 1, "renorm": False, "ragged": False, "sparse": False}
_RENAMED = {"SyncBatchNormalization": "BatchNormalization"}
_OPERATIONS = ("TFOpLambda", "SlicingOpLambda", "Lambda")
# What TensorFlow's functions are called in keras.ops; of one or two tensors, or a number.
_FUNCTIONS = {
    "__operators__.add": "add",
    "math.add": "add",
    "math.subtract": "subtract",
    "math.multiply": "multiply",
    "math.truediv": "true_divide",
    "math.divide": "true_divide",
    "math.maximum": "maximum",
    "math.minimum": "minimum",
    "math.sigmoid": "sigmoid",
    "math.tanh": "tanh",
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "nn.silu": "silu",
    "nn.softmax": "softmax",
}


def plain_config(layer: Any) -> dict[str, Any]:
    """Returns the configuration of a tf_keras layer, with the activation that it had before TFMOT.

    Inside a wrapper, TFMOT replaces a layer's activation by one that quantizes.
    """
    config = _plain(layer.get_config())
    if "activation" in config:
        config["activation"] = _activation_name(layer.activation)
    return config


def _plain(value: Any) -> Any:
    """A configuration without tf_keras's own lists and dictionaries."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _activation_name(activation: Any) -> Any:
    """The name of an activation of tf_keras."""
    while type(activation).__name__ == "QuantizeAwareActivation":
        activation = activation.activation
    if type(activation).__name__ == "NoOpActivation":
        return "linear"
    return tf_keras().activations.serialize(activation)


def operation_of(layer: Any) -> Callable[..., Any] | None:
    """Returns the function of keras.ops that does what an operation of tf_keras does, or None."""
    name = _FUNCTIONS.get(getattr(layer, "symbol", None) or "")
    if type(layer).__name__ != "TFOpLambda" or name is None:
        return None
    function = getattr(keras.ops, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        # Of a call's options only the other operand matters; a name does not.
        return function(*args, *(kwargs[key] for key in ("x", "y") if key in kwargs))

    return call


def twin_of(layer: Any, config: dict[str, Any]) -> keras.layers.Layer:
    """Returns a Keras 3 layer like a tf_keras one, without its weights.

    Args:
        layer: for its class.
        config: see `plain_config`.

    Raises:
        DDQError: if Keras 3 has no such layer, or the layer an option that it has not.
    """
    kind = _RENAMED.get(type(layer).__name__, type(layer).__name__)
    if kind in _OPERATIONS:
        what = getattr(layer, "symbol", None) or "its function"
        raise DDQError(f"{_label(layer)}: {what} does not move; use a layer instead")
    found = getattr(keras.layers, kind, None)
    if found is None or not type(layer).__module__.startswith(("tf_keras", "keras")):
        raise DDQError(f"{_label(layer)}: Keras 3 has no such layer; build the model in Keras 3")
    options, unknown = {}, []
    accepted = _options(found)
    for name, value in config.items():
        if name == "dtype":
            options["dtype"] = "float32"
        elif name == "axis" and kind == "BatchNormalization" and isinstance(value, list):
            (options["axis"],) = value
        elif name == "alpha" and kind == "LeakyReLU":
            options["negative_slope"] = float(value)
        elif name in accepted:
            options[name] = value
        elif not _changes_nothing(name, value):
            unknown.append(f"{name}={value!r}")
    if unknown:
        raise DDQError(f"{_label(layer)}: Keras 3 has no option {', '.join(unknown)}")
    try:
        return found.from_config(options)
    except (TypeError, ValueError, KeyError) as error:
        cause = str(error).strip().split("Exception encountered: ")[-1].split("\n")[0]
        raise DDQError(f"{_label(layer)}: Keras 3 cannot make it: {cause}") from error


def _changes_nothing(name: str, value: Any) -> bool:
    """Whether an option that Keras 3 does not know matters to no answer."""
    is_default = name in _DEFAULTS and _DEFAULTS[name] == value
    return name in _IGNORED or name.endswith("_initializer") or is_default or value is None


def _options(kind: type) -> set[str]:
    """The arguments of a Keras 3 layer, those of its base classes included."""
    found = {"name", "trainable"}
    for each in kind.__mro__:
        if "__init__" in vars(each) and each not in (keras.layers.Layer, object):
            found |= set(inspect.signature(each).parameters)
    return found - {"self", "args", "kwargs"}


def _label(layer: Any) -> str:
    return f"layer {layer.name!r} ({type(layer).__name__})"


def weights_of(plain: Any, layer: Any, holder: Any) -> list[np.ndarray]:
    """Returns the weights of a layer in its own order.

    Args:
        plain: a built layer of the same configuration, without a wrapper.
        layer: which may have lost some of its weights to a wrapper.
        holder: the wrapper, or the layer itself.
    """
    if holder is layer:
        return list(layer.get_weights())
    held = {last_name(variable): variable for variable in (*holder.weights, *layer.weights)}
    return [held[last_name(variable)].numpy() for variable in plain.weights]


def set_weights(twin: keras.layers.Layer, layer: Any, values: list[np.ndarray]) -> None:
    """Gives a Keras 3 layer the weights of its tf_keras twin.

    Raises:
        DDQError: if they are not of the same shapes.
    """
    wanted = [tuple(variable.shape) for variable in twin.weights]
    received = [value.shape for value in values]
    if wanted != received:
        raise DDQError(
            f"{_label(layer)}: Keras 3 needs weights of shapes {wanted}. Received: {received}"
        )
    twin.set_weights(values)


def last_name(variable: Any) -> str:
    """Returns the last part of a tf_keras variable's name."""
    return variable.name.split("/")[-1].split(":")[0]
