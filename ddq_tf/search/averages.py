"""Optimizers that average weights (`use_ema`), in a model with gates.

They keep no average of what they overwrite by the gradient, as the evidence of gates. Keras 3 knows
of such variables where it averages, but not where averages take the place of weights.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras


def spare_gates(optimizer: Any, callbacks: Iterable[Any]) -> None:
    """Lets what puts averages in the place of weights leave alone what has none.

    Args:
        optimizer: of a compiled model, also inside a LossScaleOptimizer; or None.
        callbacks: of a `fit`; a SwapEMAWeights among them changes weights too.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "use_ema", False):
        return
    _spare(optimizer, ("_overwrite_model_variables_with_average_value",), _of_given)
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            methods = [name for name in _SWAPS if hasattr(callback, name)]
            _spare(callback, methods, _of_optimizer)


_SWAPS = (
    "_tf_swap_variables",
    "_backend_swap_variables",
    "_tf_finalize_ema_values",
    "_backend_finalize_ema_values",
)


def _spare(owner: Any, methods: Iterable[str], change: Callable[..., Any]) -> None:
    """Changes methods of an object, once."""
    if "_ddq_spares_gates" in vars(owner):
        return
    for name in methods:
        setattr(owner, name, functools.partial(change, owner, getattr(owner, name)))
    owner._ddq_spares_gates = True


def _of_given(optimizer: Any, overwrite: Callable[[Any], None], variables: list[Any]) -> None:
    with _averaged_alone(optimizer, variables) as averaged:
        overwrite(averaged)


def _of_optimizer(callback: Any, swap: Callable[[Any], None], optimizer: Any) -> None:
    variables = optimizer._trainable_variables
    with _averaged_alone(optimizer, variables) as averaged:
        optimizer._trainable_variables = averaged
        try:
            swap(optimizer)
        finally:
            optimizer._trainable_variables = variables


@contextlib.contextmanager
def _averaged_alone(optimizer: Any, variables: list[Any]) -> Iterator[list[Any]]:
    """The variables that have an average, while the optimizer shows no others."""
    averages = optimizer._model_variables_moving_average
    pairs = [(v, a) for v, a in zip(variables, averages, strict=True) if a is not None]
    optimizer._model_variables_moving_average = [average for _, average in pairs]
    try:
        yield [variable for variable, _ in pairs]
    finally:
        optimizer._model_variables_moving_average = averages
