"""Distillation: the DDQ model learns from a float model's outputs beside the labels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.graph.functional import functional_of
from ddq_tf.training.aid import TrainingAid
from ddq_tf.training.outputs import output_activation

Tensor = Any


class Distillation(TrainingAid):
    r"""Adds a teacher's opinion to the loss of training steps (Hinton et al., 2015).

        L' = (1 - weight) * L + weight * D
        D  = T^2 * mean over the batch of KL(softmax(z_teacher / T) || softmax(z / T))
    with L the compiled loss and z the logits; of a model that ends in a softmax, z = log p, which
    gives the same. Costs one forward pass of the teacher per step, in inference mode and in the
    same graph. Data, labels, metrics and the validation loss stay as they are; the teacher is not
    saved with the model.

    Args:
        teacher: takes the inputs of the DDQ model and gives outputs of the same shapes; as a rule
            the float model.
        weight: share of D, in [0, 1].
        temperature: T > 0; higher, the more the small probabilities count.
        loss: what compares the teacher's outputs (as targets) with the model's in place of D; for
            models that are no classifiers. With several outputs, the sum over them.

    Raises:
        DDQError: when `fit` starts, if teacher and model do not fit together.
    """

    def __init__(
        self,
        teacher: keras.Model,
        weight: float = 0.5,
        temperature: float = 4.0,
        loss: keras.losses.Loss | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise DDQError(f"weight must lie in [0, 1]. Received: weight={weight!r}")
        if not temperature > 0:
            raise DDQError(f"temperature must be above 0. Received: temperature={temperature!r}")
        self.teacher = teacher
        self.weight = weight
        self.temperature = temperature
        self.loss = loss
        self._compare = loss

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that teacher and model fit, and changes the loss."""
        model = self.ddq_model
        _check(model, self.teacher)
        self._compare = self.loss or _Softened(
            self.temperature, _gives_logits(self.teacher), _gives_logits(model)
        )
        model.change_training_loss(self._change, self.teacher.variables)

    def _change(self, loss: Tensor, x: Any, outputs: Any, sample_weight: Any) -> Tensor:
        wanted = keras.tree.flatten(self.teacher(x, training=False))
        given = keras.tree.flatten(outputs)
        weights = [] if sample_weight is None else keras.tree.flatten(sample_weight)
        if len(weights) != len(given):  # none, or one for all outputs
            weights = [sample_weight] * len(given)
        compare: Any = self._compare
        distance = sum(
            compare(ops.stop_gradient(target), output, weight)
            for target, output, weight in zip(wanted, given, weights, strict=True)
        )
        return (1.0 - self.weight) * loss + self.weight * distance


class _Softened(keras.losses.Loss):
    """T^2 KL(softmax(teacher / T) || softmax(model / T)) of each example."""

    def __init__(self, temperature: float, teacher_logits: bool, logits: bool) -> None:
        super().__init__(name="distillation")
        self.temperature = temperature
        self.logits = (teacher_logits, logits)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Returns one number for each example."""
        wanted, given = (
            self._softened(outputs, logits)
            for outputs, logits in zip((y_true, y_pred), self.logits, strict=True)
        )
        divergence: Any = ops.sum(ops.multiply(ops.exp(wanted), wanted - given), axis=-1)
        return self.temperature**2 * divergence

    def _softened(self, outputs: Tensor, logits: bool) -> Tensor:
        """The logarithm of the softened probabilities."""
        scores: Any = outputs
        if not logits:
            scores = ops.log(ops.maximum(outputs, keras.config.epsilon()))
        return ops.log_softmax(scores / self.temperature, axis=-1)


def _gives_logits(model: keras.Model) -> bool:
    """Returns whether a classifier gives logits, or raises DDQError if it is none."""
    activation, shape = output_activation(model), functional_of(model).outputs[0].shape
    if activation == "sigmoid" or shape[-1] < 2:
        raise DDQError(
            f"distillation by temperature needs a classifier that ends in logits or softmax; model "
            f"{model.name!r} has outputs {tuple(shape)}"
            f"{' from a sigmoid' if activation == 'sigmoid' else ''}. Give Distillation a loss "
            "that compares outputs, such as keras.losses.MeanSquaredError(), or leave it out "
            "(distill=0)"
        )
    return activation is None


def _check(model: keras.Model, teacher: Any) -> None:
    """Raises one DDQError for all that keeps a teacher from teaching a model."""
    if not isinstance(teacher, keras.Model) or not teacher.built:
        raise DDQError(
            f"teacher must be a built Keras model. Received: {type(teacher).__name__}, "
            f"{'not built' if isinstance(teacher, keras.Model) else 'no Keras model'}"
        )
    raise_all(
        f"teacher {teacher.name!r} does not fit model {model.name!r}:",
        [
            f"its {name} {_shapes(theirs)}, the model's {_shapes(ours)}"
            for name, theirs, ours in (
                ("inputs are", _known(teacher, "inputs"), model.inputs),
                ("outputs are", _known(teacher, "outputs"), model.outputs),
            )
            if not _agree(theirs, ours)
        ],
    )


def _known(teacher: Any, name: str) -> Any:
    """The inputs or outputs of a teacher; None of one that is subclassed."""
    return getattr(teacher, name, None)


def _agree(theirs: Any, ours: Any) -> bool:
    """Whether two lists of tensors have shapes that can be equal; unknown lists pass."""
    if theirs is None or ours is None:
        return True
    if len(theirs) != len(ours):
        return False
    return all(
        len(a.shape) == len(b.shape)
        and all(None in (m, n) or m == n for m, n in zip(a.shape, b.shape, strict=True))
        for a, b in zip(theirs, ours, strict=True)
    )


def _shapes(tensors: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
