"""A training that was interrupted goes on, with what it would have had undisturbed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from ddq_tf.files import atomic_write_bytes, check_folder
from ddq_tf.training.kept import Kept, broken, forget, keep

FILE, _TABLE = "training.npz", "history.csv"


@runtime_checkable
class Resumable(Protocol):
    """A callback with a state of its own."""

    def state(self) -> dict[str, np.ndarray]:
        """Returns what it needs to go on, after an epoch."""
        ...

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes up what `state` returned; the model has its weights of then."""
        ...


def _progress(kept: Kept) -> tuple[int, dict[str, list[float]]]:
    """Epochs done, and the history of them."""
    try:
        history = {
            str(name): [float(value) for value in values]
            for name, values in kept.notes["history"].items()
        }
        return int(kept.notes["epochs_done"]), history
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise broken(kept.path, error) from error


class Checkpoint(keras.callbacks.Callback):
    """Keeps in one file, after each epoch, all that `fit` needs to go on after an interruption.

    That is weights, with the state of the precision search and of random layers, optimizer, history
    and the state of other callbacks. The file appears whole or not at all: a training killed at any
    moment goes on at the first unfinished epoch, with the bits and losses of an undisturbed one if
    its data come in the same order:

        kept = Checkpoint("checkpoint")
        data = batches.repeat().skip(kept.epochs_done * 100)
        model.fit(data, steps_per_epoch=100, epochs=20, shuffle=False, callbacks=[..., kept])
        model.save("model.keras")
        kept.remove()

    To be passed last, so that it keeps what other callbacks leave.

    Args:
        folder: for the file; made if missing. `history.csv` lies there too, for people.
        companions: other callbacks of the same `fit` whose state to keep.
        settings: what must be the same when the training goes on, as JSON holds it.

    Attributes:
        epochs_done: how many epochs the training has behind it.
        history: by name, the values of all epochs so far, those before an interruption too.

    Raises:
        DDQError: if the folder is read-only, or the file in it is broken, of another model, or of
            other settings.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        companions: Sequence[Resumable] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_folder(folder)
        self._folder = Path(folder)
        self._companions = tuple(companions)
        self._settings = dict(settings or {})
        self.history: dict[str, list[float]] = {}
        self.epochs_done = 0
        self._kept = Kept.read(self._folder / FILE)
        if self._kept is not None:
            self._kept.check_settings(self._settings)
            self.epochs_done, self.history = _progress(self._kept)

    def remove(self) -> None:
        """Deletes what is kept, once the result lies elsewhere."""
        forget_training(self._folder)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Takes up what is kept."""
        if self._kept is None:
            return
        trained: Any = self.model
        trained.optimizer.build(trained.trainable_variables)
        self._kept.assign_to(_variables(trained))
        for number, companion in enumerate(self._companions):
            companion.restore(self._kept.extra(str(number)))
        trained._initial_epoch = self.epochs_done  # as Keras's BackupAndRestore does
        self._kept = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps everything."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        self.epochs_done = epoch + 1
        keep(
            self._folder / FILE,
            _variables(self.model),
            notes={"epochs_done": self.epochs_done, "history": self.history},
            settings=self._settings,
            extra={str(number): each.state() for number, each in enumerate(self._companions)},
        )
        atomic_write_bytes(self._folder / _TABLE, _table(self.history))


def epochs_kept(folder: str | os.PathLike[str]) -> int | None:
    """Returns how many epochs an unfinished training has behind it; None if there is none.

    Raises:
        DDQError: if its file is broken.
    """
    kept = Kept.read(Path(folder) / FILE)
    return None if kept is None else _progress(kept)[0]


def forget_training(folder: str | os.PathLike[str]) -> None:
    """Deletes what a `Checkpoint` keeps in a folder, and the folder if nothing else is in it."""
    forget(folder, FILE, _TABLE)


def _variables(model: Any) -> list[Any]:
    """Everything that training changes: also the states of random layers."""
    return [*model.variables, *model.optimizer.variables]


def _table(history: Mapping[str, Sequence[float]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["epoch", *history])
    rows = zip(*history.values(), strict=False)
    writer.writerows([number, *row] for number, row in enumerate(rows))
    return text.getvalue().encode()
