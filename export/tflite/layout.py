"""What writer and reader must agree on."""

from __future__ import annotations

from ai_edge_litert import schema_py_generated as schema

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
SIGNATURE = "serving_default"
# Metadata entry where keep_names keeps the ops' Keras layers; `read` takes it out again.
SOURCES = "ddq_tf.op_sources"
# Attributes that the file holds as numbers and the graph as words.
ENUMS = {"padding": schema.Padding, "fused_activation_function": schema.ActivationFunctionType}


def members(enum: type) -> dict[str, int]:
    """Returns the numbers of a generated enumeration by name."""
    return {name: code for name, code in vars(enum).items() if isinstance(code, int)}


def camel_case(attr: str) -> str:
    """Returns the object API's name for an attribute: "stride_h" is "strideH"."""
    head, *rest = attr.split("_")
    return head + "".join(word.capitalize() for word in rest)
