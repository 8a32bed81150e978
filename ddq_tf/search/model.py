"""The model class that `quantize_model` returns."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import keras

from ddq_tf.backend import outside_of_tracing, variables_of_one_name
from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.grids import align, tell_grids
from ddq_tf.layers import activation_layers
from ddq_tf.search.averages import spare_gates
from ddq_tf.search.budget import PrecisionBudget, weight_budget
from ddq_tf.search.callback import PrecisionSearch
from ddq_tf.search.calls import count_calls
from ddq_tf.search.guard import FiniteGuard, check_inputs, nan_unless_finite
from ddq_tf.search.monitors import Monitors
from ddq_tf.search.own_class import ddq_class, from_config, keras_base, to_config

Tensor = Any
TrainingLoss = Callable[[Tensor, Any, Any, Any], Tensor]


@dataclasses.dataclass(frozen=True)
class _Variables:
    """Variables that a model holds but does not own: Keras would make those of a list its own."""

    variables: tuple[Any, ...]


_DEPTH = 10_000


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQModel(keras.Model):
    """A functional Keras model of DDQ layers whose `fit` learns precisions within a budget.

    Everything else is `keras.Model`: compile, evaluate, predict, save and load.

    Attributes:
        ddq_config: the configuration that it was made with.
        float_outputs: what the float model called its outputs, in their order: the keys of a
            dictionary, or the names of layers, each once; the exported file calls them so.
        aligned_digest: of the weights that were aligned last (`grids.align`), None if none were.
        own: the float model's class if it trains in a way of its own, as by a `train_step`, which
            then stays; else None.
    """

    ddq_config: DDQConfig = DDQConfig()
    float_outputs: tuple[str, ...] = ()
    aligned_digest: str | None = None
    own: type | None = None
    _own_attributes: dict[str, Any] | None = None
    _training_losses: tuple[TrainingLoss, ...] = ()
    _read_by_losses: _Variables | None = None

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any) -> None:
        # Keras walks a graph by recursion; unrolled recurrent layers make deep ones.
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _DEPTH))
        # Not super(): a class of one's own may have other arguments.
        keras_base(type(self)).__init__(self, inputs, outputs, name=name, **kwargs)
        for layer in activation_layers(self):
            if layer.model_config is not None:
                self._restore(**layer.model_config)
        tell_grids(self)

    def configure(
        self, ddq_config: DDQConfig, float_outputs: Sequence[str], output_names: Sequence[str]
    ) -> None:
        """Tells a new model what it is made from; clones and saved models know it too.

        Args:
            ddq_config: see the attributes.
            float_outputs: likewise.
            output_names: of the layers that write the outputs in the float model, as
                `compile(loss={...})` and `fit` call them.
        """
        told = {
            "ddq_config": ddq_config.to_dict(),
            "float_outputs": list(float_outputs),
            "output_names": list(output_names),
        }
        activation_layers(self)[0].model_config = told
        self._restore(**told)

    @classmethod
    def trained_as(cls, own: type | None) -> type[DDQModel]:
        """Returns the class of a DDQ model that trains as models of a class do; None for Keras's.

        Args:
            own: see the attributes.
        """
        return ddq_class(cls, own)

    def take_over(self, attributes: dict[str, Any]) -> None:
        """Gets attributes of the float model that its own way to train may read."""
        self._own_attributes = dict(attributes)
        for name, value in attributes.items():
            setattr(self, name, value)

    def _restore(
        self, ddq_config: dict[str, Any], float_outputs: list[str], output_names: list[str]
    ) -> None:
        self.ddq_config = DDQConfig.from_dict(ddq_config)
        self.float_outputs = tuple(float_outputs)
        self.output_names = list(output_names)

    def fit(self, x: Any = None, y: Any = None, *args: Any, callbacks: Any = None, **kwargs: Any):
        """`keras.Model.fit`, with a `PrecisionSearch` among the callbacks.

        The search comes first, so that other callbacks see its `weight_bits` in the logs. Those
        that compare epochs, as EarlyStopping does, wait until precisions are final. At the end
        scales and biases move to values that leave no doubt in integers (`grids.align`).

        Raises:
            DDQError: if inputs are not finite, before any work starts, or a loss is not: the model
                is then as it was before the epoch.
        """
        given = _listed(callbacks)
        searches = [c for c in given if isinstance(c, PrecisionSearch)]
        if not searches:
            searches = [PrecisionSearch(self.ddq_config)]
            given = [*searches, *given]
        if not any(isinstance(c, keras.callbacks.TerminateOnNaN) for c in given):
            check_inputs(x)
            given = [FiniteGuard(y), *given]  # first: what is not finite must not be kept
        monitors = searches[0].monitors = Monitors(given)
        count_calls(self)
        spare_gates(self.optimizer, given)
        try:
            history = super().fit(x, y, *args, callbacks=given, **kwargs)
        finally:
            monitors.restore()
            self._forget_training_losses()
        for search in searches:
            search.finish()
        align(self)
        return history

    def make_train_function(self, force: bool = False) -> Any:
        """`keras.Model.make_train_function`, of an optimizer that is built before it is traced."""
        optimizer = self.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """`keras.Model.compute_metrics`, of metrics that are built outside of what is traced."""
        metrics = self._compile_metrics
        if metrics is not None and not metrics.built:
            like: Any = keras.tree.map_structure(
                lambda tensor: keras.KerasTensor(tensor.shape, tensor.dtype), (y, y_pred)
            )
            with outside_of_tracing():
                metrics.build(*like)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.save`; into a .keras file.

        Raises:
            DDQError: for .h5, from which Keras restores no model class but its own.
        """
        if str(filepath).lower().endswith((".h5", ".hdf5")):
            raise DDQError(
                f"a DDQ model is saved in a .keras file, for .h5 loses what class it is. Received: "
                f"{str(filepath)!r}"
            )
        super().save(filepath, *args, **kwargs)

    def set_weights(self, weights: Any) -> None:
        """`keras.Model.set_weights`; weights of another calibration bring their grids along."""
        super().set_weights(weights)
        self._adopt_grids()

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """`keras.Model.load_weights`; weights of another calibration bring their grids along."""
        super().load_weights(*args, **kwargs)
        self._adopt_grids()

    def _adopt_grids(self) -> None:
        changed = [layer.quantizer.adopt_stored() for layer in activation_layers(self)]
        if any(changed):
            self.train_function = self.test_function = self.predict_function = None

    @property
    def non_trainable_variables(self) -> list[Any]:
        """What training steps read and do not train; see `change_training_loss`."""
        read = self._read_by_losses
        return [*super().non_trainable_variables, *(read.variables if read else ())]

    def change_training_loss(self, change: TrainingLoss, variables: Sequence[Any] = ()) -> None:
        """Changes the loss of training steps until the present `fit` ends; for callbacks.

        To be called in `on_train_begin`. Evaluation, also during `fit`, keeps the compiled loss.

        Args:
            change: from (loss, inputs, outputs, sample weights or None) of a batch to the loss to
                minimize; several changes follow one another.
            variables: that it reads, beside the model's own: a compiled step of JAX sees no others
                change. Callbacks call `ddq_tf.backend.sync` before they assign them.
        """
        if change not in self._training_losses:
            self._training_losses = (*self._training_losses, change)
            read = self._read_by_losses.variables if self._read_by_losses else ()
            known = {id(v) for v in (*self.variables, *read)}
            new = [v for v in variables if id(v) not in known]
            self._read_by_losses = _Variables((*read, *new))
            self.make_train_function(force=True)

    def _forget_training_losses(self) -> None:
        if self._training_losses:
            self._training_losses, self._read_by_losses = (), None
            self.make_train_function(force=True)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The compiled loss; in training steps as `change_training_loss` changed it.

        Training steps on inputs that are not finite have the loss NaN.
        """
        loss: Any = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        for change in self._training_losses:
            loss = change(loss, x, y_pred, sample_weight)
        return nan_unless_finite(loss, x)

    @property
    def weight_budget(self) -> PrecisionBudget:
        """What the weights cost now, and the limit."""
        return weight_budget(self, self.ddq_config)

    def get_config(self) -> dict[str, Any]:
        """Returns the functional configuration, whose layers tell that of DDQ."""
        return {
            **keras_base(type(self)).get_config(self),
            "aligned_digest": self.aligned_digest,
            "own": to_config(self.own, self._own_attributes or {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Restores a model from `get_config`."""
        functional = dict(config)
        aligned_digest = functional.pop("aligned_digest", None)
        own, attributes = from_config(functional.pop("own", None), custom_objects)
        kind = ddq_class(DDQModel, own)
        with variables_of_one_name():
            model = keras_base(kind).from_config.__func__(kind, functional, custom_objects)
        model.aligned_digest = aligned_digest
        model.take_over(attributes)
        return model


def _listed(callbacks: Any) -> list[Any]:
    """Callbacks as `fit` takes them, as a list."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
