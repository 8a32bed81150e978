"""A learning rate of their own for the quantizers' parameters."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ddq_tf.errors import DDQError

_LEARNED = ("log_range", "levels")


@keras.saving.register_keras_serializable(package="ddq_tf")
class QuantizerLearningRate(keras.optimizers.Optimizer):
    """Wraps an optimizer: learned ranges and levels take `factor` times its steps.

    Since the step is scaled, not the gradient, this is a learning rate `factor` times as high for
    every optimizer, Adam included; schedules, clipping and weight decay are the wrapped one's, and
    so is `learning_rate` (that of the kernels).

        model.compile(QuantizerLearningRate(keras.optimizers.Adam(1e-3), 0.1), loss)

    Args:
        optimizer: to wrap.
        factor: >= 0; 0 keeps ranges and levels where they are.

    Raises:
        DDQError: if the factor is negative, or the optimizer averages weights (`use_ema`): the
            average would see unscaled steps.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, factor: float, name: str | None = None
    ) -> None:
        if not factor >= 0:
            raise DDQError(f"factor must be 0 or above. Received: factor={factor!r}")
        if optimizer.use_ema:
            raise DDQError(
                f"QuantizerLearningRate takes no optimizer with use_ema=True. Received: "
                f"{optimizer.name}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner = optimizer
        self.factor = float(factor)

    def build(self, variables: list[Any]) -> None:
        """Creates the state of the wrapped optimizer."""
        self.inner.build(variables)
        super().build(variables)

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Takes one step."""
        if not self.built:
            self.build(list(trainable_variables or ()))
        variables = trainable_variables or self._trainable_variables
        learned = [variable for variable in variables if _is_learned(variable)]
        before = [ops.copy(variable) for variable in learned]
        self.inner.apply(grads, trainable_variables)
        for variable, start in zip(learned, before, strict=True):
            variable.assign(start + self.factor * (variable - start))

    @property
    def variables(self) -> list[Any]:
        """Its own and the wrapped optimizer's state."""
        return [*self._variables, *self.inner.variables]

    @property
    def learning_rate(self) -> Any:
        """That of the wrapped optimizer."""
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        """The steps that the wrapped optimizer has taken."""
        return self.inner.iterations

    def scale_loss(self, loss: Any) -> Any:
        """Scales the loss as the wrapped optimizer does."""
        return self.inner.scale_loss(loss)

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Ends a training as the wrapped optimizer does."""
        self.inner.finalize_variable_values(var_list)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner),
            "factor": self.factor,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Restores an optimizer from `get_config`."""
        inner = keras.saving.deserialize_keras_object(
            config["optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "optimizer": inner})


def _is_learned(variable: Any) -> bool:
    """Whether a variable is a learned range or learned levels."""
    return variable.name in _LEARNED and "quantizer" in variable.path.split("/")
