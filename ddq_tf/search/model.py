"""The model class that `quantize_model` returns."""

from __future__ import annotations

from typing import Any

import keras

from ddq_tf.config import DDQConfig
from ddq_tf.graph import align
from ddq_tf.search.budget import PrecisionBudget, weight_budget
from ddq_tf.search.callback import PrecisionSearch


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQModel(keras.Model):
    """A functional Keras model of DDQ layers whose `fit` learns precisions within a budget.

    Everything else is `keras.Model`: compile, evaluate, predict, save and load.

    Attributes:
        ddq_config: the configuration that it was made with.
        float_outputs: what the float model called its outputs, in their order; the exported file
            calls them so.
    """

    ddq_config: DDQConfig = DDQConfig()
    float_outputs: tuple[str, ...] = ()

    def fit(self, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        """`keras.Model.fit`, with a `PrecisionSearch` among the callbacks.

        The search comes first, so that other callbacks see its `weight_bits` in the logs. At the
        end scales and biases move to values that leave no doubt in integers (`graph.align`).
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):
            given = list(callbacks.callbacks)
        elif callbacks is None:
            given = []
        else:
            given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        if not any(isinstance(callback, PrecisionSearch) for callback in given):
            given.insert(0, PrecisionSearch(self.ddq_config))
        history = super().fit(*args, callbacks=given, **kwargs)
        for callback in given:
            if isinstance(callback, PrecisionSearch):
                callback.finish()
        align(self)
        return history

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
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Restores a model from `get_config`."""
        functional = dict(config)
        ddq_config = DDQConfig.from_dict(functional.pop("ddq_config"))
        float_outputs = functional.pop("float_outputs", ())
        model = super().from_config(functional, custom_objects=custom_objects)
        model.ddq_config = ddq_config
        model.float_outputs = tuple(float_outputs)
        return model
