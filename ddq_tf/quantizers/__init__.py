"""The mathematics of DDQ: fake-quantization, learned ranges, learned precision, calibration."""

from ddq_tf.quantizers.activation import ActivationQuantizer
from ddq_tf.quantizers.calibration import (
    optimal_activation_range,
    optimal_weight_range,
    percentile_activation_range,
)
from ddq_tf.quantizers.fake_quant import fake_quantize
from ddq_tf.quantizers.grid import signed_qmax, unsigned_qmax
from ddq_tf.quantizers.ranges import learned_range
from ddq_tf.quantizers.weight import WeightQuantizer

__all__ = [
    "ActivationQuantizer",
    "WeightQuantizer",
    "fake_quantize",
    "learned_range",
    "optimal_activation_range",
    "optimal_weight_range",
    "percentile_activation_range",
    "signed_qmax",
    "unsigned_qmax",
]
