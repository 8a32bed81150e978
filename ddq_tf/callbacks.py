"""A Keras callback that shows in TensorBoard what DDQ learns."""

from __future__ import annotations

import os
from typing import Any

from ddq_tf.errors import DDQError
from ddq_tf.jobs import collect
from ddq_tf.jobs.record import now
from ddq_tf.report import ERROR_NAME, Report, plots
from ddq_tf.training import QuantizerLogger


class QuantizationPlots(QuantizerLogger):
    """Writes `QuantizerLogger`'s scalars and the figures of `report.plots` for TensorBoard.

    Images: `ddq/levels`, `ddq/bits` and `ddq/error`, of the epochs so far.

    Args:
        log_dir: where to write; not the folder of another running writer, which TensorBoard would
            not read then. With `keras.callbacks.TensorBoard(d)`, which writes into d/train and
            d/validation, d/ddq is a good choice.
        every: epochs from one set of images to the next; the last epoch has one in any case.

    Raises:
        DDQError: if `every` is below 1.
    """

    def __init__(self, log_dir: str | os.PathLike[str], every: int = 1) -> None:
        if every < 1:
            raise DDQError(f"every must be at least 1. Received: every={every!r}")
        super().__init__(log_dir)
        self.every = every
        self._totals: list[float] = []
        self._undrawn: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets an earlier training."""
        super().on_train_begin(logs)
        self._totals, self._undrawn = [], None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records what is in force, and draws it if it is time."""
        logs = {} if logs is None else logs
        super().on_epoch_end(epoch, logs)
        self._totals.append(logs[ERROR_NAME])
        self._undrawn = epoch
        if (epoch + 1) % self.every == 0:
            self._draw()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Draws the last epoch and closes the files."""
        self._draw()
        super().on_train_end(logs)

    def _draw(self) -> None:
        if self._undrawn is None:
            return
        import tensorflow as tf

        summary = tf.compat.v1.Summary()
        for name, figure in plots.figures(self._report()).items():
            width, height = plots.png_size(figure)
            image = tf.compat.v1.Summary.Image(
                width=width,
                height=height,
                colorspace=4,  # RGBA
                encoded_image_string=plots.png_bytes(figure),
            )
            summary.value.add(tag=f"ddq/{name}", image=image)
        with self._writer.as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=self._undrawn)
        self._writer.flush()
        self._undrawn = None

    def _report(self) -> Report:
        model: Any = self.model
        return Report(
            title=model.name,
            created=now(),
            model_name=model.name,
            layers=collect.layer_reports(model),
            activations=collect.activation_reports(model),
            history={ERROR_NAME: tuple(self._totals)},
            error_history={name: tuple(errors) for name, errors in self.errors.items()},
        )
