"""Training float and DDQ classifiers, and what helps DDQ models to learn."""

from ddq_tf.recipes import TrainConfig
from ddq_tf.training.batch_norm import (
    BatchNormReestimation,
    fixed_statistics,
    reestimate_batch_norm,
)
from ddq_tf.training.callbacks import QuantizerLogger
from ddq_tf.training.checkpoint import Checkpoint, epochs_kept, forget_training
from ddq_tf.training.distillation import Distillation
from ddq_tf.training.optimizer import QuantizerLearningRate
from ddq_tf.training.oscillation import OscillationDampening, OscillationFreezing
from ddq_tf.training.outputs import answers_of, output_activation, outputs_logits
from ddq_tf.training.recipe import accuracy, fit_classifier, make_optimizer

__all__ = [
    "BatchNormReestimation",
    "Checkpoint",
    "Distillation",
    "OscillationDampening",
    "OscillationFreezing",
    "QuantizerLearningRate",
    "QuantizerLogger",
    "TrainConfig",
    "accuracy",
    "answers_of",
    "epochs_kept",
    "fit_classifier",
    "fixed_statistics",
    "forget_training",
    "make_optimizer",
    "output_activation",
    "outputs_logits",
    "reestimate_batch_norm",
]
