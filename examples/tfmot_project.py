"""From a TFMOT project to a 4-bit file: the program of docs/tfmot.md, on random data.

pip install 'ddq_tf[tfmot]';  python examples/tfmot_project.py
"""

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ddq_tf
from ddq_tf.tfmot import DDQQuantizeScheme, from_tfmot

tfmot: Any = importlib.import_module("tensorflow_model_optimization")
tf_keras: Any = importlib.import_module("tf_keras")  # Keras 2, on which TFMOT lives


def project() -> tuple[Any, np.ndarray, np.ndarray]:
    """A float model of tf_keras, its images and its labels."""
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((16, 16, 3), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(32, 1, activation="relu", name="mix"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(5, name="logits"),
        ],
        name="project",
    )
    labels = np.random.default_rng(0).integers(0, 5, 256)
    noise = np.random.default_rng(1).normal(0, 0.5, (256, 16, 16, 3))
    return model, (noise + labels[:, None, None, None] / 5).astype("float32"), labels


def trained(model: Any, images: np.ndarray, labels: np.ndarray, epochs: int) -> Any:
    """The project's own training, of either Keras."""
    library = tf_keras if isinstance(model, tf_keras.Model) else importlib.import_module("keras")
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(images, labels, epochs=epochs, verbose=2)
    return model


def exported(quantized: Any, folder: Path, name: str, images: np.ndarray) -> None:
    """Writes a file and proves that it computes what the model does."""
    result = ddq_tf.export.export_tflite(quantized, folder / f"{name}.tflite")
    proof = ddq_tf.export.verify(quantized, result, images)
    bits = {layer.name: layer.num_bits for layer in quantized.weight_budget.layers}
    print(
        f"{name}: {result.size_bytes:,} bytes, bits {bits}, equal codes "
        f"{proof.equal_codes_share:.2%}"
    )


def main() -> None:
    """Quantizes by TFMOT, takes the model over, and trains it further at 4 bits."""
    folder = Path(tempfile.mkdtemp())
    model, images, labels = project()
    trained(model, images, labels, epochs=4)

    # What the project has: TFMOT's 8 bits. Its ranges replace calibration.
    quantized = trained(tfmot.quantization.keras.quantize_model(model), images, labels, epochs=2)
    moved, ranges = from_tfmot(quantized)
    for note in ranges.notes:
        print(note)
    config = ddq_tf.DDQConfig(target="litert", budget="auto")
    ddq = ddq_tf.quantize_model(moved, config, ranges=ranges)
    exported(trained(ddq, images, labels, epochs=2), folder, "learned_bits", images)

    # Or 4 bits inside the project's own pipeline; the trained codes move over.
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = DDQQuantizeScheme(num_bits=4, bits={"logits": 8})
    four = trained(
        tfmot.quantization.keras.quantize_apply(annotated, scheme), images, labels, epochs=2
    )
    moved, ranges = from_tfmot(four)
    config = ddq_tf.DDQConfig(target="litert", budget=None, rules=ranges.rules)
    exported(ddq_tf.quantize_model(moved, config, ranges=ranges), folder, "given_bits", images)


if __name__ == "__main__":
    main()
