"""Runs .tflite files in stock LiteRT and tells what XNNPACK took over."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from ddq_tf.errors import DDQError
from ddq_tf.export.operators import OPERATORS
from ddq_tf.export.tflite.reader import BUILTIN_NAMES, refusing_damage

Model = bytes | str | os.PathLike[str]

_DELEGATE = "DELEGATE"
_MICRO_OPERATOR = b"TFLM_DECODE\0"
# Operators that compute with the scales of their tensors, and tensors that must have them.
_SCALED = {kind for kind, known in OPERATORS.items() if known.needs_scales}
_EIGHT_BITS = (schema.TensorType.INT8, schema.TensorType.UINT8)


def content_of(model: Model) -> bytes:
    """Returns the content of a .tflite file; raises DDQError if it cannot be read."""
    if isinstance(model, bytes):
        return model
    if not isinstance(model, str | os.PathLike):
        raise DDQError(
            "a .tflite file must be given by its path, its content or what export_tflite returned. "
            f"Received: {type(model).__name__}"
        )
    try:
        return Path(model).read_bytes()
    except OSError as error:
        raise DDQError(f"cannot read the model {os.fspath(model)!r}: {error.strerror}") from error


def is_for_micro(content: bytes) -> bool:
    """Returns whether a file's weights are compressed for TFLite Micro: LiteRT cannot run it.

    Args:
        content: of a .tflite file.
    """
    return _MICRO_OPERATOR in content


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        index: the interpreter's number for it.
        shape: -1 at axis 0 where the batch is dynamic.
        dtype: numpy type of the codes, or float32.
        scale: of one step of the codes; None where the tensor is not quantized.
        zero_point: the code of 0.
    """

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: np.float32 | None
    zero_point: int

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Returns the nearest codes, rint(x * f32(1 / scale)), as Keras and QUANTIZE do.

        Halves go to even; what is out of range saturates.

        Args:
            values: real numbers, any shape.
        """
        if self.scale is None:
            return np.asarray(values, self.dtype)
        limits = np.iinfo(self.dtype)
        inverse = np.float32(1) / np.float32(self.scale)
        codes = np.rint(np.asarray(values, np.float32) * inverse) + self.zero_point
        return np.clip(codes, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """Returns the real numbers that codes stand for, float32."""
        if self.scale is None:
            return np.asarray(codes, np.float32)
        return (np.asarray(codes, np.float32) - np.float32(self.zero_point)) * self.scale


def check_loads(model: Model) -> None:
    """Loads a model, as every default runtime does, and forgets it.

    Args:
        model: the content of a .tflite file, or its path.

    Raises:
        DDQError: with LiteRT's own words, if it refuses the model.
    """
    _load(model, delegate=True, num_threads=1)


class Runner:
    """A model, ready to run on whole data sets.

    Attributes:
        inputs: by the signature's names, in the model's order.
        outputs: likewise.
    """

    def __init__(
        self,
        model: Model,
        *,
        delegate: bool = True,
        num_threads: int = 1,
        batch_size: int = 32,
    ):
        """Loads a model.

        Args:
            model: the content of a .tflite file, or its path.
            delegate: whether XNNPACK may take over ops, as in every default runtime. Otherwise
                the built-in kernels run, which round differently.
            num_threads: used by each op.
            batch_size: how many examples run at once; files with a fixed batch overrule it.

        Raises:
            DDQError: if this is no .tflite file, or holds what the runtime refuses.
        """
        self._interpreter = _load(model, delegate=delegate, num_threads=num_threads)
        self.inputs, self.outputs = _interface(self._interpreter, content_of(model))
        batches = {info.shape[0] for info in self.inputs.values() if info.shape}
        self._fixed_batch = max(batches, default=-1)
        self._batch_size = batch_size if self._fixed_batch < 0 else self._fixed_batch

    @property
    def input(self) -> TensorInfo:
        """The only input; for models with several use `inputs`."""
        return _only(self.inputs, "input")

    @property
    def output(self) -> TensorInfo:
        """The only output; for models with several use `outputs`."""
        return _only(self.outputs, "output")

    def run(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a data set through the model, batch by batch.

        Args:
            inputs: codes of the input's own dtype, shape (examples, ...); by name if the model
                has several inputs. `TensorInfo.quantize` makes them from real numbers.

        Returns:
            The codes of every output, shape (examples, ...), by name, in the model's order.

        Raises:
            DDQError: if the inputs do not fit the model.
        """
        if not isinstance(inputs, Mapping):
            _only(self.inputs, "input")
            inputs = {next(iter(self.inputs)): inputs}
        examples = self._checked_examples(inputs)
        batches = []
        for start in range(0, examples, self._batch_size):
            stop = start + self._batch_size
            batches.append(self._run_batch({name: x[start:stop] for name, x in inputs.items()}))
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self.outputs}

    def __call__(self, inputs: Any) -> Any:
        """Returns what the file computes of real numbers, as a Keras model would.

        Args:
            inputs: float32, shape (examples, ...), as the float model takes them; with several
                inputs a list in the model's order, or a dictionary by name.

        Returns:
            Float32, shape (examples, ...); with several outputs a dictionary by name.

        Raises:
            DDQError: if the inputs do not fit the model.

        Example:
            >>> Runner("model.tflite")(images).argmax(axis=-1)  # doctest: +SKIP
        """
        codes = self.run(codes_of(self.inputs, inputs))
        real = {name: info.dequantize(codes[name]) for name, info in self.outputs.items()}
        return real if len(real) > 1 else next(iter(real.values()))

    def quantize_input(self, values: np.ndarray) -> np.ndarray:
        """Returns real numbers as codes of the only input."""
        return self.input.quantize(values)

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """Returns codes of the only output as real numbers, float32."""
        return self.output.dequantize(codes)

    def _checked_examples(self, inputs: Mapping[str, np.ndarray]) -> int:
        """Returns the number of examples."""
        if set(inputs) != set(self.inputs):
            raise DDQError(f"the inputs are {sorted(self.inputs)}. Received: {sorted(inputs)}")
        for name, values in inputs.items():
            info = self.inputs[name]
            if values.dtype != info.dtype or values.shape[1:] != info.shape[1:]:
                raise DDQError(
                    f"input {name!r} takes {info.dtype} of shape (examples, "
                    f"{', '.join(map(str, info.shape[1:]))}). Received: {values.dtype} of shape "
                    f"{values.shape}. TensorInfo.quantize makes codes of real numbers"
                )
        sizes = {values.shape[0] for values in inputs.values()}
        if len(sizes) != 1 or 0 in sizes:
            raise DDQError(f"inputs need equally many examples, at least one. Received: {sizes}")
        examples = sizes.pop()
        if self._fixed_batch > 0 and examples % self._fixed_batch:
            raise DDQError(
                f"the file takes batches of exactly {self._fixed_batch}. "
                f"Received: {examples} examples. Pass a multiple"
            )
        return examples

    def _run_batch(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one batch."""
        interpreter = self._interpreter
        details = {item["index"]: item for item in interpreter.get_input_details()}
        try:
            for name, values in inputs.items():
                index = self.inputs[name].index
                if tuple(details[index]["shape"]) != values.shape:
                    interpreter.resize_tensor_input(index, values.shape)
            # Without a change of shape this returns at once.
            interpreter.allocate_tensors()
            for name, values in inputs.items():
                interpreter.set_tensor(self.inputs[name].index, np.ascontiguousarray(values))
            interpreter.invoke()
            return {name: interpreter.get_tensor(info.index) for name, info in self.outputs.items()}
        except (RuntimeError, ValueError) as error:
            raise DDQError(f"the LiteRT runtime cannot run this model: {error}") from error


def codes_of(infos: Mapping[str, TensorInfo], inputs: Any) -> dict[str, np.ndarray]:
    """Returns real numbers as codes of a model's inputs, by name.

    Args:
        infos: of the inputs, in the model's order.
        inputs: an array for a single input, or a list in order, or a dictionary by name.

    Raises:
        DDQError: if there are other inputs.
    """
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    else:
        arrays = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        given = dict(zip(infos, arrays, strict=True)) if len(arrays) == len(infos) else {}
    if set(given) != set(infos):
        received = sorted(given) if given else f"{type(inputs).__name__} of {np.shape(inputs)[:1]}"
        raise DDQError(f"the file needs the inputs {list(infos)}. Received: {received}")
    return {name: infos[name].quantize(np.asarray(x, np.float32)) for name, x in given.items()}


def quantized_inputs(runner: Runner, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns real numbers as codes of a model's inputs.

    Args:
        runner: of the model.
        inputs: float32, by name.

    Raises:
        DDQError: if the model has other inputs.
    """
    if set(inputs) != set(runner.inputs):
        raise DDQError(
            f"the file needs the model's inputs {sorted(inputs)}. "
            f"Received: {sorted(runner.inputs)}. It was exported from another model"
        )
    return {name: runner.inputs[name].quantize(values) for name, values in inputs.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delegation:
    """What XNNPACK took over of a model.

    Attributes:
        partitions: how many connected parts; between two, tensors leave and re-enter XNNPACK.
        delegated_ops: how many operators are in them.
        total_ops: how many operators the file has.
        undelegated: the others, each as "KIND (operator <index>)".
    """

    partitions: int
    delegated_ops: int
    total_ops: int
    undelegated: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether the whole model runs as one part in XNNPACK."""
        return self.partitions == 1 and not self.undelegated


def delegation(model: Model) -> Delegation:
    """Asks the runtime which operators its default delegate, XNNPACK, runs.

    Args:
        model: the content of a .tflite file, or its path.

    Raises:
        DDQError: if this is no .tflite file, or holds what the runtime refuses.
    """
    # A delegated graph keeps its operators in the list and adds one DELEGATE per partition,
    # which names the tensors that enter and leave it; there is no public way to ask for either.
    nodes = _load(model, delegate=True, num_threads=1)._get_ops_details()
    ops = [node for node in nodes if node["op_name"] != _DELEGATE]
    parts = [node for node in nodes if node["op_name"] == _DELEGATE]
    delegated = {index for part in parts for index in _ops_within(part, ops)}
    return Delegation(
        partitions=len(parts),
        delegated_ops=len(delegated),
        total_ops=len(ops),
        undelegated=tuple(
            f"{op['op_name']} (operator {op['index']})"
            for op in ops
            if op["index"] not in delegated
        ),
    )


def _ops_within(part: Mapping[str, Any], ops: list[dict[str, Any]]) -> set[int]:
    """Returns the operators of a partition: those between its outputs and its inputs."""
    producer = {int(tensor): op for op in ops for tensor in op["outputs"]}
    entering = {int(tensor) for tensor in part["inputs"]}
    found: set[int] = set()
    pending = [int(tensor) for tensor in part["outputs"]]
    while pending:
        tensor = pending.pop()
        op = producer.get(tensor)
        if op is not None and tensor not in entering and op["index"] not in found:
            found.add(op["index"])
            pending.extend(int(name) for name in op["inputs"])
    return found


def _load(model: Model, *, delegate: bool, num_threads: int) -> Interpreter:
    """Returns an interpreter with its tensors allocated."""
    content = content_of(model)
    if content[4:8] != b"TFL3":
        raise DDQError(
            f"a .tflite file has b'TFL3' at byte 4. Received: {content[4:8]!r} in "
            f"{len(content)} bytes"
        )
    if is_for_micro(content):
        raise DDQError(
            "LiteRT cannot run a file whose weights are compressed for TFLite Micro (operator "
            "TFLM_DECODE). `ddq verify` and `ddq evaluate` take it; for others export with another "
            "target"
        )
    _check_quantized(content)
    resolver = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(
            model_content=content,
            num_threads=num_threads,
            experimental_op_resolver_type=resolver,
        )
        interpreter.allocate_tensors()
        for names in (interpreter.get_input_details, interpreter.get_output_details):
            names()  # which must be UTF-8
    except (RuntimeError, ValueError) as error:
        raise DDQError(f"the LiteRT runtime refuses this model: {error}") from error
    return interpreter


def _check_quantized(content: bytes) -> None:
    """Raises DDQError for integers without a scale where a kernel needs one: LiteRT would abort."""
    with refusing_damage(content):
        model = schema.Model.GetRootAs(content)
        for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
            for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
                code = model.OperatorCodes(operator.OpcodeIndex())
                kind = BUILTIN_NAMES.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "")
                if kind in _SCALED:
                    _check_scales(graph, operator, kind)


def _check_scales(graph: Any, operator: Any, kind: str) -> None:
    places = [operator.Inputs(i) for i in range(operator.InputsLength())]
    places += [operator.Outputs(i) for i in range(operator.OutputsLength())]
    for tensor in (graph.Tensors(place) for place in places if place >= 0):
        grid = tensor.Quantization()
        scales = 0 if grid is None else grid.ScaleLength()
        if tensor.Type() in _EIGHT_BITS and not scales:
            raise DDQError(f"{kind} needs a scale for each 8-bit tensor. Received: one without")


def _interface(
    interpreter: Interpreter, content: bytes
) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """Returns inputs and outputs by the signature's names, else by the tensors' own.

    The runtime sorts a signature by name; the file lists names and tensors in the model's order.
    """
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if not interpreter.get_signature_list():
        return _named(inputs), _named(outputs)
    signature = interpreter.get_signature_runner()
    written = schema.Model.GetRootAs(content).SignatureDefs(0)
    input_names = [written.Inputs(i).Name().decode() for i in range(written.InputsLength())]
    output_names = [written.Outputs(i).Name().decode() for i in range(written.OutputsLength())]
    return (
        _in_order(signature.get_input_details(), input_names, inputs),
        _in_order(signature.get_output_details(), output_names, outputs),
    )


def _named(tensors: list[dict[str, Any]]) -> dict[str, TensorInfo]:
    return {details["name"]: _tensor_info(details) for details in tensors}


def _in_order(
    signature: Mapping[str, Mapping[str, Any]], names: list[str], tensors: list[dict[str, Any]]
) -> dict[str, TensorInfo]:
    """Returns what a signature names, in the order of the file's own list.

    A tensor with several names stands in the list as often; its names come in the file's order.
    """
    places: dict[int, list[int]] = {}
    for place, details in enumerate(tensors):
        places.setdefault(details["index"], []).append(place)
    order = {}
    for name in names:
        left = places.get(signature[name]["index"], []) if name in signature else []
        if not left:
            raise DDQError(f"the file's signature names {name!r}, no input or output of it")
        order[name] = left.pop(0)
    return {name: _tensor_info(signature[name]) for name in sorted(names, key=order.__getitem__)}


def _tensor_info(details: Mapping[str, Any]) -> TensorInfo:
    """Returns what the interpreter tells of a tensor."""
    scales = details["quantization_parameters"]["scales"]
    zero_points = details["quantization_parameters"]["zero_points"]
    return TensorInfo(
        index=int(details["index"]),
        shape=tuple(int(size) for size in details["shape_signature"]),
        dtype=np.dtype(details["dtype"]),
        scale=np.float32(scales[0]) if len(scales) else None,
        zero_point=int(zero_points[0]) if len(zero_points) else 0,
    )


def _only(infos: Mapping[str, TensorInfo], role: str) -> TensorInfo:
    """Returns the single element."""
    if len(infos) != 1:
        raise DDQError(f"the model must have one {role}; pass them by name. It has {list(infos)}")
    return next(iter(infos.values()))
