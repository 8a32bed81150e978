"""Numbers beside the tensors of a call: which are tensors of weights, and which mask something."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops import numpy as op

from ddq_tf.graph.values import as_float64

L = keras.layers
_JOINING = (L.Add, L.Subtract, L.Multiply, L.Concatenate, op.Concatenate)
_SUBTRACTING = (L.Subtract, op.Subtract)
_ADDING = (L.Add, op.Add, *_SUBTRACTING)
_PAIRS = (op.Add, op.Subtract, op.Multiply)
# What is added to hide something from a softmax is no more than this, and as far below the rest.
MOST_MASKED = -50.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """Numbers that stand in the place of a tensor.

    Attributes:
        values: float64, without the batch.
        owner: the variable, or the array, that holds them.
    """

    values: np.ndarray
    owner: Any

    @property
    def label(self) -> str:
        """What a layer that holds them is called, behind the name of the call."""
        return self.owner.name if isinstance(self.owner, keras.Variable) else "constant"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operands:
    """What a call reads, where numbers stand in the place of tensors or mask something.

    Attributes:
        places: in order, symbolic tensors and `Beside`s.
        kept: of a mask, without the batch: True for what is not masked; None for no mask.
    """

    places: tuple[Any, ...]
    kept: np.ndarray | None = None


def operands(
    layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], batch: int | None
) -> Operands | None:
    """Returns what a call reads, None where it reads nothing but tensors, or numbers elsewhere.

    Numbers for each channel, or one for all, are no tensors.

    Args:
        layer: or operation.
        args: of the call.
        kwargs: likewise.
        batch: the size at which the call was read; None for any.
    """
    leaves = [
        leaf
        for leaf in keras.tree.flatten((tuple(args), dict(kwargs)))
        if len(getattr(leaf, "shape", [])) > 0
    ]
    tensors = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
    if not tensors or len(tensors) == len(leaves):
        return None
    rank = max(len(tensor.shape) for tensor in tensors)
    places = tuple(
        leaf if isinstance(leaf, keras.KerasTensor) else numbers(leaf, batch, rank)
        for leaf in leaves
    )
    if None in [None if place is None else 0 for place in places]:
        return None
    given = [place for place in places if isinstance(place, Beside)]
    if type(layer) is L.Softmax and len(places) == 2:
        return Operands(places=(tensors[0],), kept=given[0].values > 0.5)
    channels = tensors[0].shape[-1]
    of_channels = given[0].values.shape[-1:] == (channels,) == (given[0].values.size,)
    if type(layer) in _ADDING and len(places) == 2:
        (beside,) = given
        negative = -1 if type(layer) in _SUBTRACTING else 1
        kept = _kept(negative * beside.values, of_channels)
        if not kept.all() and not (negative < 0 and places[0] is beside):
            return _masked(places, beside, kept)
    if type(layer) in _PAIRS and len(places) == 2:
        return None if of_channels or given[0].values.size == 1 else Operands(places=places)
    return Operands(places=places) if type(layer) in _JOINING else None


def _kept(added: np.ndarray, of_channels: bool) -> np.ndarray:
    """What numbers that are added leave as it is; all of it where they are no mask.

    The mean of images that preprocessing takes away, -103.9, -116.8 and -123.7, is none.
    """
    kept = added > MOST_MASKED
    hides_some = kept.any() and not kept.all()
    if hides_some and added[kept].min() - added[~kept].max() >= -MOST_MASKED:
        return kept if not (of_channels and added[kept].any()) else np.ones_like(kept)
    return np.ones_like(kept)


def _masked(places: tuple[Any, ...], beside: Beside, kept: np.ndarray) -> Operands:
    """A mask, and what is added beside it."""
    rest = np.where(kept, beside.values, 0.0)
    if not rest.any():
        places = tuple(place for place in places if place is not beside)
    else:
        added = dataclasses.replace(beside, values=rest)
        places = tuple(added if place is beside else place for place in places)
    return Operands(places=places, kept=kept)


def numbers(given: Any, batch: int | None, rank: int) -> Beside | None:
    """Returns numbers that are alike for all examples; None for others.

    Args:
        given: a variable or an array.
        batch: the size at which the call was read; None for any.
        rank: of the tensor in whose place they stand, with the batch.
    """
    try:
        values = as_float64(keras.ops.convert_to_tensor(given))
    except (TypeError, ValueError):
        return None
    if values.ndim > rank:
        return None
    shape: tuple[int, ...] = (1,) * (rank - values.ndim) + values.shape
    values = values.reshape(shape)
    if shape[0] not in (1, batch) or not (values == values[:1]).all():
        return None
    return Beside(values=values[0], owner=given)
