"""Optimizers that average weights (`use_ema`), in a model with gates."""

from __future__ import annotations

from typing import Any


def spare_gates(optimizer: Any) -> None:
    """Lets an optimizer with `use_ema` leave alone what it keeps no average of.

    That is what it overwrites by the gradient, as the evidence of gates. Keras 3's optimizers on
    TensorFlow know of such variables where they average, but not where they put averages in place.

    Args:
        optimizer: of a compiled model, also inside a LossScaleOptimizer; or None.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "use_ema", False) or "_ddq_spares_gates" in vars(optimizer):
        return
    overwrite = optimizer._overwrite_model_variables_with_average_value

    def overwrite_averaged(variables: list[Any]) -> None:
        averages = optimizer._model_variables_moving_average
        pairs = zip(variables, averages, strict=True)
        averaged = [(v, average) for v, average in pairs if average is not None]
        optimizer._model_variables_moving_average = [average for _, average in averaged]
        try:
            overwrite([variable for variable, _ in averaged])
        finally:
            optimizer._model_variables_moving_average = averages

    optimizer._overwrite_model_variables_with_average_value = overwrite_averaged
    optimizer._ddq_spares_gates = True
