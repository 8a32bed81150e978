"""Training float and DDQ classifiers."""

from ddq_tf.training.recipe import (
    TrainConfig,
    accuracy,
    fit_classifier,
    make_optimizer,
    outputs_logits,
)

__all__ = ["TrainConfig", "accuracy", "fit_classifier", "make_optimizer", "outputs_logits"]
