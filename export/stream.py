"""Runs a streaming file step by step: `export_tflite(model, path, streaming=True)` writes one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Runner, TensorInfo, codes_of, content_of
from ddq_tf.export.ir import Graph

# Of the file's metadata: the names of its states, one a line.
STATES = "streaming_states"

Model = bytes | str | os.PathLike[str]


def states_of(model: Model) -> tuple[str, ...]:
    """Returns the names of a streaming file's states; () for other files.

    Args:
        model: the content of a .tflite file, or its path.

    Raises:
        DDQError: if it cannot be read.
    """
    return told_states(tflite.read(content_of(model)))


def told_states(graph: Graph) -> tuple[str, ...]:
    """Returns the names of the states of a graph of one step; () for other graphs."""
    return tuple(graph.metadata.get(STATES, b"").decode().splitlines())


class Stream:
    """A streaming file that keeps its states from one step to the next, zeros at first.

    Attributes:
        inputs: of one step, by the signature's names, without the states.
        outputs: likewise.
        states: the codes of the states behind the last step, by name; {} before the first.

    Example:
        >>> stream = Stream("gestures.tflite")  # doctest: +SKIP
        >>> for features in readings:  # (examples, features), float32  # doctest: +SKIP
        ...     scores = stream(features)
    """

    def __init__(self, model: Model, *, num_threads: int = 1) -> None:
        """Loads a file.

        Args:
            model: the content of a streaming .tflite file, or its path.
            num_threads: used by each op.

        Raises:
            DDQError: if it is none, or LiteRT refuses it.
        """
        self._runner = Runner(model, num_threads=num_threads)
        names = states_of(model)
        if not names:
            raise DDQError(
                "a stream needs a file of one time step, as export_tflite(model, path, "
                "streaming=True) and `ddq export --streaming` write it. Received: a file without "
                "states; Runner runs it"
            )
        every = self._runner.inputs, self._runner.outputs
        self.inputs, self.outputs = (
            {name: info for name, info in infos.items() if name not in names} for infos in every
        )
        self._grids = {name: self._runner.inputs[name] for name in names}
        self.states: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """Starts again, from zeros."""
        self.states = {}

    def step(self, codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes one step on codes.

        Args:
            codes: of each input, (examples, ...); always of as many examples.

        Returns:
            The codes of each output, (examples, ...), by name.

        Raises:
            DDQError: if the inputs do not fit the file, or the examples differ from those before.
        """
        if not self.states:
            examples = max((len(each) for each in codes.values()), default=0)
            self.states = zero_states(self._grids, examples)
        written = self._runner.run({**codes, **self.states})
        self.states = {name: written[name] for name in self.states}
        return {name: written[name] for name in self.outputs}

    def __call__(self, features: Any) -> Any:
        """Computes one step on real numbers.

        Args:
            features: float32, (examples, ...); of several inputs a list or a dictionary by name.

        Returns:
            Float32, (examples, ...); of several outputs a dictionary by name.

        Raises:
            DDQError: as `step` does.
        """
        codes = self.step(codes_of(self.inputs, features))
        real = {name: info.dequantize(codes[name]) for name, info in self.outputs.items()}
        return real if len(real) > 1 else next(iter(real.values()))

    def run(self, sequences: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Computes all steps of whole sequences, from zeros.

        Args:
            sequences: codes of each input, (examples, steps, ...); without the axis of steps, the
                same at each.

        Returns:
            The codes of each output, (examples, steps, ...), by name.

        Raises:
            DDQError: as `step` does, or if the lengths differ.
        """
        self.reset()
        steps = [self.step(codes) for codes in rows_of(self.inputs, sequences)]
        return {name: np.stack([codes[name] for codes in steps], 1) for name in self.outputs}


def zero_states(infos: Mapping[str, TensorInfo], examples: int) -> dict[str, np.ndarray]:
    """Returns the codes of zeros, (examples, ...), by name."""
    return {
        name: np.full((examples, *info.shape[1:]), info.zero_point, info.dtype)
        for name, info in infos.items()
    }


def rows_of(
    infos: Mapping[str, TensorInfo], sequences: Mapping[str, np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Returns what each step reads of whole sequences.

    Args:
        infos: of the inputs of one step.
        sequences: (examples, steps, ...), or (examples, ...) for the same at each step.

    Raises:
        DDQError: if there is no sequence, or their lengths differ.
    """
    long = {n: x for n, x in sequences.items() if n in infos and x.ndim > len(infos[n].shape)}
    lengths = {name: values.shape[1] for name, values in long.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        received = {name: values.shape for name, values in sequences.items()}
        raise DDQError(
            "a stream needs sequences (examples, steps, ...) of one length for the inputs "
            f"{list(infos)}. Received: {received}"
        )
    return [
        {name: values[:, step] if name in long else values for name, values in sequences.items()}
        for step in range(next(iter(lengths.values())))
    ]
