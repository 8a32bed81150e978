"""Accuracy of a .tflite classifier, measured in stock LiteRT."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import Model, Runner


def tflite_accuracy(
    model: Model, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, num_threads: int = 2
) -> float:
    """Returns the share of examples whose greatest output is the label's.

    Args:
        model: the content of a .tflite file, or its path.
        batches: pairs of float32 inputs, as the float model takes them, and integer labels.
        num_threads: used by each op.

    Raises:
        DDQError: if the file is no classifier that runs, or there are no examples.
    """
    runner = Runner(model, num_threads=num_threads)
    right = total = 0
    for images, labels in batches:
        codes = runner.run(runner.quantize_input(np.asarray(images)))
        winners = next(iter(codes.values())).reshape(len(images), -1).argmax(axis=1)
        right += int(np.sum(winners == np.asarray(labels).reshape(-1)))
        total += len(images)
    if not total:
        raise DDQError("the accuracy of a model needs at least one example. Received: none")
    return right / total
