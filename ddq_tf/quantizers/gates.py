r"""Precision gates: one choice among a tensor's precisions, and what the loss says about it.

A tensor learns over ascending precisions b_0 < ... < b_m. Ordered gates G_1..G_m (G_i counts only
if all before it are open) give the telescope
    x_q = Q_{b_0}(x) + sum_i G_i * (Q_{b_i}(x) - Q_{b_{i-1}}(x)),
of which the forward pass sees exactly one term, Q at the precision in force. The straight-through
gradient of gate i is  dL/dG_i = <dL/dx_q, Q_{b_i}(x) - Q_{b_{i-1}}(x)>.

That gradient is taken where the network stands. At the upper precision of a trained network it is
about 0, at the lower it is about twice the loss that the step would save; the mean of both ends is
right to second order (trapezoid rule). So each gate remembers the two ends apart, and training
visits neighbouring precisions at random while it searches. (Reconstructed; the paper's gates are
H(g^) with a straight-through gradient.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

Tensor = Any

MEMORY = 0.995


@ops.custom_gradient
def gate(selection: Tensor, evidence: Tensor) -> Tensor:
    """Passes the selection on; backward, returns the new evidence as the gradient of the old.

    The evidence variable is marked `overwrite_with_gradient`, so every Keras optimizer stores
    what arrives here, whatever its learning rate.

    Args:
        selection: float32, shape (num_precisions,), one-hot: the precision in force.
        evidence: float32, shape (num_precisions - 1, 2, 2): for each gate, at its lower and at its
            upper precision, the decayed sum of -dL/dG and the decayed number of visits.

    Returns:
        The selection.
    """

    def grad(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, Tensor]:
        g = args[0] if upstream is None else upstream
        saved = ops.reshape(g[:-1] - g[1:], (-1, 1))
        visited = ops.stack([selection[:-1], selection[1:]], axis=1)
        seen = ops.stack([ops.multiply(visited, saved), visited], axis=2)
        decay: Tensor = ops.where(ops.greater(ops.expand_dims(visited, 2), 0), MEMORY, 1.0)
        return ops.zeros_like(selection), ops.add(ops.multiply(decay, evidence), seen)

    return selection * 1.0, grad


def loss_saved(evidence: np.ndarray) -> np.ndarray:
    """Returns the estimated loss that opening each gate saves.

    Args:
        evidence: as in `gate`.

    Returns:
        float64, shape (num_precisions - 1,): the mean of both ends; the end that was seen where
        the other was not (halved at the lower end, which sees twice the saving); 0 where neither.
    """
    finite = np.nan_to_num(np.asarray(evidence, np.float64), posinf=0.0, neginf=0.0)
    sums, visits = finite[..., 0], finite[..., 1]
    means = np.divide(sums, visits, out=np.zeros_like(sums), where=visits > 0)
    return means.sum(axis=1) / 2
