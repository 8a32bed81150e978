"""Export of trained DDQ models to TFLite, and the proof that the file computes what was trained."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "ddq_tf.export":
    raise ImportError("import this package as ddq_tf.export, not from the checkout's top level")

if TYPE_CHECKING:
    from ddq_tf.export.device import DeployResult, deploy
    from ddq_tf.export.exporter import ExportResult, export_tflite
    from ddq_tf.export.host_benchmark import BenchmarkRow, benchmark
    from ddq_tf.export.interpreter import Delegation, Runner, delegation
    from ddq_tf.export.measurement import evaluate, tflite_accuracy
    from ddq_tf.export.metadata_reader import read_metadata
    from ddq_tf.export.model_metadata import ModelMetadata
    from ddq_tf.export.operator_profile import OperatorTime, profile
    from ddq_tf.export.stock import stock_int8
    from ddq_tf.export.stream import Stream
    from ddq_tf.export.tflm_verification import MicroVerification, verify_tflm
    from ddq_tf.export.vela import VelaReport, compile_with_vela
    from ddq_tf.export.verification import (
        Difference,
        Verification,
        first_difference,
        verify,
    )

__all__ = [
    "BenchmarkRow",
    "Delegation",
    "DeployResult",
    "Difference",
    "ExportResult",
    "MicroVerification",
    "ModelMetadata",
    "OperatorTime",
    "Runner",
    "Stream",
    "VelaReport",
    "Verification",
    "benchmark",
    "compile_with_vela",
    "delegation",
    "deploy",
    "evaluate",
    "export_tflite",
    "first_difference",
    "profile",
    "read_metadata",
    "stock_int8",
    "tflite_accuracy",
    "verify",
    "verify_tflm",
]

# Loaded on first use: lowering and the stock converter need Keras, the rest does not. No module may
# bear the name of what it holds: once imported, it would hide it.
_HOMES = {
    "BenchmarkRow": "host_benchmark",
    "Delegation": "interpreter",
    "DeployResult": "device",
    "Difference": "verification",
    "ExportResult": "exporter",
    "ModelMetadata": "model_metadata",
    "OperatorTime": "operator_profile",
    "MicroVerification": "tflm_verification",
    "Runner": "interpreter",
    "Stream": "stream",
    "VelaReport": "vela",
    "Verification": "verification",
    "benchmark": "host_benchmark",
    "compile_with_vela": "vela",
    "delegation": "interpreter",
    "deploy": "device",
    "evaluate": "measurement",
    "export_tflite": "exporter",
    "first_difference": "verification",
    "profile": "operator_profile",
    "read_metadata": "metadata_reader",
    "stock_int8": "stock",
    "tflite_accuracy": "measurement",
    "verify": "verification",
    "verify_tflm": "tflm_verification",
}


def __getattr__(name: str) -> Any:
    """Imports a public name from its module when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"ddq_tf.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ddq_tf.export' has no attribute {name!r}")
