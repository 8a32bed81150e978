"""Training float and DDQ classifiers."""

from ddq_tf.training.callbacks import BitwidthLogger
from ddq_tf.training.recipe import (
    TrainConfig,
    accuracy,
    fit_classifier,
    make_optimizer,
    outputs_logits,
)

__all__ = [
    "BitwidthLogger",
    "TrainConfig",
    "accuracy",
    "fit_classifier",
    "make_optimizer",
    "outputs_logits",
]
