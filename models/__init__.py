"""Float Keras models."""

if __name__ != "ddq_tf.models":
    raise ImportError("import this package as ddq_tf.models, not from the checkout's top level")

from ddq_tf.models.mobilenet_v2 import mobilenet_v2
from ddq_tf.models.registry import MODELS, build
from ddq_tf.models.resnet8 import resnet8

__all__ = ["MODELS", "build", "mobilenet_v2", "resnet8"]
