"""What a training costs: time and memory, estimated from a model's shapes, and times measured.

The constants are fitted to ResNet-8 and two MobileNetV2, of 32 and 96 px, on one x86 core
(benchmarks/results/training_cost.json, of benchmarks/training_cost.py). There the estimates over
the measured values are 0.86 to 1.02 for peak memory, 0.95 to 1.15 for a step and 0.98 to 1.39 for
what the first step takes longer; on a MobileNetV2 1.0, to which they are not fitted, 0.74, 0.97 and
1.04.
So peaks and times are good to a factor of 2 and no better. Beside other work on the machine a step
takes longer; `diagnose(..., measure=True)` times steps instead.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import keras
import numpy as np

from ddq_tf.graph.functional import functional_of, graph_of
from ddq_tf.graph.inputs import Interface, input_structure
from ddq_tf.recipes import DDQ_RECIPE
from ddq_tf.report.diagnosis import StepTimes, TrainingCost
from ddq_tf.search import DDQModel

CALIBRATION_BATCH = 64  # of `ddq_tf.data.calibration_batches`
_TIMED_BATCH = 8
_TIMED_STEPS = 3
_MIB = 2**20
_FLOAT = 4  # bytes

_PROCESS_MIB = 655.0  # TensorFlow, Keras and ddq_tf, imported
_TRACED_MIB = 4.3  # of each layer: the training step's graph
_BUILT_MIB = 0.7  # of each layer: what calibration calls
_COPIES = 4  # of each parameter: float model, weights, gradients, momentum
_KEPT = 1.15  # a tensor's copies that are held at a time

_PRODUCTS = 3.0  # forward, and two backward
_PASSES = 5.0  # reads and writes of each tensor
_FIRST_S = 0.24  # of each layer: tracing the training step

_PROBE_SIDE = 512  # of the matrices that tell how fast a machine multiplies
_PROBE_ELEMENTS = 2**22  # of the tensor that tells how fast it reads and writes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What of a model costs time and memory.

    Attributes:
        layers: of the DDQ model.
        params: of the DDQ model.
        elements: of what all layers write for one example.
        macs: multiplications of one example, in convolutions and dense layers.
    """

    layers: int
    params: int
    elements: int
    macs: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a machine is.

    Attributes:
        macs_per_s: multiplications of a product of float32 matrices.
        elements_per_s: of a float32 tensor to which a number is added.
    """

    macs_per_s: float
    elements_per_s: float


def load_of(model: DDQModel, macs: int) -> Load | None:
    """Returns what of a model costs; None if it takes inputs of any size.

    Args:
        model: the DDQ model.
        macs: of one example.
    """
    shapes = [
        tuple(tensor.shape[1:])
        for layer in model.layers
        for tensor in keras.tree.flatten(layer.output)
    ]
    if any(size is None for shape in shapes for size in shape):
        return None
    return Load(
        layers=len(model.layers),
        params=model.count_params(),
        elements=sum(map(math.prod, shapes)),
        macs=macs,
    )


def training_cost(model: DDQModel, macs: int) -> TrainingCost | None:
    """Returns about what `ddq quantize` takes on this machine, with its usual batches.

    Args:
        model: the DDQ model; need not be calibrated.
        macs: multiplications of one example.

    Returns:
        The estimate; None if the model takes inputs of any size.
    """
    load, batch_size = load_of(model, macs), DDQ_RECIPE.settings.batch_size
    if load is None:
        return None
    return TrainingCost(
        batch_size=batch_size,
        peak_mib=peak_mib(load, batch_size),
        step_s=step_s(load, batch_size, probe()),
        first_step_s=first_step_s(load),
    )


def peak_mib(load: Load, batch_size: int) -> float:
    """Returns about the peak of resident memory of `ddq quantize`, in MiB, without its data.

    That is the higher of

        training     655 + 4.3 layers + (4 copies · params + 1.15 elements · batch_size) · 4 / 2^20
        calibration  655 + 0.7 layers + 1.15 elements · 64 · 4 / 2^20

    Args:
        load: of the model.
        batch_size: of the training.
    """
    tensors = _KEPT * load.elements * _FLOAT / _MIB
    params = _COPIES * load.params * _FLOAT / _MIB
    training = _TRACED_MIB * load.layers + params + tensors * batch_size
    calibration = _BUILT_MIB * load.layers + tensors * CALIBRATION_BATCH
    return _PROCESS_MIB + max(training, calibration)


def step_s(load: Load, batch_size: int, speed: Speed) -> float:
    """Returns about the seconds of a training step with distillation, once the first is done.

        batch_size · (3 macs / macs_per_s + 5 elements / elements_per_s)

    Args:
        load: of the model.
        batch_size: of the training.
        speed: of the machine.
    """
    products = _PRODUCTS * load.macs / speed.macs_per_s
    passes = _PASSES * load.elements / speed.elements_per_s
    return batch_size * (products + passes)


def first_step_s(load: Load) -> float:
    """Returns about the seconds that the first step takes longer, for it is traced: 0.24 layers."""
    return _FIRST_S * load.layers


def probe() -> Speed:
    """Measures how fast this machine is, within a second: the fastest of a few tries."""
    rng = np.random.default_rng(0)
    matrix = keras.ops.convert_to_tensor(rng.random((_PROBE_SIDE, _PROBE_SIDE), np.float32))
    tensor = keras.ops.convert_to_tensor(rng.random(_PROBE_ELEMENTS, np.float32))
    return Speed(
        macs_per_s=_PROBE_SIDE**3 / _shortest(lambda: keras.ops.matmul(matrix, matrix)),
        elements_per_s=_PROBE_ELEMENTS / _shortest(lambda: keras.ops.add(tensor, 1.0)),
    )


def _shortest(call: Callable[[], object], tries: int = 10) -> float:
    """Seconds of the fastest of several calls, each waited for."""
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        np.asarray(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def step_times(model: keras.Model, quantized: DDQModel) -> StepTimes:
    """Returns the times of training steps on random data, of a copy of the float model."""
    return StepTimes(
        batch_size=_TIMED_BATCH,
        float_s=_float_step_s(model),
        ddq_s=_step_s(quantized),
    )


def _float_step_s(model: keras.Model) -> float:
    """Seconds of a training step of a float model, which stays as it is."""
    if graph_of(model) is not None:
        return _step_s(keras.models.clone_model(model))
    functional, before = functional_of(model), model.get_weights()
    inputs = [keras.Input(t.shape[1:]) for t in functional.inputs]
    given = keras.tree.pack_sequence_as(input_structure(functional), inputs)
    try:
        return _step_s(keras.Model(given, model(given)))
    finally:
        model.set_weights(before)


def _step_s(model: keras.Model) -> float:
    """Seconds of one training step: the shortest of a few, after one that traces it."""
    rng = np.random.default_rng(0)
    interface = Interface(model)
    inputs = interface.packed(
        [rng.random((_TIMED_BATCH, *shape[1:]), np.float32) for shape in interface.shapes]
    )
    wanted = keras.tree.map_structure(
        lambda tensor: np.zeros((_TIMED_BATCH, *tensor.shape[1:]), np.float32), model.output
    )
    losses = keras.tree.map_structure(lambda tensor: "mse", model.output)
    model.compile(keras.optimizers.SGD(1e-6), losses)
    model.train_on_batch(inputs, wanted)
    seconds = []
    for _ in range(_TIMED_STEPS):
        start = time.perf_counter()
        model.train_on_batch(inputs, wanted)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
