"""Functions of real numbers, written as the steps that a file takes on floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# step("ADD", x, 1.0): an operator of TFLite on floats, from tensors and numbers to a tensor.
Step = Callable[..., Any]
Formula = Callable[[Step, Any], Any]


def gelu(step: Step, x: Any) -> Any:
    """Returns x/2 erfc(-x/sqrt(2))."""
    return step("GELU", x)
