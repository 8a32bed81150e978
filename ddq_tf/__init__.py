"""DDQ: learned mixed-precision quantization for Keras, exported to int8/int4-packed TFLite."""

from ddq_tf.config import Budget, DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.search import DDQModel
from ddq_tf.targets import TARGETS, Target
from ddq_tf.transform import quantize_model

__version__ = "0.1.0"

__all__ = ["TARGETS", "Budget", "DDQConfig", "DDQError", "DDQModel", "Target", "quantize_model"]
