"""Image classification data: loading, augmenting, batching."""

# ruff: noqa: E402
from ddq_tf.backend import need_tensorflow

need_tensorflow("ddq_tf.data, which decodes images,", "Give fit and calibration arrays of your own")

from ddq_tf.data.dataset import Dataset
from ddq_tf.data.loading import load
from ddq_tf.data.pipeline import augment_for, batches, calibration_batches, default_augment
from ddq_tf.data.pixels import as_range, published, range_of
from ddq_tf.data.sources import Fit
from ddq_tf.pictures import Augment, Range

__all__ = [
    "Augment",
    "Dataset",
    "Fit",
    "Range",
    "as_range",
    "augment_for",
    "batches",
    "calibration_batches",
    "default_augment",
    "load",
    "published",
    "range_of",
]
