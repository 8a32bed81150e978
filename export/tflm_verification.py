"""The proof for TFLite Micro: Keras against its interpreter, the compressed file against plain."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from ddq_tf.answers import answers
from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.exporter import ExportResult
from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor
from ddq_tf.export.lower import lower
from ddq_tf.export.operators import attributes
from ddq_tf.export.passes import run_passes
from ddq_tf.export.tflm import MicroRunner
from ddq_tf.graph.inputs import Interface, batches_of, checked
from ddq_tf.targets import get_target


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroVerification:
    """How well a file for TFLite Micro, its plain int8 twin and its model agree.

    Attributes:
        num_samples: inputs compared.
        num_codes: output codes compared.
        top1_agreement: share of inputs with the same greatest output in Keras and TFLite Micro.
        equal_codes_share: share of equal output codes of the two. Below 1, since TFLite Micro
            rounds a scaled sum twice.
        max_lsb: the largest difference of an output code.
        equals_plain: whether all output codes are those of the plain int8 file, in TFLite Micro.
        equals_reference: whether all output codes are those of LiteRT's reference kernels; None
            where these lack an operator of the model.
    """

    num_samples: int
    num_codes: int
    top1_agreement: float
    equal_codes_share: float
    max_lsb: int
    equals_plain: bool
    equals_reference: bool | None


def verify_tflm(
    model: keras.Model,
    file: ExportResult | bytes | str | os.PathLike[str],
    batches: Any,
) -> MicroVerification:
    """Runs a file in TFLite Micro and compares it with its DDQ model and its plain int8 twin.

    Args:
        model: the DDQ model that was exported; one input, one output.
        file: what `export_tflite` returned for the target tflm, or the file's path or content.
        batches: float32 inputs, as `verify` takes them.

    Raises:
        DDQError: if tflite-micro is missing, the file is of another model or shows float32, or
            there are no inputs.
    """
    interface = Interface(model)
    runner = MicroRunner(file)
    types = {"input_type": runner.input.dtype.name, "output_type": runner.output.dtype.name}
    if "float32" in types.values():
        raise DDQError(f"the file must show int8 or uint8. Received: {types}. Export it so")
    target = get_target("tflm")
    graph = run_passes(lower(model, target, **types), target)
    plain = MicroRunner(tflite.write(graph))
    reference = _Reference(tflite.write(dense_as_convolution(graph)))
    keras_codes, codes = [], []
    plain_codes, reference_codes = [], []
    for batch in batches_of(batches, interface):
        images = checked(interface.arrays(batch), interface, "the batch")[0]
        read = runner.input.quantize(images)
        keras_codes.append(runner.output.quantize(np.asarray(model(images, training=False))))
        codes.append(runner.run(read))
        plain_codes.append(plain.run(read))
        reference_codes.append(reference.run(read))
    if not codes:
        raise DDQError("verification needs at least one input. Received: none")
    expected, received = (np.concatenate(c).astype(np.int64) for c in (keras_codes, codes))
    if expected.shape != received.shape:
        raise DDQError(
            f"the file needs outputs of the model's shape {expected.shape[1:]}. "
            f"Received: {received.shape[1:]}. It was exported from another model"
        )
    difference = np.abs(expected - received)
    return MicroVerification(
        num_samples=len(received),
        num_codes=received.size,
        top1_agreement=float(np.mean(answers(expected) == answers(received))),
        equal_codes_share=float(np.mean(difference == 0)),
        max_lsb=int(difference.max()),
        equals_plain=np.array_equal(received, np.concatenate(plain_codes)),
        equals_reference=(
            np.array_equal(received, np.concatenate(reference_codes)) if reference.runs else None
        ),
    )


def dense_as_convolution(graph: Graph) -> Graph:
    """Returns a graph with 1x1 convolutions for FULLY_CONNECTED, which compute the same.

    TFLite Micro scales all sums by one 31-bit fixed-point rule that rounds twice. LiteRT's
    reference kernels do so too, but for FULLY_CONNECTED, which they round once.
    """
    tensors, ops = dict(graph.tensors), []
    for op in graph.ops:
        ops.extend(_as_convolution(op, tensors) if op.kind == "FULLY_CONNECTED" else [op])
    return dataclasses.replace(graph, tensors=tensors, ops=tuple(ops))


def _as_convolution(op: Op, tensors: dict[str, Tensor]) -> list[Op]:
    """Returns RESHAPE, CONV_2D, RESHAPE for a FULLY_CONNECTED; adds the tensors between."""
    (source, weights, *bias), target = op.inputs, op.outputs[0]
    kernel = tensors[weights]
    outputs, inputs = kernel.shape
    grid = kernel.quantization
    tensors[f"{weights}/1x1"] = dataclasses.replace(
        kernel,
        name=f"{weights}/1x1",
        shape=(outputs, 1, 1, inputs),
        data=None if kernel.data is None else kernel.data.reshape(outputs, 1, 1, inputs),
        quantization=None if grid is None else Quantization(scale=grid.scale),
    )
    batch, rows = tensors[source].shape[0], math.prod(tensors[source].shape[1:-1])
    convolution = dataclasses.replace(
        op,
        kind="CONV_2D",
        inputs=(f"{source}/{target}/image", f"{weights}/1x1", *bias),
        outputs=(f"{target}/image",),
        attrs={"fused_activation_function": attributes(op)["fused_activation_function"]},
    )
    for name, image, channels in (
        (source, convolution.inputs[0], inputs),
        (target, convolution.outputs[0], outputs),
    ):
        shape = (batch, rows, 1, channels)
        tensors[image] = dataclasses.replace(tensors[name], name=image, shape=shape)
    before = _reshape(source, convolution.inputs[0], tensors)
    return [before, convolution, _reshape(convolution.outputs[0], target, tensors)]


def _reshape(source: str, target: str, tensors: dict[str, Tensor]) -> Op:
    shape = tensors[target].shape
    name = f"{target}/shape"
    data = np.array(shape, np.int32)
    tensors[name] = Tensor(name=name, shape=data.shape, dtype=DType.INT32, data=data)
    return Op(kind="RESHAPE", inputs=(source, name), outputs=(target,), attrs={"new_shape": shape})


class _Reference:
    """A file in LiteRT's reference kernels.

    Attributes:
        runs: whether they have all of its operators.
    """

    def __init__(self, content: bytes) -> None:
        try:
            self._interpreter = Interpreter(
                model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            if "Didn't find op" not in str(error):
                raise
            self.runs = False
        else:
            self.runs = True

    def run(self, codes: np.ndarray) -> np.ndarray:
        """Runs examples one by one: a transposed convolution holds the size of its batch."""
        if not self.runs:
            return codes[:0]
        read = self._interpreter.get_input_details()[0]["index"]
        written = self._interpreter.get_output_details()[0]["index"]
        outputs = []
        for example in codes:
            self._interpreter.set_tensor(read, example[None])
            self._interpreter.invoke()
            outputs.append(self._interpreter.get_tensor(written).copy())
        return np.concatenate(outputs)
