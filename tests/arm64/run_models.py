"""Runs every FOLDER/*.tflite on FOLDER/*.input.npy, or of several inputs FOLDER/*.input.npz.

This file runs on the emulated core; arrays of several inputs bear the numbers of their tensors.

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
    for index, codes in inputs_of(path, interpreter).items():
        interpreter.resize_tensor_input(index, codes.shape)
    interpreter.allocate_tensors()
    for index, codes in inputs_of(path, interpreter).items():
        interpreter.set_tensor(index, codes)
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


def inputs_of(path: Path, interpreter: Interpreter) -> dict[int, np.ndarray]:
    several = path.with_suffix(".input.npz")
    if several.exists():
        return {int(index): codes for index, codes in np.load(several).items()}
    (image,) = interpreter.get_input_details()
    return {image["index"]: np.load(path.with_suffix(".input.npy"))}


files = sorted(Path(sys.argv[1]).glob("*.tflite"))
files = [
    path
    for path in files
    if any(path.with_suffix(f".input.{kind}").exists() for kind in ("npy", "npz"))
]
print(json.dumps({path.stem: run(path) for path in files}))
