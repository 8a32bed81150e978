"""Whether a model gives its file's codes however it runs: eager, in graphs, by XLA, on JAX.

    python benchmarks/forward_forms.py [--jax=PYTHON] [--images=10000]

The pretrained ResNet-8 of MLPerf Tiny is quantized (pointwise and dense weights alternately at 4
and 8 bits), exported and run in LiteRT on the test images of CIFAR-10. Then `model(x)`, `predict`,
`predict` compiled by XLA and, in a process of its own, `predict` on JAX give their output codes,
and `evaluate` its accuracy. Writes benchmarks/results/forward_forms.json.
Other benchmarks call `different_codes` for models of their own.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import ddq_tf
from ddq_tf.export import Runner, export_tflite
from ddq_tf.graph import flatten
from ddq_tf.grids import grid_of

SEED = 0
BATCH = 250
Codes = list[np.ndarray]


def codes_of_file(model: keras.Model, path: str | Path, inputs: np.ndarray) -> Codes:
    """Returns the codes of a model's outputs as LiteRT computes them, in the model's order.

    Args:
        model: the DDQ model.
        path: of its file.
        inputs: float32.
    """
    runner, parts = Runner(path), []
    for start in range(0, len(inputs), BATCH):
        found = runner.run(runner.quantize_input(inputs[start : start + BATCH]))
        labels = model.float_outputs or tuple(found)
        parts.append([runner.outputs[label].dequantize(found[label]) for label in labels])
    return _codes(model, [np.concatenate(part) for part in zip(*parts, strict=True)])


def _codes(model: keras.Model, outputs: Any) -> Codes:
    graph = flatten(model)
    steps = [grid_of(graph, tensor).scale for tensor in graph.outputs]
    rows = zip(keras.tree.flatten(outputs), steps, strict=True)
    return [
        np.rint(np.asarray(values, np.float64) / step).astype(np.int16) for values, step in rows
    ]


def _eager(model: Any, inputs: np.ndarray) -> Any:
    starts = range(0, len(inputs), BATCH)
    parts = [
        [np.asarray(y) for y in keras.tree.flatten(model(inputs[n : n + BATCH], training=False))]
        for n in starts
    ]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _predicted(model: Any, inputs: np.ndarray, *, jit: bool) -> Any:
    model.compile(jit_compile=jit)
    return model.predict(inputs, batch_size=BATCH, verbose=0)


def _graph(model: Any, inputs: np.ndarray) -> Any:
    return _predicted(model, inputs, jit=False)


def _xla(model: Any, inputs: np.ndarray) -> Any:
    return _predicted(model, inputs, jit=True)


FORMS: dict[str, dict[str, Callable[[Any, np.ndarray], Any]]] = {
    "tensorflow": {"eager": _eager, "graph": _graph, "xla": _xla},
    "jax": {"jax": _xla},
}


def different_codes(
    model: Any, inputs: np.ndarray, expected: Codes, *, but: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns, for each form that Keras's backend has, how many output codes differ, and seconds.

    Args:
        model: a DDQ model.
        inputs: float32.
        expected: of `codes_of_file`.
        but: forms that are left out.
    """
    told = {}
    for form, run in FORMS[keras.backend.backend()].items():
        if form in but:
            continue
        start = time.perf_counter()
        rows = zip(_codes(model, run(model, inputs)), expected, strict=True)
        different = sum(int(np.sum(ours != theirs)) for ours, theirs in rows)
        told[form] = {"different": different, "seconds": round(time.perf_counter() - start, 2)}
    return told


def different_codes_on_jax(
    model: Any, inputs: np.ndarray, expected: Codes, python: str
) -> dict[str, Any]:
    """Returns the same of a process with Keras on JAX.

    Args:
        model: a DDQ model.
        inputs: float32.
        expected: of `codes_of_file`.
        python: a Python that has JAX.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model.keras"))
        np.savez(Path(folder, "given.npz"), inputs, *expected)
        done = subprocess.run(
            [python, __file__, f"--folder={folder}"],
            env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])


def python_with_jax(given: str | None) -> str | None:
    """Returns the Python that was given, or this one if it has JAX, or None."""
    return given or (sys.executable if importlib.util.find_spec("jax") else None)


def _work(folder: Path) -> None:
    """What the other process does."""
    with np.load(folder / "given.npz") as given:
        inputs, *expected = (given[name] for name in given.files)
    model = ddq_tf.load_model(folder / "model.keras")
    print(json.dumps(different_codes(model, inputs, expected)))


def _cifar10(data: Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images with values 0 to 255, and labels."""
    spec = f"tfrecord:{data / 'cifar10-train.tfrecord'},{data / 'cifar10-test.tfrecord'}"
    images, labels = [], []
    for x, y in ddq_tf.data.batches(ddq_tf.data.load(spec), split, batch_size=BATCH):
        images.append((np.asarray(x) + 1) * 127.5)
        labels.append(np.asarray(y))
        if sum(map(len, labels)) >= count:
            break
    return np.concatenate(images)[:count].astype(np.float32), np.concatenate(labels)[:count]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="../shared/models", help="folder of mlperf_tiny/")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="of CIFAR-10")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--jax", help="a Python that has JAX; without, this one if it has")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        _work(options.folder)
        return
    import exactness
    from provenance import write_result

    network, _ = exactness.network("mlperf_tiny/pretrainedResnet", Path(options.models))
    model = exactness.quantized(network, _cifar10(options.data, "train", 256)[0])
    images, labels = _cifar10(options.data, "test", options.images)
    with tempfile.TemporaryDirectory() as folder:
        file = export_tflite(model, Path(folder, "model.tflite"))
        expected = codes_of_file(model, file.path, images)
    forms = different_codes(model, images, expected)
    model.compile(metrics=["sparse_categorical_accuracy"], loss="sparse_categorical_crossentropy")
    run: Any = model
    evaluated = run.evaluate(images, labels, batch_size=BATCH, verbose=0, return_dict=True)
    python = python_with_jax(options.jax)
    if python is not None:
        forms |= different_codes_on_jax(model, images, expected, python)
    (codes,) = expected
    results = {
        "model": "mlperf_tiny/pretrainedResnet",
        "images": len(images),
        "output_codes": codes.size,
        "forms": forms,
        "evaluate_accuracy": evaluated["sparse_categorical_accuracy"],
        "litert_accuracy": float(np.mean(codes.argmax(axis=1) == labels)),
    }
    print(results)
    write_result("forward_forms", results, seed=SEED)


if __name__ == "__main__":
    main()
