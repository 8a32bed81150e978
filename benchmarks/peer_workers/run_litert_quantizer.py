"""Post-training quantization by litert-quantizer (once AI Edge Quantizer): static ranges, int8 in.

All ops take 8-bit activations and weights; convolutions and dense layers take weights of
`weight_bits`. Its policy knows no 4-bit depthwise convolution.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import task
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    """Quantizes the float file."""
    folder, todo = task.read()
    qtyping, quantizer = (
        importlib.import_module(f"litert_quantizer.{name}") for name in ("qtyping", "quantizer")
    )
    common = Path(todo["common"])
    content = (common / "float.tflite").read_bytes()
    work = quantizer.Quantizer(bytearray(content))
    every = qtyping.TFLOperationName
    work.add_static_config(".*", every.ALL_SUPPORTED, 8, 8)
    for kind in (every.CONV_2D, every.FULLY_CONNECTED):
        work.add_static_config(".*", kind, 8, todo["weight_bits"], algorithm_key=todo["algorithm"])
    name = next(iter(Interpreter(model_content=content).get_signature_list().values()))
    (input_name,) = name["inputs"]
    images = np.load(common / "calibration.npy")
    samples = [{input_name: image[None]} for image in images]
    ranges = work.calibrate({"serving_default": samples}, num_threads=1)
    result = work.quantize(ranges, enable_progress_report=False)
    (folder / task.MODEL).write_bytes(bytes(result.quantized_model or b""))
    task.finish(folder)


if __name__ == "__main__":
    main()
