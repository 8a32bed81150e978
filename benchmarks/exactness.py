"""Simulator, LiteRT and Keras code by code on many architectures; x86 against ARM.

    python benchmarks/exactness.py [--family beyond_cnn] [--arm DIR] [--go_on] [MODEL ...]
    python benchmarks/exactness.py --forms [--family beyond_cnn] [--xla] [--jax PYTHON] [--go_on]
        [MODEL ...]

Every model goes through quantize_model (pointwise and dense weights alternately at 4 and 8 bits),
export and verify. Then every operator's result is compared between the integer simulator and
LiteRT; with --arm also between this machine and an emulated Cortex-A76 and Cortex-A53 (DIR as made
by tests/arm64/setup.sh). The networks of keras.applications are untrained, their BatchNorm
statistics measured on random images, at reduced resolution; those of MLPerf Tiny are the published
ones. Writes benchmarks/results/exactness.json. The family beyond_cnn are U-Nets, detectors,
Transformers, recurrent networks and such (benchmarks/networks), untrained too; they take a few
steps of `fit` on random targets first. Writes benchmarks/results/exactness_beyond_cnn.json.

With --forms, output codes of `model(x)`, of `predict` and, where a Python has JAX, of JAX, which
XLA compiles, are compared with LiteRT's instead (`forward_forms`); with --xla also of TensorFlow's
`predict` compiled by XLA, which takes most of the time. Writes
benchmarks/results/exactness_forms.json, or exactness_forms_beyond_cnn.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import collections
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from forward_forms import codes_of_file, different_codes, different_codes_on_jax, python_with_jax
from networks import BEYOND_CNN
from provenance import RESULTS, write_result

import ddq_tf
from ddq_tf import jobs
from ddq_tf.export import Runner, export_tflite, first_difference, tflite, verify
from ddq_tf.export.ir import Graph
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.export.simulation import simulate, with_all_outputs
from ddq_tf.grids import align
from ddq_tf.layers import weighted_layers
from ddq_tf.targets import TARGETS

SEED = 0
CORES = ("cortex-a76", "cortex-a53")
RUN_MODELS = Path(__file__).parents[1] / "tests" / "arm64" / "run_models.py"
APPLICATIONS = {
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "EfficientNetV2S": 64,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Large": 64,
    "MobileNetV3Small": 64,
    "NASNetMobile": 64,
    "ResNet101": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "VGG16": 64,
    "Xception": 71,
}
MLPERF_TINY = {
    "mlperf_tiny/ad01": (-60.0, 10.0),
    "mlperf_tiny/pretrainedResnet": (0.0, 255.0),
    "mlperf_tiny/vww_96": (0.0, 1.0),
}


def with_statistics(model: keras.Model, inputs: np.ndarray) -> keras.Model:
    """Returns a network whose BatchNorms have the statistics of some inputs."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(inputs, training=True)
    return model


def application(name: str, size: int) -> tuple[keras.Model, np.ndarray]:
    """Returns an untrained network whose BatchNorms saw data, and images for it."""
    keras.utils.set_random_seed(SEED)
    # NASNet takes no activation but its own; the others end on logits, which vary more.
    options = {} if name.startswith("NASNet") else {"classifier_activation": None}
    build = getattr(keras.applications, name)
    model = build(input_shape=(size, size, 3), weights=None, classes=10, **options)
    images = random_inputs((8, size, size, 3), 0.0, 255.0)
    return with_statistics(model, images), images


def decoder() -> keras.Model:
    """Returns a network that shrinks and enlarges images in all ways, with rarer activations."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    skip = x = layers.Conv2D(16, 3, padding="same", activation="elu")(inputs)
    x = layers.LeakyReLU(0.2)(layers.Conv2D(32, 3, 2, "same")(x))
    low = x = layers.Conv2D(48, 3, 2, "same", activation="gelu")(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2DTranspose(32, 4, 2, "same")(x)))
    x = layers.Conv2DTranspose(16, 3, 2, "same", activation="relu")(x)
    y = layers.UpSampling2D(4, interpolation="bilinear")(layers.Conv2D(16, 1)(low))
    z = layers.UpSampling2D(4)(layers.Conv2D(16, 1, activation="tanh")(low))
    x = layers.Concatenate()([x, skip, layers.Add()([y, z])])
    return keras.Model(inputs, layers.Conv2D(5, 1)(x))


def sequences() -> keras.Model:
    """Returns a network on sequences."""
    layers = keras.layers
    inputs = keras.Input((128, 9))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(24, 7, 2, "same")(inputs)))
    x = layers.MaxPooling1D(2)(x)
    y = layers.Conv1D(24, 3, padding="causal", dilation_rate=2, activation="swish")(x)
    x = layers.Add()([x, layers.SeparableConv1D(24, 5, padding="same")(y)])
    x = layers.ELU()(layers.DepthwiseConv1D(3)(x))
    return keras.Model(inputs, layers.Dense(6)(layers.GlobalAveragePooling1D()(x)))


SMALL: dict[str, Callable[[], keras.Model]] = {"decoder": decoder, "sequences": sequences}


NAMES = (*APPLICATIONS, *MLPERF_TINY, *SMALL)
FAMILIES = {"cnn": NAMES, "beyond_cnn": tuple(BEYOND_CNN)}


def network(name: str, models: Path) -> tuple[keras.Model, np.ndarray]:
    """Returns a float network, and inputs for it.

    Args:
        name: one of `FAMILIES`.
        models: the folder of mlperf_tiny/.
    """
    if name in BEYOND_CNN:
        keras.utils.set_random_seed(SEED)
        build, limits = BEYOND_CNN[name]
        model = build()
        inputs = random_inputs((8, *model.inputs[0].shape[1:]), *limits)
        return with_statistics(model, inputs), inputs
    if name in APPLICATIONS:
        return application(name, APPLICATIONS[name])
    if name in SMALL:
        keras.utils.set_random_seed(SEED)
        model = SMALL[name]()
        return model, random_inputs((8, *model.input_shape[1:]), -1.0, 1.0)
    model = jobs.load_float_model(models / f"{name}.h5")
    return model, random_inputs((8, *model.input_shape[1:]), *MLPERF_TINY[name])


def random_inputs(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Returns smooth random inputs: noise of all wavelengths, as in images."""
    rng = np.random.default_rng(SEED)
    values = np.zeros(shape)
    for factor in (1, 2, 4, 8):
        coarse = [shape[0], *(-(-n // factor) for n in shape[1:-1]), shape[-1]]
        noise = rng.normal(0, 1, coarse)
        for axis in range(1, len(shape) - 1):
            noise = np.repeat(noise, factor, axis).take(range(shape[axis]), axis)
        values += noise
    share = np.clip(values / (4 * values.std()) + 0.5, 0, 1)
    return (low + (high - low) * share).astype(np.float32)


def fitted(
    model: ddq_tf.DDQModel, inputs: np.ndarray, *, epochs: int = 1, eager: bool = False
) -> ddq_tf.DDQModel:
    """Returns the model after two steps an epoch on random targets, which move all it learns."""
    rng = np.random.default_rng(SEED)
    outputs = model(inputs[:1], training=False)
    targets = keras.tree.map_structure(
        lambda y: rng.uniform(0, 1, (len(inputs), *y.shape[1:])).astype(np.float32), outputs
    )
    trained: Any = model
    trained.compile("adam", "mse", run_eagerly=eager)
    trained.fit(inputs, targets, batch_size=len(inputs) // 2, epochs=epochs, verbose=0)
    return model


def quantized(model: keras.Model, images: np.ndarray, *, epochs: int = 0) -> ddq_tf.DDQModel:
    """Returns the DDQ model, every other layer that can at 4 bits, `fitted` for some epochs."""
    q = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(budget=None), images)
    if epochs:
        fitted(q, images, epochs=epochs)
    for index, layer in enumerate(weighted_layers(q)):
        quantizer = layer.quantizer
        quantizer.choice.assign(index % len(quantizer.precisions))
    align(q)
    return q


def measure(q: ddq_tf.DDQModel, images: np.ndarray, folder: Path, arm: Path | None) -> Any:
    """Returns all comparisons of one model."""
    result = export_tflite(q, folder / "plain.tflite")
    proof = verify(q, result, [images])
    graph = with_all_outputs(run_passes(lower(q), TARGETS["litert"]))
    file, few = tflite.write(graph), images[:2]
    runner = Runner(file)
    codes = runner.quantize_input(few)
    ran = runner.run(codes)
    computed = simulate(graph, dict.fromkeys(graph.inputs, codes))
    outputs = Runner(result.path).run(runner.quantize_input(images)).values()
    figures: dict[str, Any] = {
        "input_shape": list(images.shape[1:]),
        "file_bytes": result.size_bytes,
        "operators": len(graph.ops),
        **compared(graph, computed, ran),
        "distinct_output_codes": min(int(np.unique(output).size) for output in outputs),
        "xnnpack_partitions": proof.delegation.partitions,
        "undelegated": list(proof.delegation.undelegated),
        "keras": {
            "samples": proof.num_samples,
            "top1_agreement": proof.top1_agreement,
            "equal_codes_share": proof.equal_codes_share,
            "max_lsb": proof.max_lsb,
            "weight_codes_identical": proof.weight_codes_identical,
        },
    }
    if proof.equal_codes_share < 1:
        difference = first_difference(q, few)
        figures["keras"]["first_difference_on_two_images"] = (
            None if difference is None else dataclasses.asdict(difference)
        )
    if arm is not None:
        (folder / "model.tflite").write_bytes(file)
        np.save(folder / "model.input.npy", codes)
        figures["arm"] = {core: on_arm(graph, ran, folder, arm, core) for core in CORES}
    return figures


def forms(
    q: ddq_tf.DDQModel, images: np.ndarray, folder: Path, jax: str | None, *, xla: bool
) -> Any:
    """Returns how many output codes of each form differ from LiteRT's.

    Args:
        q: the DDQ model.
        images: its inputs.
        folder: for its file.
        jax: a Python with JAX, or None.
        xla: whether TensorFlow's XLA is among them.
    """
    expected = codes_of_file(q, export_tflite(q, folder / "plain.tflite").path, images)
    found = different_codes(q, images, expected, but=() if xla else ("xla",))
    if jax is not None:
        found |= different_codes_on_jax(q, images, expected, jax)
    return {"output_codes": sum(codes.size for codes in expected), "forms": found}


def summary_of_forms(rows: dict[str, Any]) -> dict[str, Any]:
    """Adds up the counts of all models."""
    different: collections.Counter[str] = collections.Counter()
    for row in rows.values():
        different.update({form: found["different"] for form, found in row["forms"].items()})
    return {
        "models": len(rows),
        "output_codes": sum(row["output_codes"] for row in rows.values()),
        "different_by_form": dict(different),
    }


def compared(graph: Graph, one: Any, other: Any) -> dict[str, Any]:
    """Counts the values of all operators' results, and those that differ."""
    different: collections.Counter[str] = collections.Counter()
    elements, largest = 0, 0
    for op in graph.ops:
        name = op.outputs[0]
        if name not in other:  # floats on the way between two codes
            continue
        distance = np.abs(one[name].astype(np.int64) - other[name].astype(np.int64))
        elements += distance.size
        largest = max(largest, int(distance.max()))
        if distance.any():
            different[op.kind] += int(np.sum(distance > 0))
    return {
        "elements": elements,
        "different": sum(different.values()),
        "different_by_operator": dict(different),
        "max_lsb": largest,
    }


def on_arm(graph: Graph, ran: Any, folder: Path, arm: Path, core: str) -> dict[str, Any]:
    """Runs the model in `folder` on an emulated core and compares all operators' results."""
    command = [str(arm / "python"), core, str(RUN_MODELS), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=3600)
    with np.load(folder / "model.output.npz") as stored:
        computed = {name: stored[name] for name in stored.files}
    return compared(graph, computed, ran)


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """Adds up the counts of all models."""
    total: dict[str, Any] = {
        "models": len(rows),
        "operators": sum(row["operators"] for row in rows.values()),
        "elements": sum(row["elements"] for row in rows.values()),
        "different_simulator_litert": sum(row["different"] for row in rows.values()),
        "models_with_all_keras_output_codes_equal": sum(
            row["keras"]["equal_codes_share"] == 1 for row in rows.values()
        ),
        "least_keras_top1_agreement": min(r["keras"]["top1_agreement"] for r in rows.values()),
        "models_in_one_xnnpack_partition": sum(r["xnnpack_partitions"] == 1 for r in rows.values()),
    }
    for core in CORES:
        arm = [row["arm"][core] for row in rows.values() if "arm" in row]
        if arm:
            kinds: collections.Counter[str] = collections.Counter()
            for part in arm:
                kinds.update(part["different_by_operator"])
            total[core] = {
                "models": len(arm),
                "values": sum(part["elements"] for part in arm),
                "different": sum(part["different"] for part in arm),
                "different_by_operator": dict(kinds),
            }
    return total


def rows_of(name: str) -> dict[str, Any]:
    """Returns the models' rows of a result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]["models"]


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="MODEL",
        help="some models only; not written without --forms or --go_on",
    )
    parser.add_argument("--family", choices=FAMILIES, default="cnn", help="of which networks")
    parser.add_argument("--models", default="../shared/models", help="folder of mlperf_tiny/")
    parser.add_argument("--arm", type=Path, help="folder that tests/arm64/setup.sh made")
    parser.add_argument("--forms", action="store_true", help="how a model runs, and no more")
    parser.add_argument("--xla", action="store_true", help="also TensorFlow's XLA, with --forms")
    parser.add_argument("--jax", help="a Python that has JAX; without, this one if it has")
    parser.add_argument("--go_on", action="store_true", help="keep the rows that are there")
    options = parser.parse_args()
    jax = python_with_jax(options.jax)
    ending = "" if options.family == "cnn" else f"_{options.family}"
    result = f"exactness{'_forms' if options.forms else ''}{ending}"
    rows = rows_of(result) if options.go_on else {}
    for name in options.names or FAMILIES[options.family]:
        model, images = network(name, Path(options.models))
        with tempfile.TemporaryDirectory() as folder:
            q = quantized(model, images, epochs=int(name in BEYOND_CNN))
            if options.forms:
                rows[name] = forms(q, images, Path(folder), jax, xla=options.xla)
            else:
                rows[name] = measure(q, images, Path(folder), options.arm)
        print(name, rows[name], flush=True)
        keras.backend.clear_session()
        if options.forms:  # after each, for it takes long
            results = {"summary": summary_of_forms(rows), "models": rows}
            write_result(result, results, seed=SEED)
    if options.forms:
        return
    print(summary(rows))
    if options.go_on or not options.names:
        write_result(result, {"summary": summary(rows), "models": rows}, seed=SEED)


if __name__ == "__main__":
    main()
