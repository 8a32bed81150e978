"""A project's tf_keras model, from memory or a file, with its wrappers told apart."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.tfmot.packages import inner, tf_keras, tfmot

_LONGEST_CAUSE = 300


def opened(source: Any) -> Any:
    """Returns a tf_keras model: a given one, or what a .h5, .keras or SavedModel holds.

    Pruning and clustering wrappers are stripped.

    Raises:
        DDQError: if it is none, not built, or not functional.
    """
    keras = tf_keras()
    model = _loaded(Path(source)) if isinstance(source, str | os.PathLike) else source
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__.split('.')[0]}.{type(model).__name__}"
        raise DDQError(
            "from_tfmot takes a tf_keras model or the path of one. A Keras 3 model goes to "
            f"quantize_model as it is. Received: {kind}"
        )
    if not model.built or not (isinstance(model, keras.Sequential) or model._is_graph_network):
        raise DDQError(
            f"model {model.name!r} must be a built Sequential or Functional model. Received: "
            f"{'not built' if not model.built else 'a subclass of Model'}"
        )
    annotated = [
        f"layer {layer.name!r}" for layer in model.layers if type(layer).__name__ in _ANNOTATED
    ]
    raise_all(
        f"model {model.name!r} is annotated, but not quantized: call "
        "tfmot.quantization.keras.quantize_apply first, or pass the model from before:",
        annotated,
    )
    return _stripped(model)


_ANNOTATED = ("QuantizeAnnotate", "ClusterAnnotate")
_PRUNED, _CLUSTERED = "PruneLowMagnitude", "ClusterWeights"


def _stripped(model: Any) -> Any:
    """A model without wrappers of pruning and clustering."""
    kinds = {type(layer).__name__ for layer in model.layers}
    if _PRUNED in kinds:
        model = tfmot().sparsity.keras.strip_pruning(model)
    if _CLUSTERED in kinds:
        model = tfmot().clustering.keras.strip_clustering(model)
    return model


@contextlib.contextmanager
def quantize_scope() -> Iterator[None]:
    """Lets tf_keras load models of TFMOT and of `DDQQuantizeScheme`, to train them on.

        with ddq_tf.tfmot.quantize_scope():
            model = tf_keras.models.load_model("quantized.h5")

    TFMOT's own scope mixes up weights where a quantizer has some that train.
    """
    kinds = importlib.import_module("ddq_tf.tfmot.quantizers").CLASSES
    with (
        tfmot().quantization.keras.quantize_scope({kind.__name__: kind for kind in kinds}),
        tfmot().sparsity.keras.prune_scope(),
        tfmot().clustering.keras.cluster_scope(),
        tf_keras().saving.custom_object_scope(_readers()),
    ):
        yield


def _loaded(path: Path) -> Any:
    if not path.exists():
        raise DDQError(f"the model does not exist. Received: {str(path)!r}")
    with quantize_scope():
        try:
            if path.suffix == ".keras":
                return _from_keras_file(path)
            return tf_keras().models.load_model(path, compile=False)
        except DDQError:
            raise
        except Exception as error:  # whatever h5py, zipfile, TensorFlow or a layer raises
            cause = str(error).strip().split("\n")[0][:_LONGEST_CAUSE]
            raise DDQError(
                f"tf_keras cannot load the model {str(path)!r}: {type(error).__name__}: {cause}. "
                "Layers, quantizers and QuantizeConfigs of one's own: load it inside "
                "tfmot.quantization.keras.quantize_scope({...}) and pass the model"
            ) from error


def _from_keras_file(path: Path) -> Any:
    """Reads a .keras file of tf_keras, whose own reader fails on wrappers of TFMOT."""
    keras = tf_keras()
    with tempfile.TemporaryDirectory() as folder:
        cleaned = Path(folder) / path.name
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(cleaned, "w") as written:
            for name in archive.namelist():
                data = archive.read(name)
                if name == "config.json":
                    data = json.dumps(_without_builds(json.loads(data))).encode()
                written.writestr(name, data)
        return keras.models.load_model(cleaned, compile=False)


def _without_builds(value: Any) -> Any:
    """A configuration without the shapes that layers were built with: the graph tells them too.

    A QuantizeLayer that is built twice has its variables twice.
    """
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key != "build_config"}
        return {key: _without_builds(each) for key, each in kept.items()}
    return [_without_builds(each) for each in value] if isinstance(value, list) else value


@functools.cache
def _readers() -> dict[str, type]:
    """Wrappers that read what they saved.

    A wrapper around a layer that was built before it tracks the layer's weights too, in front of
    its own, and saves all. One that is made from its configuration tracks its own alone, and a
    quantizer's before the kernel.
    """
    module = inner("quantization.keras.quantize_wrapper")
    return {name: _reader(getattr(module, name)) for name in _WRAPPERS}


_WRAPPERS = ("QuantizeWrapper", "QuantizeWrapperV2")


def _reader(kind: Any) -> type:
    """A wrapper that reads .keras files, and whose own weights stand last as in .h5 files."""

    def load_own_variables(self: Any, store: Any) -> None:
        mine = self._trainable_weights + self._non_trainable_weights
        values = [store[str(i)] for i in range(len(store.keys()))]
        for variable, value in zip(mine, values[len(values) - len(mine) :], strict=True):
            variable.assign(value)

    def trainable_weights(self: Any) -> list[Any]:
        kernels = [kernel for kernel, *_ in getattr(self, "_weight_vars", ())]
        of_layer = {id(variable) for variable in (*kernels, *self.layer.trainable_weights)}
        found = kind.trainable_weights.fget(self)
        return sorted(found, key=lambda variable: id(variable) not in of_layer)

    own = {
        "load_own_variables": load_own_variables,
        "trainable_weights": property(trainable_weights),
    }
    return type(kind.__name__, (kind,), own)


def is_wrapper(layer: Any) -> bool:
    """Whether a layer is TFMOT's wrapper around a quantized one."""
    if "quantize_wrapper" not in {c.__module__.split(".")[-1] for c in type(layer).__mro__}:
        return False
    return isinstance(layer, inner("quantization.keras.quantize_wrapper").QuantizeWrapper)


def is_quantize_layer(layer: Any) -> bool:
    """Whether a layer is TFMOT's quantizer of a model's input."""
    if type(layer).__name__ != "QuantizeLayer":
        return False
    return isinstance(layer, inner("quantization.keras.quantize_layer").QuantizeLayer)
