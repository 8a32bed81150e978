"""Runs every FOLDER/*.tflite on FOLDER/*.input.npy; this file runs on the emulated core.

    DIR/python cortex-a76 tests/arm64/run_models.py FOLDER

Writes FOLDER/*.output.npy and prints, as JSON, how many XNNPACK partitions each model has. Needs
nothing but LiteRT and numpy.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def run(path: Path) -> int:
    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    codes = np.load(path.with_suffix(".input.npy"))
    (image,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(image["index"], codes.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], codes)
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    np.save(path.with_suffix(".output.npy"), interpreter.get_tensor(output["index"]))
    return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())


print(json.dumps({path.stem: run(path) for path in sorted(Path(sys.argv[1]).glob("*.tflite"))}))
