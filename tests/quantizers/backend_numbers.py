"""Run as a program: writes what quantizers compute on the backend that KERAS_BACKEND names.

Fixed inputs in, outputs and gradients out, as one .npz file.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.layers import DDQActivation, DDQConv2D, DDQDense
from ddq_tf.quantizers import ActivationQuantizer, WeightQuantizer, activation
from ddq_tf.quantizers.gates import merge_levels

PRECISIONS = (2, 4, 8)


def jax_step(layer: Any, upstream: np.ndarray) -> Any:
    """From x to the output and the gradients of <upstream, layer(x)>; compiled once."""
    import jax

    def loss(x: Any, trained: Any, fixed: Any) -> Any:
        y, _ = layer.stateless_call(trained, fixed, x, training=True)
        return (y * upstream).sum(), y

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

    def step(x: np.ndarray) -> list[Any]:
        trained = [v.value for v in layer.trainable_variables]
        fixed = [v.value for v in layer.non_trainable_variables]
        (dx, rest), y = compiled(x, trained, fixed)
        return [y, dx, *rest]

    return step


def tensorflow_step(layer: Any, upstream: np.ndarray) -> Any:
    """The same."""
    import tensorflow as tf

    def step(x: np.ndarray) -> list[Any]:
        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            y = layer(tf.convert_to_tensor(variable), training=True)
            total = tf.reduce_sum(y * upstream)
        sources = [variable, *(v.value for v in layer.trainable_variables)]
        return [y, *tape.gradient(total, sources)]

    return step


def visits(label: str, layer: Any, x: np.ndarray, upstream: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs and gradients at every precision."""
    make = jax_step if keras.backend.backend() == "jax" else tensorflow_step
    step, results = make(layer, upstream), {}
    names = ["y", "x", *(v.name for v in layer.trainable_variables)]
    for index in range(len(PRECISIONS)):
        layer.visit(index)
        for name, value in zip(names, step(x), strict=True):
            results[f"{label} {index} {name}"] = np.asarray(value)
    return results


def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    kernel = rng.normal(0, 0.3, (3, 3, 4, 6)).astype(np.float32)
    kernel[..., 0] = 0
    upstream = rng.normal(0, 1, kernel.shape).astype(np.float32)
    results = {}
    for family in ("uniform", "free"):
        for per_channel in (True, False):
            layer = WeightQuantizer(PRECISIONS, levels=family, per_channel=per_channel)
            layer.build(kernel.shape)
            layer.calibrate(kernel)
            results |= visits(f"{family} {per_channel}", layer, kernel, upstream)
    return results


def activations(rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = rng.normal(0, 1, (5, 8)).astype(np.float32)
    upstream = rng.normal(0, 1, x.shape).astype(np.float32)
    results = {}
    for signed in (True, False):
        layer = ActivationQuantizer(PRECISIONS, signed=signed, ceiling=None if signed else 1.5)
        layer.build((None, 8))
        layer.set_range([0.9, 1.4, 1.9])
        results |= visits(f"activation {signed}", layer, x, upstream)
    return results


def merged(rng: np.random.Generator) -> dict[str, np.ndarray]:
    levels = np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
    gates = [np.float32(g) for g in ([1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 1])]
    return {
        f"merged {g}": np.asarray(merge_levels(ops.convert_to_tensor(levels), g)) for g in gates
    }


def trained(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A model after two steps of `fit`."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            DDQActivation("linear", learned=False, name="in"),
            DDQConv2D(4, 3, precisions=PRECISIONS, levels="free", name="conv"),
            DDQActivation("relu", (4, 8), name="act"),
            keras.layers.Flatten(),
            DDQDense(2, precisions=(4, 8), name="dense"),
        ]
    )
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(rng.normal(0, 0.3, layer.kernel.shape))
            layer.quantizer.calibrate(np.asarray(ops.convert_to_numpy(layer.kernel)))
            layer.quantizer.visit(0)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    x = rng.normal(0, 1, (8, 6, 6, 3)).astype(np.float32)
    model.fit(x, np.ones((8, 2), np.float32), batch_size=4, shuffle=False, verbose=0)
    return {f"fit {v.path}": np.asarray(ops.convert_to_numpy(v)) for v in model.variables}


def main(path: str) -> None:
    setattr(activation, "has_native_kernels", lambda: False)  # noqa: B010
    rng = np.random.default_rng(0)
    results = {**weights(rng), **activations(rng), **merged(rng), **trained(rng)}
    np.savez(path, **results)


if __name__ == "__main__":
    main(sys.argv[1])
