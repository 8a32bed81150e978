"""How the row of the precision in force is picked from a table of all."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def pick(selection: Tensor, table: Tensor) -> Tensor:
    """Returns the selected row of a table (num_precisions, ...), exactly.

    A selection for each channel, (num_precisions, *channels), picks each channel's own.
    """
    if selection.shape[0] == 1 and len(selection.shape) == 1:
        return ops.squeeze(table, axis=0)
    return _summed(selection, table)


def pick_number(selection: Tensor, table: Any) -> Tensor:
    """Returns the selected one of a table of fixed numbers, (num_precisions,), exactly.

    Never as a constant: TensorFlow's graphs would multiply its neighbours with it first, and change
    the last bit of a product.
    """
    return _summed(selection, ops.convert_to_tensor(table))


def _summed(selection: Tensor, table: Tensor) -> Tensor:
    missing = len(table.shape) - len(selection.shape)
    # No matrix product: GPUs round its factors to TF32.
    if missing > 0:
        selection = ops.reshape(selection, tuple(selection.shape) + (1,) * missing)
    elif missing < 0:
        table = ops.reshape(table, tuple(table.shape) + (1,) * -missing)
    return ops.sum(selection * table, axis=0)
