"""The model class that `quantize_model` returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from ddq_tf.config import DDQConfig
from ddq_tf.graph import flatten
from ddq_tf.grids import align
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.search.budget import PrecisionBudget, weight_budget
from ddq_tf.search.callback import PrecisionSearch

Tensor = Any
TrainingLoss = Callable[[Tensor, Any, Any, Any], Tensor]


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQModel(keras.Model):
    """A functional Keras model of DDQ layers whose `fit` learns precisions within a budget.

    Everything else is `keras.Model`: compile, evaluate, predict, save and load.

    Attributes:
        ddq_config: the configuration that it was made with.
        float_outputs: what the float model called its outputs, in their order: the keys of a
            dictionary, or the names of layers, each once; the exported file calls them so.
        aligned_digest: of the weights that were aligned last (`grids.align`), None if none were.
    """

    ddq_config: DDQConfig = DDQConfig()
    float_outputs: tuple[str, ...] = ()
    aligned_digest: str | None = None
    _training_losses: tuple[TrainingLoss, ...] = ()

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        """`keras.Model.fit`, with a `PrecisionSearch` among the callbacks.

        The search comes first, so that other callbacks see its `weight_bits` in the logs. At the
        end scales and biases move to values that leave no doubt in integers (`grids.align`).
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):
            given = list(callbacks.callbacks)
        elif callbacks is None:
            given = []
        else:
            given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        if not any(isinstance(callback, PrecisionSearch) for callback in given):
            given.insert(0, PrecisionSearch(self.ddq_config))
        self._count_calls()
        try:
            history = super().fit(*args, callbacks=given, **kwargs)
        finally:
            self._forget_training_losses()
        for callback in given:
            if isinstance(callback, PrecisionSearch):
                callback.finish()
        align(self)
        return history

    def name_outputs(self, labels: Sequence[str], layers: Sequence[str]) -> None:
        """Calls the outputs as the float model does, in `compile(loss={...})` and in files.

        Args:
            labels: see `float_outputs`.
            layers: names of the layers that write the outputs in the float model.
        """
        self.float_outputs = tuple(labels)
        self.output_names = list(layers)

    def change_training_loss(self, change: TrainingLoss) -> None:
        """Changes the loss of training steps until the present `fit` ends; for callbacks.

        To be called in `on_train_begin`. Evaluation, also during `fit`, keeps the compiled loss.

        Args:
            change: from (loss, inputs, outputs, sample weights or None) of a batch to the loss to
                minimize; several changes follow one another.
        """
        if change not in self._training_losses:
            self._training_losses = (*self._training_losses, change)
            self.make_train_function(force=True)

    def _forget_training_losses(self) -> None:
        if self._training_losses:
            self._training_losses = ()
            self.make_train_function(force=True)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The compiled loss; in training steps as `change_training_loss` changed it."""
        loss: Any = super().compute_loss(x, y, y_pred, sample_weight, training)
        for change in self._training_losses if training else ():
            loss = change(loss, x, y_pred, sample_weight)
        return loss

    def _count_calls(self) -> None:
        """Tells quantizers how often they stand in the model."""
        graph = flatten(self)
        for layer in [*weighted_layers(self), *activation_layers(self)]:
            layer.quantizer.calls = graph.calls(layer)

    @property
    def weight_budget(self) -> PrecisionBudget:
        """What the weights cost now, and the limit."""
        return weight_budget(self, self.ddq_config)

    def get_config(self) -> dict[str, Any]:
        """Returns the functional configuration and the DDQ configuration."""
        return {
            **super().get_config(),
            "ddq_config": self.ddq_config.to_dict(),
            "float_outputs": list(self.float_outputs),
            "output_names": list(self.output_names),
            "aligned_digest": self.aligned_digest,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Restores a model from `get_config`."""
        functional = dict(config)
        ddq_config = DDQConfig.from_dict(functional.pop("ddq_config"))
        labels = functional.pop("float_outputs", ())
        layers = functional.pop("output_names", None)
        aligned_digest = functional.pop("aligned_digest", None)
        model = super().from_config(functional, custom_objects=custom_objects)
        model.ddq_config = ddq_config
        model.name_outputs(labels, layers or model.output_names)
        model.aligned_digest = aligned_digest
        return model
