"""Runs every FOLDER/*.tflite on FOLDER/*.input.npy; this file runs on the emulated core.

    DIR/python cortex-a76 tests/arm64/run_models.py FOLDER

Writes FOLDER/*.output.npy, or *.output.npz by name where a model has several outputs; files
without an input are left out. Prints, as JSON, how many XNNPACK partitions each model has. Needs
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
    outputs = {
        output["name"]: interpreter.get_tensor(output["index"])
        for output in interpreter.get_output_details()
    }
    if len(outputs) == 1:
        np.save(path.with_suffix(".output.npy"), *outputs.values())
    else:
        np.savez(path.with_suffix(".output.npz"), **outputs)
    return sum(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details())


files = sorted(Path(sys.argv[1]).glob("*.tflite"))
files = [path for path in files if path.with_suffix(".input.npy").exists()]
print(json.dumps({path.stem: run(path) for path in files}))
