"""How the row of the precision in force is picked from a table of all."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def pick(selection: Tensor, table: Tensor) -> Tensor:
    """Returns the selected row of a table (num_precisions, ...), exactly.

    A selection for each channel, (num_precisions, *channels), picks each channel's own.
    """
    missing = len(table.shape) - len(selection.shape)
    if selection.shape[0] == 1 and len(selection.shape) == 1:
        return ops.squeeze(table, axis=0)
    # No matrix product: GPUs round its factors to TF32.
    if missing > 0:
        selection = ops.reshape(selection, tuple(selection.shape) + (1,) * missing)
    elif missing < 0:
        table = ops.reshape(table, tuple(table.shape) + (1,) * -missing)
    return ops.sum(selection * table, axis=0)
