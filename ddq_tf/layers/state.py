"""States of recurrent layers, marked where they stand between two time steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

Tensor = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateMark:
    """Which state of which layer a tensor is, and behind which step.

    Attributes:
        owner: the name of the recurrent layer that the user wrote.
        label: of the state within it: "h", "c", "1_h" of the second cell.
        step: the number of the step, counted in the order of computation.
        of: how many steps there are.
        backwards: whether the last time step is computed first.
        given: whether the layer starts from states that it is called with, not from zeros.
    """

    owner: str
    label: str = ""
    step: int = 0
    of: int
    backwards: bool
    given: bool

    @property
    def name(self) -> str:
        """Of the state in the whole model."""
        return f"{self.owner}_{self.label}"


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQState(keras.layers.Layer):
    """Returns a state as it is; tells which one it is.

    Args:
        mark: what it tells.
    """

    def __init__(self, mark: StateMark | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mark = mark if isinstance(mark, StateMark) else StateMark(**mark)

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the inputs."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "mark": dataclasses.asdict(self.mark)}
