"""Adam whose steps are measured in units that suit each variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.layers import rounds_activations, rounds_kernel

_SMALLEST_UNIT = 1e-12
_SMALLEST_GAMMA = 1e-3  # of the largest in its layer


class UnitAdam(keras.optimizers.Adam):
    """Adam with a unit for each variable: a step moves a value by at most about rate * unit.

    Kernels of pretrained networks differ by orders of magnitude from channel to channel; what
    moves a code is a step relative to the distance of two levels.

    Args:
        learning_rate: in units per step, or a schedule of it.
        units: by variable path: float32, broadcasts against the variable; others stay.
    """

    def __init__(self, learning_rate: Any, units: dict[str, np.ndarray], **kwargs: Any) -> None:
        super().__init__(learning_rate, epsilon=_SMALLEST_UNIT, **kwargs)
        self._unit_of = units
        self._units: list[np.ndarray] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the moments."""
        none = np.zeros((), np.float32)
        self._units = [self._unit_of.get(variable.path, none) for variable in variables]
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves one variable."""
        unit = self._units[self._get_variable_index(variable)]
        rate: Any = ops.cast(learning_rate, "float32")
        super().update_step(gradient, variable, ops.multiply(rate, unit))


def units_of(
    layers: Sequence[Any], kernel_rate: float, range_rate: float, norm_rate: float
) -> dict[str, np.ndarray]:
    """Returns the variables that reconstruction learns, and how far each may move in a step.

    kernels: `kernel_rate` of the distance of two levels in their channel, at the precision in
    force; ranges and levels: `range_rate`, relative; gamma and beta of a BatchNormalization:
    `norm_rate` of |gamma|, the deviation of its outputs; biases: `norm_rate` of the deviation that
    independent inputs of deviation 1 would give.

    Args:
        layers: of a DDQ model.
        kernel_rate: see above; likewise the others.
        range_rate: relative.
        norm_rate: relative.

    Returns:
        By variable path: float32, broadcasts against the variable.
    """
    units: dict[str, Any] = {}
    for layer in layers:
        if rounds_kernel(layer):
            quantizer, kernel = layer.quantizer, np.asarray(ops.convert_to_numpy(layer.kernel))
            step = quantizer.range_in_force() / (2.0 ** (quantizer.bits - 1) - 1)
            units[layer.kernel.path] = kernel_rate * np.maximum(step, _SMALLEST_UNIT)
            for variable in quantizer.trainable_variables:
                units[variable.path] = np.array(range_rate)
            if layer.bias is not None:
                flat = kernel.reshape(-1, *step.shape) if step.ndim == 1 else kernel
                deviation = np.sqrt(
                    np.sum(np.square(flat), axis=tuple(range(flat.ndim - step.ndim)))
                )
                units[layer.bias.path] = norm_rate * np.ravel(np.maximum(deviation, _SMALLEST_UNIT))
        elif isinstance(layer, keras.layers.BatchNormalization):
            gamma = _deviation(layer)
            for variable in (layer.gamma, layer.beta):
                if variable is not None:
                    units[variable.path] = norm_rate * gamma
        elif rounds_activations(layer) and layer.quantizer.learned:
            for variable in layer.quantizer.trainable_variables:
                units[variable.path] = np.array(range_rate)
    return {path: np.asarray(unit, np.float32) for path, unit in units.items()}


def _deviation(layer: Any) -> np.ndarray:
    """The deviation of a BatchNormalization's outputs, by channel."""
    if layer.gamma is None:
        return np.ones(1)
    gamma = np.abs(np.asarray(ops.convert_to_numpy(layer.gamma)))
    return np.maximum(gamma, _SMALLEST_GAMMA * max(float(gamma.max()), _SMALLEST_UNIT))
