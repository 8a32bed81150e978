"""What a .tflite file is worth on labelled data, measured in its runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.answers import right_answers, threshold_of
from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import Model, Runner, codes_of, content_of, is_for_micro
from ddq_tf.export.operators.activations import PROBABILITIES
from ddq_tf.export.tflite.reader import BUILTIN_NAMES
from ddq_tf.export.tflm import MicroRunner

_ACCURACY = ("accuracy", "acc")
_MOVERS = ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE")
_BATCH = 32


def tflite_accuracy(
    model: Model, batches: Iterable[tuple[Any, Any]], *, num_threads: int = 2
) -> float:
    """Returns the share of a file's answers that are right; see `ddq_tf.answers.right_answers`.

    Args:
        model: the content of a .tflite file, or its path. A file for TFLite Micro runs there.
        batches: pairs of float32 inputs, as the float model takes them, and labels: classes (also
            one for each pixel), one-hot rows, or 0 and 1 for the output of a sigmoid.
        num_threads: used by each op; TFLite Micro has one.

    Raises:
        DDQError: if the file is no classifier that runs, labels are not of a classifier, the
            package tflite-micro is missing where it is needed, or there are no examples.

    Example:
        >>> tflite_accuracy("model.tflite", [(images, labels)])  # doctest: +SKIP
        0.9361
    """
    return evaluate(model, batches, num_threads=num_threads)["accuracy"]


def evaluate(
    model: Model,
    data: Any,
    metrics: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None,
    *,
    num_threads: int = 2,
) -> dict[str, float]:
    """Runs a file on labelled data and measures it, as `keras.Model.evaluate` does a model.

    Args:
        model: the content of a .tflite file, or its path. A file for TFLite Micro runs there.
        data: pairs (inputs, labels), or triples with sample weights, in batches; or one such pair
            of whole arrays. With several inputs or outputs, lists in the file's order or
            dictionaries by name.
        metrics: Keras metrics, or their names, as for `compile`; for several outputs a dictionary
            by the output's name. None for ["accuracy"].
        num_threads: used by each op; TFLite Micro has one.

    Returns:
        The values by the metrics' names; with several outputs as "<output>_<metric>".

    Raises:
        DDQError: if the file does not run, or data or metrics do not fit its outputs.

    Example:
        >>> evaluate("boxes.tflite", (images, boxes), metrics=["mse"])  # doctest: +SKIP
        {'mse': 0.0132}
    """
    content = content_of(model)
    runner = runner_for(content, num_threads=num_threads)
    meters = _meters(runner, content, ["accuracy"] if metrics is None else metrics)
    total = 0
    for batch in _batches(data):
        inputs, labels, weights = (*batch, None)[:3]
        given = codes_of(runner.inputs, inputs)
        codes = runner.run(given if isinstance(runner, Runner) else next(iter(given.values())))
        by_name = codes if isinstance(codes, dict) else {next(iter(runner.outputs)): codes}
        wanted = _by_output(labels, runner, "labels")
        weight = {} if weights is None else _by_output(weights, runner, "sample weights")
        for output, _, meter in meters:
            if output not in wanted:
                raise DDQError(f"output {output!r} needs labels. Received: {sorted(wanted)}")
            real = runner.outputs[output].dequantize(by_name[output])
            meter.update_state(wanted[output], real, sample_weight=weight.get(output))
        total += len(next(iter(by_name.values())))
    if not total:
        raise DDQError("the accuracy of a model needs at least one example. Received: none")
    return {name: float(meter.result()) for _, name, meter in meters}


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


class _Accuracy:
    """The share of right answers, with Keras's interface of a metric."""

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._right = self._total = 0.0

    def update_state(self, labels: Any, outputs: np.ndarray, sample_weight: Any = None) -> None:
        """Counts a batch."""
        right = right_answers(labels, outputs, self._threshold).mean(axis=1)
        weight = np.ones(len(right)) if sample_weight is None else np.ravel(sample_weight)
        self._right += float(np.sum(right * weight))
        self._total += float(np.sum(weight))

    def result(self) -> float:
        """The share so far."""
        return self._right / self._total if self._total else 0.0


def _meters(
    runner: Runner | MicroRunner, content: bytes, metrics: Any
) -> list[tuple[str, str, Any]]:
    """For each metric the output that it is of, its name, and what computes it."""
    names = list(runner.outputs)
    if not isinstance(metrics, Mapping):
        if len(names) > 1:
            raise DDQError(
                f"the file has the outputs {names}: metrics must be a dictionary by output, as "
                f"ddq_tf.export.evaluate(file, data, metrics={{{names[0]!r}: [...]}}). Received: "
                f"{metrics!r}"
            )
        metrics = {names[0]: metrics}
    unknown = [name for name in metrics if name not in names]
    if unknown:
        raise DDQError(f"metrics must be of the outputs {names}. Received: {unknown}")
    found = []
    for output, wanted in metrics.items():
        for metric in [wanted] if isinstance(wanted, str) else wanted:
            name, meter = meter_of(metric, _threshold(content, output, runner))
            found.append((output, name if len(names) == 1 else f"{output}_{name}", meter))
    return found


def meter_of(metric: Any, threshold: float | None) -> tuple[str, Any]:
    """Returns a metric's name, and what computes it with `update_state` and `result`.

    Args:
        metric: Keras's, or its name.
        threshold: for the accuracy; see `ddq_tf.answers.threshold_of`.

    Raises:
        DDQError: if it is none.
    """
    if isinstance(metric, str) and metric in _ACCURACY:
        return "accuracy", _Accuracy(threshold)
    meter = _keras_metric(metric)
    return metric if isinstance(metric, str) else meter.name, meter


def _keras_metric(metric: Any) -> Any:
    import keras

    try:
        made = keras.metrics.get(metric)
    except ValueError:
        made = None
    if made is None:
        raise DDQError(f"a metric must be Keras's, or its name. Received: {metric!r}")
    if isinstance(made, keras.metrics.Metric):
        return made
    name = metric if isinstance(metric, str) else getattr(made, "__name__", "metric")
    return keras.metrics.MeanMetricWrapper(made, name=name)


def _threshold(content: bytes, output: str, runner: Runner | MicroRunner) -> float | None:
    last = _last_operator(content, runner.outputs[output].index)
    return threshold_of(PROBABILITIES.get(last))


def _last_operator(content: bytes, tensor: int) -> str:
    """The kind of the operator that computes a tensor, behind those that only move values."""
    model = schema.Model.GetRootAs(content)
    graph: Any = model.Subgraphs(0)
    for place in reversed(range(graph.OperatorsLength())):
        operator = graph.Operators(place)
        if tensor not in operator.OutputsAsNumpy():
            continue
        code: Any = model.OperatorCodes(operator.OpcodeIndex())
        kind = BUILTIN_NAMES.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "?")
        if kind not in _MOVERS:
            return kind
        tensor = int(operator.Inputs(0))
    return "?"


def _batches(data: Any) -> Iterable[Any]:
    """Batches of (inputs, labels); one pair of whole arrays in parts."""
    whole = isinstance(data, tuple) and len(data) in (2, 3) and not isinstance(data[0], tuple)
    if not whole:
        if hasattr(data, "shape") or isinstance(data, Mapping) or data is None:
            raise DDQError(
                "data must be pairs of inputs and labels, (inputs, labels) or batches of them. "
                f"Received: {type(data).__name__}"
            )
        if not hasattr(data, "__iter__") and hasattr(data, "__getitem__"):  # a PyDataset
            return (data[i] for i in range(len(data)))
        return data
    import keras

    size = len(keras.tree.flatten(data[0])[0])
    return (
        keras.tree.map_structure(lambda a, start=start: a[start : start + _BATCH], data)
        for start in range(0, size, _BATCH)
    )


def _by_output(values: Any, runner: Runner | MicroRunner, words: str) -> dict[str, np.ndarray]:
    names = list(runner.outputs)
    if isinstance(values, Mapping):
        given = dict(values)
    elif len(names) > 1:
        if not isinstance(values, list | tuple) or len(values) != len(names):
            raise DDQError(
                f"{words} must be a list of {len(names)} arrays, or a dictionary, for the outputs "
                f"{names}. Received: {type(values).__name__}"
            )
        given = dict(zip(names, values, strict=True))
    else:
        given = {names[0]: values}
    return {name: np.asarray(value) for name, value in given.items()}
