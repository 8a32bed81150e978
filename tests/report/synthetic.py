"""Made-up reports of realistic shape; run as a script to look at them."""

from __future__ import annotations

import numpy as np

from ddq_tf.report import (
    ActivationReport,
    Agreement,
    LayerReport,
    ModelVariant,
    Report,
    WeightHistogram,
)

POINTWISE = "pointwise convolution (1x1, stride 1)"


def layer(name: str, kind: str, shape: tuple[int, ...], num_bits: int, seed: int) -> LayerReport:
    rng = np.random.default_rng(seed)
    num_weights = int(np.prod(shape))
    top = 2 ** (num_bits - 1) - 1
    weights = np.clip(rng.standard_t(6, min(num_weights, 20000)) * 0.3, -1.2, 1.2)
    return LayerReport(
        name=name,
        kind=kind,
        kernel_shape=shape,
        num_weights=num_weights,
        precisions=(8,) if kind in ("convolution", "depthwise convolution") else (4, 8),
        num_bits=num_bits,
        stored_bits=4 if num_bits <= 4 else 8,
        size_bytes=num_weights * (4 if num_bits <= 4 else 8) // 8,
        quantization_error=0.012 if num_bits <= 4 else 6.4e-5,
        family="uniform",
        scale_min=0.0012,
        scale_max=0.0391,
        histogram=WeightHistogram.measure(weights, np.arange(-top, top + 1) / top),
    )


def mobilenet_layers() -> tuple[LayerReport, ...]:
    layers = [layer("Conv1", "convolution", (3, 3, 3, 32), 8, 0)]
    channels = 32
    plan = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    block = 0
    for expansion, out, repeats in plan:
        for _ in range(repeats):
            wide = channels * expansion
            prefix = f"block_{block}" if block else "expanded_conv"
            if expansion > 1:
                bits = 8 if block % 5 == 1 else 4
                layers.append(
                    layer(f"{prefix}_expand", POINTWISE, (1, 1, channels, wide), bits, block)
                )
            layers.append(
                layer(f"{prefix}_depthwise", "depthwise convolution", (3, 3, wide, 1), 8, block)
            )
            bits = 8 if block in (0, 3, 13) else 4
            layers.append(layer(f"{prefix}_project", POINTWISE, (1, 1, wide, out), bits, block))
            channels, block = out, block + 1
    layers.append(layer("Conv_1", POINTWISE, (1, 1, 320, 1280), 4, 98))
    layers.append(layer("predictions", "dense", (1280, 120), 4, 99))
    return tuple(layers)


def resnet_layers() -> tuple[LayerReport, ...]:
    names = ["conv2d", *(f"conv2d_{i}" for i in range(1, 7)), "dense"]
    return tuple(
        layer(
            name,
            "dense" if name == "dense" else ("convolution", POINTWISE)[i % 2],
            (64, 10) if name == "dense" else (3, 3, 16 * (1 + i // 2), 16 * (1 + i // 2)),
            (8, 4, 3, 2, 4, 8, 4, 8)[i],
            i,
        )
        for i, name in enumerate(names)
    )


def make_report(layers: tuple[LayerReport, ...], **changes: object) -> Report:
    weights = sum(item.size_bytes for item in layers)
    count = sum(item.num_weights for item in layers)
    bits = sum(item.num_weights * item.num_bits for item in layers) / max(1, count)
    epochs = 24
    path = 8 - (8 - bits) * np.clip(np.arange(epochs) / 9, 0, 1)
    noise = np.random.default_rng(3).normal(0, 0.004, epochs)
    accuracy = 0.86 - 0.12 * np.exp(-np.arange(epochs) / 5) + noise
    values: dict[str, object] = {
        "title": "MobileNetV2 at mixed precision",
        "created": "2025-06-01T12:00:00+00:00",
        "model_name": "mobilenetv2_1.00_160",
        "dataset": "CIFAR-10-JPEG test",
        "target": "litert",
        "budget": "60%",
        "budget_average_bits": 4.8,
        "versions": {"ddq_tf": "0.1.0", "keras": "3.10.0", "tensorflow": "2.19.0"},
        "seed": 7,
        "command": "ddq train --model resnet8 --budget 60% --epochs 24 --target litert",
        "layers": layers,
        "activations": tuple(
            ActivationReport(
                name=f"{item.name}_relu",
                kind="relu6",
                num_bits=8,
                scale=6 / 255,
                zero_point=-128,
                range_min=0.0,
                range_max=6.0,
            )
            for item in layers
        ),
        "variants": (
            ModelVariant(
                label="float",
                size_bytes=count * 4 + 40000,
                accuracy=0.8572,
                num_samples=10000,
                average_bits=32.0,
            ),
            ModelVariant(
                label="stock int8",
                size_bytes=count + 60000,
                accuracy=0.8531,
                num_samples=10000,
                average_bits=8.0,
            ),
            ModelVariant(
                label="DDQ (Keras)", accuracy=0.8603, num_samples=10000, average_bits=bits
            ),
            ModelVariant(
                label="DDQ (LiteRT)",
                size_bytes=weights + 50000,
                accuracy=0.8602,
                num_samples=10000,
                average_bits=bits,
            ),
        ),
        "agreement": Agreement(
            num_samples=10000,
            top1_agreement=0.9998,
            equal_codes_share=0.9971,
            max_lsb=1,
            weight_codes_identical=True,
            delegated_ops=65,
            total_ops=65,
            partitions=1,
        ),
        "history": {
            "loss": 0.4 + 1.2 * np.exp(-np.arange(epochs) / 4),
            "val_loss": 0.5 + 1.0 * np.exp(-np.arange(epochs) / 4) - noise * 8,
            "accuracy": accuracy + 0.01,
            "val_accuracy": accuracy,
            "weight_bits": path,
            "price": np.concatenate([np.linspace(0, 2, 12), np.zeros(12)]),
        },
        "bits_history": {
            item.name: [8.0] * min(i % 11, 10) + [float(item.num_bits)] * (epochs - i % 11)
            for i, item in enumerate(layers)
        },
    }
    return Report(**{**values, **changes})  # type: ignore[arg-type]
