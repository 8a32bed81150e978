"""The numbers in Keras variables."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def as_float64(variable: Any) -> np.ndarray:
    """Returns a Keras variable's values."""
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
