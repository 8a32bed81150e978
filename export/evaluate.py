"""Accuracy of a .tflite classifier, measured in stock LiteRT or in TFLite Micro."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import Model, Runner, content_of, is_for_micro
from ddq_tf.export.tflm import MicroRunner


def tflite_accuracy(
    model: Model, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, num_threads: int = 2
) -> float:
    """Returns the share of examples whose greatest output is the label's.

    Args:
        model: the content of a .tflite file, or its path. A file for TFLite Micro runs there.
        batches: pairs of float32 inputs, as the float model takes them, and integer labels.
        num_threads: used by each op; TFLite Micro has one.

    Raises:
        DDQError: if the file is no classifier that runs, the package tflite-micro is missing where
            it is needed, or there are no examples.
    """
    runner = runner_for(model, num_threads=num_threads)
    right = total = 0
    for images, labels in batches:
        codes = runner.run(runner.input.quantize(np.asarray(images)))
        (codes,) = codes.values() if isinstance(codes, dict) else (codes,)
        winners = codes.reshape(len(images), -1).argmax(axis=1)
        right += int(np.sum(winners == np.asarray(labels).reshape(-1)))
        total += len(images)
    if not total:
        raise DDQError("the accuracy of a model needs at least one example. Received: none")
    return right / total


def runner_for(model: Model, *, num_threads: int = 1) -> Runner | MicroRunner:
    """Returns the interpreter that runs a file: LiteRT's, or TFLite Micro's.

    Args:
        model: the content of a .tflite file, or its path.
        num_threads: used by each op; TFLite Micro has one.

    Raises:
        DDQError: as `Runner` and `MicroRunner` do.
    """
    content = content_of(model)
    if is_for_micro(content):
        return MicroRunner(content)
    return Runner(content, num_threads=num_threads)
