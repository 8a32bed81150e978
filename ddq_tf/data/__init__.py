"""Image classification data: loading, augmenting, batching."""

from ddq_tf.data.dataset import Dataset
from ddq_tf.data.loading import load
from ddq_tf.data.pipeline import batches, calibration_batches, default_augment
from ddq_tf.data.pixels import as_range, published, range_of
from ddq_tf.data.sources import Fit
from ddq_tf.pictures import Augment, Range

__all__ = [
    "Augment",
    "Dataset",
    "Fit",
    "Range",
    "as_range",
    "batches",
    "calibration_batches",
    "default_augment",
    "load",
    "published",
    "range_of",
]
