"""What the page must know of a .tflite file beside its tensors."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.export import tflite
from ddq_tf.export.operators.activations import PROBABILITIES
from ddq_tf.export.tflite.reader import BUILTIN_NAMES

# Operators that change what a value is written as, not what it means.
_TRANSPARENT = ("QUANTIZE", "DEQUANTIZE", "RESHAPE")


def output_activation(content: bytes) -> str:
    """Returns what a file's first output went through: "softmax", "sigmoid" or "none".

    Args:
        content: of a .tflite file.
    """
    with tflite.refusing_damage(content):
        model = schema.Model.GetRootAs(content)
        graph = model.Subgraphs(0)
        if graph is None:
            return "none"
        tensor = graph.Outputs(0)
        for index in reversed(range(min(graph.OperatorsLength(), len(content)))):
            operator = graph.Operators(index)
            if operator is None or tensor not in np.asarray(operator.OutputsAsNumpy()):
                continue
            code = model.OperatorCodes(operator.OpcodeIndex())
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) if code else -1
            kind = BUILTIN_NAMES.get(number, "")
            if kind not in _TRANSPARENT:
                return PROBABILITIES.get(kind, "none")
            tensor = operator.Inputs(0)
    return "none"
