"""What stands in the way of quantization."""

from __future__ import annotations

import collections

import keras

from ddq_tf.errors import DDQError
from ddq_tf.report.diagnosis import Trouble
from ddq_tf.search import DDQModel
from ddq_tf.targets import Target
from ddq_tf.transform.quantize import Examination, examine
from ddq_tf.transform.supported import Problem

_RECEIVED = " Received: "


def examined(model: keras.Model, target: Target) -> Examination | Trouble:
    """Returns what there is to say; a trouble if not even the graph can be read."""
    if isinstance(model, DDQModel):
        raise DDQError(f"model {model.name!r} is quantized already: pass the float model")
    try:
        return examine(model, target)
    except DDQError as error:
        return whole(error)


def whole(error: DDQError) -> Trouble:
    """Returns an error as a trouble of the whole model."""
    return Trouble(kind="", layers=(), words=str(error))


def troubles_of(found: Examination) -> tuple[Trouble, ...]:
    """Returns all that is wrong, alike problems together."""
    groups: dict[tuple[str, str], list[Problem]] = collections.defaultdict(list)
    for problem in (*found.problems, *found.broken):
        # What was received, such as a shape, differs from layer to layer.
        groups[problem.words.split(_RECEIVED)[0], problem.kind].append(problem)
    troubles = [
        Trouble(
            kind=kind,
            layers=tuple(dict.fromkeys(problem.name for problem in group)),
            words=_where(group[0]) + group[0].words,
        )
        for (_, kind), group in groups.items()
    ]
    if not found.problems and found.is_empty:
        words = "there is no convolution or dense layer to quantize"
        troubles.append(Trouble(kind="", layers=(), words=words))
    # Those of the same words stand together.
    words_of = list(dict.fromkeys(trouble.words for trouble in troubles))
    return tuple(sorted(troubles, key=lambda trouble: words_of.index(trouble.words)))


def _where(problem: Problem) -> str:
    """Where in the user's code the first of alike problems stands."""
    return f"{problem.place}: " if problem.place else ""
