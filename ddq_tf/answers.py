"""What the outputs of a classifier answer, and which of its answers are right (numpy only)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddq_tf.errors import DDQError


def threshold_of(function: str | None) -> float | None:
    """Returns where `right_answers` divides the outputs of a function: "sigmoid", "softmax"."""
    return {"sigmoid": 0.5, "softmax": None}.get(function or "", 0.0)


def right_answers(labels: Any, outputs: Any, threshold: float | None) -> np.ndarray:
    """Returns which answers are right: bool, (examples, answers of each).

    - Labels of the outputs' shape without the last axis, or with one value there: classes, also one
      for each pixel. Right is the greatest output; of a single output, the side of the threshold.
    - Labels of the outputs' shape, each row with exactly one 1 and else 0: the same, one-hot. If
      `threshold` says that outputs are independent probabilities, or rows hold several: each value
      is an answer of its own.

    Args:
        labels: see above; integers, or floats of whole values.
        outputs: real numbers, (examples, ...).
        threshold: above which a single output means class 1: 0.5 for the probabilities of a
            sigmoid, 0 for logits; None where outputs are a softmax's.

    Raises:
        DDQError: if labels fit neither way, as of a regression.
    """
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    examples, values = len(outputs), outputs.shape[-1] if outputs.ndim > 1 else 1
    places = outputs.size // values
    above = 0.0 if threshold is None else threshold
    if len(labels) == examples and _whole(labels):
        if labels.size == outputs.size and _is_binary(labels):
            given = labels.reshape(-1, values)
            one_hot = values > 1 and bool((given.sum(axis=1) == 1).all())
            if not one_hot or threshold == 0.5:
                right = (outputs.reshape(-1, values) > above) == (given > 0.5)
                return right.reshape(examples, -1)
            labels = given.argmax(axis=1)
        if labels.size == places and values > 1:
            winners = outputs.reshape(-1, values).argmax(axis=1)
            return (winners == labels.reshape(-1)).reshape(examples, -1)
    raise DDQError(
        "accuracy needs labels that are classes, one for each example or pixel, one-hot rows, or "
        f"0 and 1. Received: {labels.dtype} of shape {labels.shape} for outputs of shape "
        f"{outputs.shape}. For anything else, as a regression, call ddq_tf.export.evaluate with "
        "metrics=[...]"
    )


def answers(outputs: np.ndarray) -> np.ndarray:
    """Returns what outputs say, to be compared: (examples, answers of each).

    That is the place of the greatest value along the last axis; of a single one, itself.
    """
    values = outputs.shape[-1] if outputs.ndim > 1 else 1
    rows = outputs.reshape(-1, values)
    said = rows[:, 0] if values == 1 else rows.argmax(axis=1)
    return said.reshape(len(outputs), -1)


def _whole(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "iub" or bool(np.all(labels == np.rint(labels)))


def _is_binary(labels: np.ndarray) -> bool:
    return bool(np.isin(labels, (0, 1)).all())
