"""From a float Keras model to a DDQ model: check, rebuild, calibrate."""

from ddq_tf.transform.quantize import quantize_model

__all__ = ["quantize_model"]
