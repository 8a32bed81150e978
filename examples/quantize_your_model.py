"""Ten lines from a float Keras model to a verified integer-only .tflite file.

Runs in under a minute on random data:  python examples/quantize_your_model.py
Put your own model and batches in their place.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np

import ddq_tf


def main() -> None:
    """Quantizes a small nested model, trains it for an epoch, exports and verifies it."""
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Conv2D(64, 1, activation="relu"),
        ],
        name="backbone",
    )
    image = keras.Input((32, 32, 3), name="image")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(image))
    model = keras.Model(image, keras.layers.Dense(10, name="logits")(pooled))

    labels = np.random.default_rng(0).integers(0, 10, 512)
    images = np.random.default_rng(1).normal(
        labels[:, None, None, None] / 5 - 1, 0.5, (512, 32, 32, 3)
    )
    images = images.astype("float32")

    config = ddq_tf.DDQConfig(target="litert", budget=0.75)
    q = ddq_tf.quantize_model(model, config, calibration=images[:128])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    q.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    q.fit(images, labels, batch_size=32, epochs=2, verbose=2)

    result = ddq_tf.export.export_tflite(q, Path(tempfile.mkdtemp()) / "quantized.tflite")
    check = ddq_tf.export.verify(q, result, [images])
    for layer in q.weight_budget.layers:
        print(f"{layer.name:20s} {layer.num_bits} bits")
    print(f"{result.size_bytes} bytes in {result.path}, needs LiteRT {result.min_runtime}")
    print(f"top-1 agreement {check.top1_agreement:.2%}")
    print(f"weight codes identical: {check.weight_codes_identical}")
    print(f"{check.delegation.delegated_ops} of {check.delegation.total_ops} operators in XNNPACK")


if __name__ == "__main__":
    main()
