"""Callbacks that compare epochs, while precisions are not final."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

_NEVER = 1 << 30


class Monitors:
    """Lets callbacks that look for the best epoch compare only epochs of final precisions.

    While the search goes on, every epoch may have fewer bits than the one before: the best would be
    one of many bits, and a rise of the loss no reason to stop. So `EarlyStopping` waits, and what
    `ModelCheckpoint(save_best_only=True)` and `ReduceLROnPlateau` have seen till then is forgotten
    when the precisions become final.

    Args:
        callbacks: of a `fit`.
    """

    def __init__(self, callbacks: Sequence[Any] = ()) -> None:
        self._watching = [c for c in callbacks if hasattr(c, "monitor") and hasattr(c, "best")]
        self._bests: list[Any] = []
        self._starts: list[tuple[Any, int]] = []

    def hold(self) -> None:
        """The search begins: none may stop the training."""
        self._bests = [callback.best for callback in self._watching]
        patient = [c for c in self._watching if hasattr(c, "start_from_epoch")]
        self._starts = [(callback, callback.start_from_epoch) for callback in patient]
        for callback in patient:
            callback.start_from_epoch = _NEVER
        if patient:
            warnings.warn(
                "EarlyStopping waits until precisions are final: epochs before that have more "
                "bits, and their values say nothing of the model that `fit` leaves",
                stacklevel=2,
            )

    def release(self) -> None:
        """The precisions are final: all compare from here on."""
        self.restore()
        for callback, best in zip(self._watching, self._bests, strict=False):
            callback.best = best

    def restore(self) -> None:
        """Gives callbacks their own settings back."""
        for callback, start in self._starts:
            callback.start_from_epoch = start
        self._starts = []
