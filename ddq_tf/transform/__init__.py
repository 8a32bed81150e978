"""From a float Keras model to a DDQ model: check, rebuild, calibrate."""

from ddq_tf.transform.quantize import quantize_model
from ddq_tf.transform.ranges import KernelRange, Ranges

__all__ = ["KernelRange", "Ranges", "quantize_model"]
