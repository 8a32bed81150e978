"""`ddq doctor`: whether a float model can be quantized, what it costs, how small it gets."""

from ddq_tf.jobs.doctor.diagnose import diagnose

__all__ = ["diagnose"]
