"""Kernels for a quantized network in closed form: what they should be, and rounded well."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddq_tf.graph import as_float64
from ddq_tf.kinds.scales import batch_norm_affine
from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.moments import Moments, moments_of
from ddq_tf.reconstruction.streams import Values
from ddq_tf.targets import OpKind

_DAMPING = 0.03  # of the mean of the diagonal
_FLOOR = 1e-4  # of the inputs' power: what is smaller is their rounding
_TINY = 1e-12
_RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, np.inf)
_MOST_INPUTS = 4096  # of a matrix to invert
_STRETCHES = (0.85, 0.92, 1.0, 1.08)  # of the ranges of least error without correlations
_SWEEPS = 2
_ROWS = 64  # that are rounded before what they change in later rows is added up


def round_block(
    block: Block,
    float_inputs: Values,
    inputs: Values,
    views: int = 1,
    on_layer: Callable[[], None] = lambda: None,
) -> None:
    """Gives the kernels of a block, one after the other, levels that suit what they now read.

    First `kernel_for`, then `round_kernel`. What is left of the shift of the outputs' means goes
    into the moving mean of the BatchNormalization behind, else into the bias.

    Layers that stand several times in the model, transposed and grouped convolutions, those with
    more than 4096 inputs to an output, and those whose zeros are to stay keep their kernels.

    Args:
        block: its layers must have ranges; kernels end on their levels.
        float_inputs: of the block in the float network, (images, ...).
        inputs: of the block in the quantized network, likewise.
        views: how many parts of the same length, one after the other, show the same images.
        on_layer: called after each of `block.kernels`.
    """
    variables = [v for layer in block.layers for v in layer.variables]
    before = [(v, np.array(ops.convert_to_numpy(v))) for v in variables if v.dtype == "float32"]
    images = len(inputs) // views
    folds = [np.flatnonzero(np.arange(len(inputs)) % images < images // 2)]
    folds.append(np.setdiff1d(np.arange(len(inputs)), folds[0]))
    folds = [fold for fold in folds if len(fold)]
    for layer in block.kernels:
        if is_plain(layer):
            halves = moments_of(block, layer, float_inputs, inputs, folds, before)
            _round(layer, block.norms.get(layer.name), halves)
        on_layer()


def kernels_for(kernel: np.ndarray, moments: Moments, ridges: Sequence[float]) -> list[np.ndarray]:
    r"""Returns kernels that make up for the errors of what they read, one for each ridge.

    Minimizes E ||x^T V - f^T W||^2 + ridge * mean(diag C) ||V - W||^2, C = E x x^T, about the means
    (asymmetric calibration: Li et al., GPTAQ, 2025):
        V = W + (C + (ridge * mean(diag C) + floor) I)^-1 (E x f^T - C) W,
    floor = 1e-4 of the power of the inputs.

    Args:
        kernel: W, float64 (groups, k, outputs).
        moments: of x and f.
        ridges: each > 0; infinite gives W.

    Returns:
        V, float64, each of the kernel's shape.
    """
    values, vectors = np.linalg.eigh(moments.xx)
    values = np.maximum(values, 0.0)
    asked = vectors.swapaxes(1, 2) @ ((moments.xf - moments.xx) @ kernel)
    floor = np.maximum(_FLOOR * moments.power, _TINY)[:, None]
    scale = np.mean(values, axis=1, keepdims=True)
    return [
        kernel
        if np.isinf(ridge)
        else kernel + vectors @ (asked / (values + ridge * scale + floor)[..., None])
        for ridge in ridges
    ]


def best_ridge(kernel: np.ndarray, halves: Sequence[Moments], gain: np.ndarray) -> float:
    """Returns the ridge whose kernel, made for half of the images, errs least on the other half.

    Args:
        kernel: float64 (groups, k, outputs).
        halves: two; of fewer, nothing can be told, and the ridge is infinite.
        gain: of each output, float64, broadcasts against (groups, outputs).
    """
    if len(halves) < 2:
        return np.inf
    errors = np.zeros(len(_RIDGES))
    for made_for, other in (halves, halves[::-1]):
        for number, found in enumerate(kernels_for(kernel, made_for, _RIDGES)):
            # E (x^T V - f^T W)^2 without E (f^T W)^2.
            products = found * (other.xx @ found - 2 * other.xf @ kernel)
            errors[number] += np.sum(products.sum(axis=1) * np.square(gain))
    return _RIDGES[int(np.argmin(errors))]


def round_kernel(
    kernel: np.ndarray,
    correlations: np.ndarray,
    to_levels: Any,
    damping: float = _DAMPING,
    floor: float | np.ndarray = 0.0,
) -> np.ndarray:
    r"""Returns a kernel on its levels that errs little at its outputs (GPTQ, Frantar et al., 2022).

    Minimizes E ||x^T (W - Q)||^2 = tr((W - Q)^T C (W - Q)), C = E x x^T: row after row is rounded,
    and the rows that are still to come make up for its error,
        W[j] -= (W[i] - Q[i]) * U[i, j] / U[i, i],
        U^T U = (C + (damping * mean(diag C) + floor) I)^-1,
    rows of large inputs first.

    Args:
        kernel: float64 (groups, k, outputs).
        correlations: C, float64 (groups, k, k), symmetric, positive semidefinite.
        to_levels: from float64 (groups, outputs) to the nearest levels of each output.
        damping: see above; > 0.
        floor: likewise; >= 0, one or (groups,).

    Returns:
        float64 (groups, k, outputs).
    """
    diagonal = np.diagonal(correlations, axis1=1, axis2=2)
    order = np.argsort(-diagonal, axis=1, kind="stable")
    groups = np.arange(len(kernel))[:, None]
    rest = kernel[groups, order].astype(np.float64)
    added = damping * diagonal.mean(axis=1) + floor
    added = np.where(added > 0, added, 1.0)  # inputs that are always 0
    identity = np.eye(diagonal.shape[1])
    damped = correlations[groups[..., None], order[:, :, None], order[:, None, :]]
    inverse = np.linalg.inv(damped + added[:, None, None] * identity)
    upper = np.linalg.cholesky(inverse).swapaxes(1, 2)
    rounded = np.empty_like(rest)
    for start in range(0, rest.shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        part, errors = rest[:, rows], np.empty_like(rest[:, rows])
        triangle = upper[:, rows, rows]
        for i in range(part.shape[1]):
            rounded[:, start + i] = to_levels(part[:, i])
            errors[:, i] = (part[:, i] - rounded[:, start + i]) / triangle[:, i, i, None]
            part[:, i + 1 :] -= triangle[:, i, i + 1 :, None] * errors[:, None, i]
        later = upper[:, rows, start + _ROWS :]
        rest[:, start + _ROWS :] -= later.swapaxes(1, 2) @ errors
    return rounded[groups, np.argsort(order, axis=1)]


def descend(
    rounded: np.ndarray,
    kernel: np.ndarray,
    correlations: np.ndarray,
    to_levels: Any,
    sweeps: int = _SWEEPS,
) -> np.ndarray:
    """Returns levels that err no more at the outputs: one weight after the other is chosen anew.

    Each row in turn takes the levels nearest to where the error, all other rows as they are, is
    least: Q[i] - (C (Q - W))[i] / C[i, i].

    Args:
        rounded: Q, float64 (groups, k, outputs).
        kernel: W, likewise.
        correlations: C, float64 (groups, k, k), of a positive diagonal; damped, if need be.
        to_levels: as `round_kernel` takes it.
        sweeps: over all rows.
    """
    # On levels to the last bit, or all rows would seem to move.
    found = np.stack([to_levels(row) for row in rounded.swapaxes(0, 1)], axis=1)
    diagonal = np.diagonal(correlations, axis1=1, axis2=2)
    slope = correlations @ (found - kernel)
    for _ in range(sweeps):
        for i in range(found.shape[1]):
            change = to_levels(found[:, i] - slope[:, i] / diagonal[:, i, None]) - found[:, i]
            moves = np.flatnonzero(change.any(axis=0))
            if len(moves):
                found[:, i, moves] += change[:, moves]
                slope[:, :, moves] += correlations[:, :, i, None] * change[:, None, moves]
    return found


def is_plain(layer: Any) -> bool:
    """Returns whether a layer's kernel can be rounded by correlations, which leaves no zeros."""
    if layer.quantizer.scheme.keep_zeros:
        return False
    if layer.kind is OpKind.DEPTHWISE:
        return True
    is_grouped = getattr(layer, "groups", 1) > 1
    inputs = int(np.prod(layer.kernel.shape[:-1]))
    return layer.kind is not OpKind.TRANSPOSED and not is_grouped and inputs <= _MOST_INPUTS


def _round(layer: Any, norm: Any, halves: list[Moments]) -> None:
    """Gives a layer its new kernel, and what is behind it the shift of the means."""
    moments = functools.reduce(operator.add, halves)
    takes_shift = norm is not None or layer.bias is not None
    if not takes_shift:
        halves, moments = [half.about_zero() for half in halves], moments.about_zero()
    kernel = grouped(layer, as_float64(layer.kernel))
    shape = kernel.shape[::2]
    gain = np.ones(shape)
    if norm is not None:
        gain = batch_norm_affine(norm, int(np.prod(shape)))[0].reshape(shape)
    wanted = kernels_for(kernel, moments, [best_ridge(kernel, halves, gain)])[0]
    set_ranges(layer, _ungrouped(layer, wanted), moments)
    rounded, stretch = _best_rounded(layer, wanted, moments, layer.quantizer.indices)
    layer.quantizer.rescale(stretch)
    nearest = levels_of(layer, shape, layer.quantizer.indices)
    rounded = descend(rounded, wanted, _damped(moments), nearest)
    layer.kernel.assign(_ungrouped(layer, rounded))
    if takes_shift:
        has, had = (
            np.einsum("gk,gko->go", mean, matrix).ravel()
            for mean, matrix in ((moments.x_mean, rounded), (moments.f_mean, kernel))
        )
        _shift(layer, norm, has - had)


def set_ranges(layer: Any, kernel: np.ndarray, moments: Moments) -> None:
    """Sets the ranges that err least at the outputs, as far as each weight by itself errs there.

    Args:
        layer: one for which `is_plain`.
        kernel: that the ranges are for.
        moments: of what it reads. Depthwise layers do without: their few weights err together.
    """
    importance = None
    if layer.kind is not OpKind.DEPTHWISE:
        power = np.diagonal(moments.xx[0]) + _FLOOR * moments.power
        importance = (power / max(power.mean(), _TINY)).reshape(*kernel.shape[:-1], 1)
    layer.quantizer.set_best_ranges(kernel, importance)


def rounded_kernels(layer: Any, moments: Moments) -> np.ndarray:
    """Returns a layer's kernel on its levels at each of its precisions (`round_kernel`).

    Args:
        layer: one for which `is_plain`, with ranges.
        moments: of what it reads.

    Returns:
        float64, (num_precisions, *kernel shape).
    """
    kernel = grouped(layer, as_float64(layer.kernel))
    indices = range(len(layer.quantizer.precisions))
    if layer.kind is OpKind.DEPTHWISE:  # of few weights, that profit most from the best ranges
        rounded = [_best_rounded(layer, kernel, moments, index)[0] for index in indices]
    else:
        rounders = [levels_of(layer, kernel.shape[::2], index) for index in indices]
        rounded = _side_by_side(kernel, moments, rounders)
    return np.stack([_ungrouped(layer, part) for part in rounded])


def _best_rounded(
    layer: Any, kernel: np.ndarray, moments: Moments, index: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A kernel at one precision, or each channel at its own, with the best of some ranges.

    Returns:
        rounded: (groups, k, outputs), as the kernel.
        stretch: by which the ranges are to be multiplied; (groups, outputs), or (1, 1) where
            all outputs share one.
    """
    shape = kernel.shape[::2]
    rounders = [levels_of(layer, shape, index, stretch) for stretch in _STRETCHES]
    tried = np.stack(_side_by_side(kernel, moments, rounders))
    damped = _damped(moments)
    errors = np.stack([np.sum((q - kernel) * (damped @ (q - kernel)), axis=1) for q in tried])
    if not layer.quantizer.per_channel:
        errors = errors.sum(axis=(1, 2), keepdims=True)
    best = np.argmin(errors, axis=0)
    chosen = np.broadcast_to(best, shape)[None, :, None, :]
    return np.take_along_axis(tried, chosen, axis=0)[0], np.array(_STRETCHES)[best]


def _side_by_side(
    kernel: np.ndarray,
    moments: Moments,
    rounders: Sequence[Callable[[np.ndarray], np.ndarray]],
) -> list[np.ndarray]:
    """A kernel rounded in several ways (`round_kernel`), with one matrix to invert for all."""
    count, outputs = len(rounders), kernel.shape[-1]

    def nearest(values: np.ndarray) -> np.ndarray:
        parts = values.reshape(len(values), count, outputs)
        rows = [rounder(parts[:, i]) for i, rounder in enumerate(rounders)]
        return np.stack(rows, axis=1).reshape(values.shape)

    rounded = round_kernel(
        np.tile(kernel, (1, 1, count)), moments.xx, nearest, floor=_FLOOR * moments.power
    )
    return np.split(rounded, count, axis=-1)


def _damped(moments: Moments) -> np.ndarray:
    """The correlations that `round_kernel` rounds by."""
    added = _DAMPING * np.diagonal(moments.xx, axis1=1, axis2=2).mean(axis=1)
    added = np.maximum(added + _FLOOR * moments.power, _TINY)
    return moments.xx + added[:, None, None] * np.eye(moments.xx.shape[-1])


def levels_of(
    layer: Any, shape: tuple[int, ...], index: int | np.ndarray, stretch: float = 1.0
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what rounds values whose last axes have this shape to the nearest levels.

    Args:
        layer: with ranges.
        shape: of its channels, as the values have them.
        index: of a precision, or of each channel's.
        stretch: of the ranges.
    """
    quantizer = layer.quantizer
    alpha = stretch * np.broadcast_to(quantizer.range_at(index).astype(np.float64), shape)
    index = np.broadcast_to(index, shape) if np.ndim(index) else int(index)

    def nearest(values: np.ndarray) -> np.ndarray:
        return quantizer.levels.nearest((values / alpha).astype(np.float32), index) * alpha

    return nearest


def _shift(layer: Any, norm: Any, by: np.ndarray) -> None:
    if norm is not None:
        norm.moving_mean.assign(as_float64(norm.moving_mean) + by)
    else:
        layer.bias.assign(as_float64(layer.bias) - by)


def grouped(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel as (groups, k, outputs)."""
    if layer.kind is OpKind.DEPTHWISE:
        return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1, kernel.shape[3])
    return kernel.reshape(1, -1, kernel.shape[-1])


def _ungrouped(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """Undoes `_grouped`."""
    shape = tuple(layer.kernel.shape)
    if layer.kind is OpKind.DEPTHWISE:
        return kernel.reshape(shape[2], *shape[:2], shape[3]).transpose(1, 2, 0, 3)
    return kernel.reshape(shape)
