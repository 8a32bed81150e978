"""`from_tfmot`: a tf_keras model, quantized by TFMOT or not, as a Keras 3 model and its ranges."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.graph import flatten
from ddq_tf.graph.flat_graph import unused
from ddq_tf.tfmot.layers import (
    operation_of,
    plain_config,
    set_weights,
    twin_of,
    weights_of,
)
from ddq_tf.tfmot.learned import Learned
from ddq_tf.tfmot.opened import is_quantize_layer, is_wrapper, opened
from ddq_tf.tfmot.packages import tf_keras
from ddq_tf.transform import Ranges

_SIZE = 64  # of an image whose size a model leaves open
_EXAMPLES = 2
_CENTROIDS = 16
_CLOSE = 1e-4  # of the largest value that a layer writes


def from_tfmot(model: Any) -> tuple[keras.Model, Ranges]:
    """Returns a tf_keras model as a float Keras 3 model, and the ranges that it learned.

    Takes what `tfmot.quantization.keras.quantize_apply` (or `quantize_model`) returns, trained or
    not; models with pruning or clustering wrappers, which it strips; and plain tf_keras models,
    which have no ranges. Weights, BatchNorms and names move; so does the precision of kernels that
    `DDQQuantizeConfig` trained. The rest of TFMOT's scheme is 8 bits.

        model, ranges = ddq_tf.tfmot.from_tfmot("quantized.h5")
        config = ddq_tf.DDQConfig(target="litert-int8")
        quantized = ddq_tf.quantize_model(model, config, ranges=ranges)

    Every layer is run in both Kerases on random numbers: one that answers otherwise is refused.

    Args:
        model: of tf_keras; or the path of a .h5 file, a .keras file of tf_keras or a SavedModel.

    Returns:
        A float Keras 3 model, not compiled, and `ddq_tf.Ranges`. A range that was never learned is
        not among them: such models need calibration data too. `ranges.notes` tells what else.

    Raises:
        DDQError: if tf_keras or TFMOT is not installed; if the model cannot be loaded, is a
            subclass of Model, or annotated only; naming all layers that do not move, and all
            quantizers that are not known.
    """
    if isinstance(model, keras.Model):
        raise DDQError(
            f"model {model.name!r} is a Keras 3 model already: pass it to quantize_model"
        )
    source = opened(model)
    learned = Learned()
    walk = _Walk(learned)
    moved = walk.model(source)
    raise_all(f"model {source.name!r} cannot move to Keras 3:", walk.problems)
    learned.check()
    return moved, learned.ranges(_clustered(moved))


def _clustered(model: keras.Model) -> tuple[str, ...]:
    """The names of layers whose kernel has at most 16 different values, and more weights."""
    found = []
    for node in flatten(model).nodes:
        kernel = getattr(node.layer, "kernel", None)
        if kernel is not None:
            values = np.asarray(kernel).ravel()
            if values.size > _CENTROIDS**2 and np.unique(values).size <= _CENTROIDS:
                found.append(node.name)
    return tuple(dict.fromkeys(found))


class _Walk:
    """Calls the Keras 3 twin of each layer in the order of the graph.

    Attributes:
        problems: a line for each layer that does not move.
    """

    def __init__(self, learned: Learned) -> None:
        self.problems: list[str] = []
        self._learned = learned
        self._twins: dict[int, tuple[Any, Any]] = {}
        self._filled: set[int] = set()
        self._names: dict[int, str] = {}

    def model(self, source: Any) -> Any:
        """Returns the Keras 3 model of a built tf_keras model."""
        inner = getattr(source, "_functional", None) or source  # of a Sequential, once it is built
        if not hasattr(inner, "_nodes_by_depth"):
            raise DDQError(f"model {source.name!r} has no graph: call it once, or build it")
        symbols: dict[int, Any] = {}
        values: dict[int, Any] = {}
        for tensor, name in zip(inner.inputs, inner.input_names, strict=True):
            symbols[id(tensor)] = keras.Input(tensor.shape[1:], name=name, dtype=tensor.dtype.name)
            values[id(tensor)] = _random(tensor)
        for depth in sorted(inner._nodes_by_depth, reverse=True):
            for node in inner._nodes_by_depth[depth]:
                if not node.is_input:
                    self._call(node, symbols, values)
        if self.problems:
            return None
        return keras.Model(
            _mapped(inner._nested_inputs, symbols),
            _mapped(inner._nested_outputs, symbols),
            name=source.name,
        )

    def _call(self, node: Any, symbols: dict[int, Any], values: dict[int, Any]) -> None:
        """Makes the twin of one call, unless its layer does not move."""
        layer, outputs = node.layer, keras.tree.flatten(node.outputs)
        if is_quantize_layer(layer):
            (read,) = node.keras_inputs
            self._learned.input(layer, read._keras_history.layer.name)
            symbols[id(outputs[0])], values[id(outputs[0])] = symbols[id(read)], values[id(read)]
            return
        arguments = (node.call_args, node.call_kwargs)
        args, kwargs = _mapped(arguments, values)
        try:
            plain, twin = self._twin(layer)
            expected = plain(*args, **kwargs)
            if isinstance(twin, keras.layers.Layer) and not isinstance(twin, keras.Model):
                self._fill(layer, plain, twin, args, kwargs)
                expected = plain(*args, **kwargs)
            _compare(layer, expected, twin(*args, **kwargs))
            args, kwargs = _mapped(arguments, symbols)
            made = twin(*args, **kwargs)
            if not isinstance(twin, keras.layers.Layer):
                made._keras_history.operation.name = self._name(layer)
        except DDQError as error:
            self.problems += str(error).splitlines()
            # What reads it is looked at too.
            expected = layer(*args, **kwargs)
            made = keras.tree.map_structure(
                lambda value: keras.KerasTensor((None, *value.shape[1:])), expected
            )
        rows = (outputs, keras.tree.flatten(made), keras.tree.flatten(expected))
        for tensor, symbol, value in zip(*rows, strict=True):
            symbols[id(tensor)], values[id(tensor)] = symbol, value

    def _twin(self, layer: Any) -> tuple[Any, Any]:
        """A layer without wrapper, and its Keras 3 twin; for all calls the same."""
        if id(layer) not in self._twins:
            if isinstance(layer, tf_keras().Model):
                made = self.model(layer)
                if made is None:
                    raise DDQError(f"layer {layer.name!r} is a model that does not move")
                self._twins[id(layer)] = layer, made
            elif (function := operation_of(layer)) is not None:
                self._twins[id(layer)] = layer, function
            else:
                inner = layer.layer if is_wrapper(layer) else layer
                config = {**plain_config(inner), "name": self._name(inner)}
                twin = twin_of(inner, config)
                self._twins[id(layer)] = type(inner).from_config(config), twin
        return self._twins[id(layer)]

    def _name(self, layer: Any) -> str:
        """A layer's name as Keras 3 takes it, without the slashes of Keras 2."""
        if id(layer) not in self._names:
            name = unused(layer.name.replace("/", "_"), set(self._names.values()))
            self._names[id(layer)] = name
        return self._names[id(layer)]

    def _fill(self, layer: Any, plain: Any, twin: Any, args: Any, kwargs: Any) -> None:
        """Moves weights, and what a wrapper learned, when a layer is first called."""
        if id(layer) in self._filled:
            return
        self._filled.add(id(layer))
        inner = layer.layer if is_wrapper(layer) else layer
        values = weights_of(plain, inner, layer)
        plain.set_weights(values)
        twin(*args, **kwargs)  # builds it
        set_weights(twin, inner, values)
        if is_wrapper(layer):
            self._learned.wrapper(layer, twin.name)
        elif values:
            self._learned.without_wrapper(twin.name)


def _mapped(structure: Any, values: dict[int, Any]) -> Any:
    """A structure of a tf_keras graph with other things for its tensors."""
    return keras.tree.map_structure(lambda each: values.get(id(each), each), structure)


def _random(tensor: Any) -> np.ndarray:
    """Random values of a tensor's shape and dtype."""
    shape = [_EXAMPLES, *(_SIZE if size is None else size for size in tensor.shape[1:])]
    generator = np.random.default_rng(0)
    if tensor.dtype.is_integer:
        return generator.integers(0, 2, shape).astype(tensor.dtype.name)
    return generator.uniform(-1, 1, shape).astype(tensor.dtype.name)


def _compare(layer: Any, expected: Any, received: Any) -> None:
    """Refuses a layer whose twin answers otherwise."""
    rows = zip(keras.tree.flatten(expected), keras.tree.flatten(received), strict=True)
    for one, two in rows:
        theirs, mine = np.asarray(one, np.float64), np.asarray(two, np.float64)
        if theirs.shape != mine.shape:
            raise DDQError(
                f"layer {layer.name!r} ({type(layer).__name__}): Keras 2 writes shape "
                f"{theirs.shape}, Keras 3 {mine.shape}"
            )
        off = np.abs(theirs - mine).max(initial=0)
        if not off <= _CLOSE * max(np.abs(theirs).max(initial=0), 1.0):
            raise DDQError(
                f"layer {layer.name!r} ({type(layer).__name__}): Keras 3 answers otherwise than "
                f"Keras 2, by {off:.2g}, as its hard_sigmoid does. Build the model in Keras 3"
            )
