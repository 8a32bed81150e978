"""Run as a program, with Keras on JAX: trains, saves, exports and verifies without TensorFlow.

Prints, as one line of JSON, what tests/test_jax.py looks at.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.modules["tensorflow"] = None  # type: ignore[assignment]  # no import finds it

import keras  # noqa: E402
import numpy as np  # noqa: E402

import ddq_tf  # noqa: E402
from ddq_tf import training  # noqa: E402
from ddq_tf.export import export_tflite, first_difference, verify  # noqa: E402
from ddq_tf.layers import DDQActivation, activation_layers, weighted_layers  # noqa: E402
from tests.toys import images, labels, mixed_net, summing_net  # noqa: E402

CONFIG = ddq_tf.DDQConfig(target="litert-int8", precisions=(2, 4, 8), budget=0.7)


def compiled(model: Any, optimizer: Any = None) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.05), loss)
    return model


def codes(model: Any, outputs: Any) -> np.ndarray:
    last: DDQActivation = activation_layers(model)[-1]
    return np.rint(np.asarray(outputs) / last.step).astype(int)


def proven(model: Any, file: str, x: np.ndarray) -> dict[str, Any]:
    found = verify(model, export_tflite(model, file), [x])
    eager = codes(model, model(x, training=False))
    return {
        "equal_codes": found.equal_codes_share,
        "first_difference": str(first_difference(model, x[:2])),
        "jitted_codes": float(np.mean(codes(model, model.predict(x, verbose=0)) == eager)),
        "bits": [layer.num_bits for layer in weighted_layers(model)],
    }


def with_aids(folder: Path, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """All aids in one training, which is saved, loaded and proven."""
    net = mixed_net()
    before = keras.ops.convert_to_numpy(net(x))
    model = ddq_tf.quantize_model(net, CONFIG, x)
    compiled(model, training.QuantizerLearningRate(keras.optimizers.SGD(0.05), 0.5))
    freezing, logger = training.OscillationFreezing(0.0), training.QuantizerLogger()
    dampening = training.OscillationDampening(0.1)
    kept = training.Checkpoint(folder / "kept", [freezing, logger])
    aids = [
        training.Distillation(net),
        dampening,
        freezing,
        logger,
        training.BatchNormReestimation([x]),
        kept,
    ]
    history = model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=aids).history
    model.save(folder / "model.keras")
    loaded = ddq_tf.load_model(folder / "model.keras")
    same = np.array_equal(np.asarray(model(x)), np.asarray(loaded(x)))
    return {
        "history": history,
        "epochs_kept": training.epochs_kept(folder / "kept"),
        "logged_bits": logger.bits,
        "dampening": float(keras.ops.convert_to_numpy(dampening._strength)),
        "loaded_is_same": same,
        "float_model_is_untouched": np.array_equal(before, keras.ops.convert_to_numpy(net(x))),
        **proven(loaded, str(folder / "aids.tflite"), x),
    }


def fixed(folder: Path, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Precisions that do not learn; and sums in which large terms cancel."""
    config = ddq_tf.DDQConfig(target="litert-int8", precisions=(8,))
    inputs = keras.Input((8, 8, 64))
    outputs = keras.layers.Conv2D(8, 5, padding="same")(inputs)
    x = np.random.default_rng(0).integers(0, 2, (32, 8, 8, 64)).astype(np.float32) * 255
    model = keras.Model(inputs, keras.layers.Flatten()(outputs))
    model = compiled(ddq_tf.quantize_model(model, config, x), keras.optimizers.SGD(1e-9))
    model.fit(x, y[:32] * 0, epochs=1, verbose=0)
    return proven(model, str(folder / "fixed.tflite"), x)


def summing(folder: Path, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    model = compiled(ddq_tf.quantize_model(summing_net(), CONFIG, x))
    model.fit(x, y, epochs=1, verbose=0)
    return proven(model, str(folder / "summing.tflite"), x)


def narrow_floats() -> bool:
    """Whether codes as bfloat16, added up in float32, give integer sums."""
    jnp = importlib.import_module("jax.numpy")
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (40, 500)), rng.integers(-127, 128, (500, 30))
    narrow = [jnp.asarray(codes, "bfloat16") for codes in (left, right)]
    sums = jnp.matmul(*narrow, preferred_element_type="float32")
    return bool(np.array_equal(np.asarray(sums), left @ right))


def reconstructed(folder: Path, x: np.ndarray) -> dict[str, Any]:
    model, errors = ddq_tf.reconstruct_model(
        mixed_net(), x, recipe=ddq_tf.ReconstructionConfig(views=2, search_views=1), config=CONFIG
    )
    errors = [(error.before, error.after) for error in errors]
    return {"errors": errors, **proven(model, str(folder / "reconstructed.tflite"), x)}


def on_devices(count: int, folder: Path, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    if count > 1:
        devices = keras.distribution.list_devices()[:count]
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    model = compiled(ddq_tf.quantize_model(mixed_net(), CONFIG, x))
    history = model.fit(x, y, batch_size=16, epochs=4, verbose=0, shuffle=False).history
    keras.distribution.set_distribution(None)
    return {"history": history, **proven(model, str(folder / f"on_{count}.tflite"), x)}


def refusals() -> list[str]:
    """What is said of what needs TensorFlow."""

    def classifier() -> None:
        training.fit_classifier(mixed_net(), None, None, training.TrainConfig(), steps_per_epoch=1)

    recipe = ddq_tf.ReconstructionConfig(steps=2, distill_steps=2)
    asked = [
        lambda: ddq_tf.data,
        lambda: importlib.import_module("ddq_tf.jobs"),
        lambda: training.QuantizerLogger("logs"),
        lambda: ddq_tf.export.stock_int8(mixed_net(), [images(2)]),
        lambda: ddq_tf.reconstruct_model(mixed_net(), images(4), recipe=recipe),
        classifier,
    ]
    said = []
    for ask in asked:
        try:
            ask()
        except ddq_tf.DDQError as error:
            said.append(str(error))
    return said


def main(folder: Path) -> None:
    x, y = images(32), labels(32)
    told = {
        "aids": with_aids(folder, x, y),
        "fixed": fixed(folder, x, y),
        "summing": summing(folder, x, y),
        "narrow_floats": narrow_floats(),
        "reconstructed": reconstructed(folder, x),
        "refusals": refusals(),
        "one": on_devices(1, folder, x, y),
        "two": on_devices(2, folder, x, y),
        "tensorflow": sorted(n for n in sys.modules if n.startswith("tensorflow.")),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
