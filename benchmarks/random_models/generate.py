"""Random models of supported layers, with random configurations, weights and data.

About a third of the cases have extreme weights or data; a few have layers or arguments that are to
be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import layers
from .build import is_layer, output_shape
from .spec import Call, Case, Shape, Source, Spec, as_lists, to_json

TARGETS = ("litert", "litert-int8", "litert-compact", "tflm")
_MOST_VALUES = 2400
_MOST_CALLS = 18
_NAMELESS = ("Model", "example", "OwnLayer", "OwnModel", "OwnLambda")
_FUSED = ("relu", "relu6")
_STRINGS = (
    *_FUSED,
    *("leaky_relu", "elu", "gelu", "sigmoid", "tanh", "swish", "hard_sigmoid", "hard_swish"),
    *("softmax", "linear"),
)
_FUNCTIONS = ("relu", "relu6", "sigmoid", "tanh", "silu", "gelu", "elu", "hard_sigmoid", "softmax")
_KERNEL_CHANGES = ("huge_channel", "huge_row", "zero", "zero_channel", "half_zero", "tiny")
_BIAS_CHANGES = ("plus_1e4", "minus_20", "minus_20_channel")
_NORM_CHANGES = (
    ("gamma", "zero"),
    ("gamma", "zero_channel"),
    ("gamma", "tiny"),
    ("gamma", "huge_channel"),
    ("moving_variance", "tiny"),
    ("moving_variance", "zero_channel"),
    ("beta", "plus_1e4"),
    ("beta", "minus_20"),
)


def generate(seed: int) -> Case:
    """Returns the case of a seed, always the same."""
    rng = np.random.default_rng(seed)
    maker = Maker(rng, extreme=rng.random() < 0.28)
    extreme_data = rng.random() < 0.17
    for _ in range(_choice(rng, {1: 80, 2: 16, 3: 4})):
        maker.add_input(_shape(rng), _data_kind(rng, extreme_data))
    for _ in range(int(rng.integers(2, 9))):
        maker.step()
    maker.end()
    spec = maker.finished()
    config = _config(rng)
    is_unrolled = any(word in repr(spec) for word in ("RNN", "GRU", "LSTM"))
    share = 0.05 if is_unrolled else 0.2  # a step of many layers is slow
    epochs = int(rng.integers(1, 3)) if rng.random() < share else 0
    if len(set(spec.outputs)) < len(spec.outputs) or "channel_precision" in config:
        epochs = 0  # Keras, or `fit` of a DDQ model, refuses it
    return Case(spec=spec, config=config, epochs=epochs, eager=rng.random() < 0.8, seed=seed)


def has_weights(spec: Spec) -> bool:
    """Whether there is a convolution or dense layer, also in a nested model."""
    text = repr(spec.calls)
    return any(word in text for word in ("Conv", "Dense", "HeadAttention", "GRU", "LSTM", "RNN"))


def _choice(rng: np.random.Generator, weights: Mapping[Any, float]) -> Any:
    """Picks a key by its weight."""
    keys, shares = list(weights), np.array(list(weights.values()), float)
    return keys[int(rng.choice(len(keys), p=shares / shares.sum()))]


def _shape(rng: np.random.Generator) -> Shape:
    """An image, a sequence or a vector."""
    rank = _choice(rng, {3: 65, 2: 15, 1: 20})
    sizes = [int(rng.integers(4, 13)) for _ in range(rank - 1)]
    if rank == 3 and rng.random() < 0.6:
        sizes = [8, 8]
    return (*sizes, int(rng.integers(1, 7)) if rank > 1 else int(rng.integers(3, 13)))


def _data_kind(rng: np.random.Generator, extreme: bool) -> str:
    if extreme:
        weights = {"zeros": 2, "constant": 2, "tiny": 3, "large": 3, "negative": 2}
    else:
        weights = {"normal": 70, "pixels": 12, "positive": 18}
    return _choice(rng, weights)


def _config(rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of DDQConfig that differ from its defaults, and always target and budget."""
    target = _choice(rng, {"litert": 40, "litert-int8": 20, "litert-compact": 20, "tflm": 20})
    few = (0.6, "4bits") if target == "litert-int8" else (1.0, "8bits")
    config: dict[str, Any] = {"target": target, "budget": None}
    if rng.random() < 0.3:
        config["budget"] = few[int(rng.integers(2))] if rng.random() < 0.96 else 0.6
    precisions = _choice(
        rng, {None: 41, (8,): 15, (4,): 15, (4, 8): 10, (2, 4, 8): 5, (2,): 8, (3,): 3, (2, 3): 3}
    )
    if precisions is not None:
        config["precisions"] = list(precisions)
    bits = _choice(rng, {8: 60, 4: 12, (4, 8): 10, (2, 4, 8): 8, 2: 3, 6: 4, (3, 5): 3})
    if bits != 8:
        config["activation_bits"] = list(bits) if isinstance(bits, tuple) else bits
    if target in ("litert-int8", "tflm") and rng.random() < 0.4:
        config["levels"] = "free"
        config["level_init"] = _choice(rng, {"uniform": 2, "power_of_two": 1, "kmeans": 1})
        if config["level_init"] == "power_of_two" and max(precisions or (8,)) > 4:
            config["precisions"] = [2, 4]
        return config
    if rng.random() < 0.15:
        config["per_channel"] = False
    elif rng.random() < 0.12:
        config["channel_precision"] = True
    if rng.random() < 0.15:
        config["narrow_range"] = False
    if rng.random() < 0.1:
        config["activation_calibration"] = "percentile"
    return config


class Maker:
    """Adds calls one by one.

    Attributes:
        shapes: of all tensors, without the batch.
        is_own: whether the calls are those of a user's layer.
    """

    def __init__(self, rng: np.random.Generator, *, extreme: bool, first: int = 0) -> None:
        self.rng = rng
        self.extreme = extreme
        self.inputs: list[Source] = []
        self.calls: list[Call] = []
        self.shapes: dict[int, Shape] = {}
        self.count = first
        self.is_own = False

    def chance(self, share: float) -> bool:
        """Whether something of this probability happens."""
        return bool(self.rng.random() < share)

    def pick(self, *values: Any) -> Any:
        """One of the values."""
        return values[int(self.rng.integers(len(values)))]

    def whole(self, low: int, high: int) -> int:
        """A number of low..high."""
        return int(self.rng.integers(low, high + 1))

    def inner(self) -> Maker:
        """A maker of what stands in one call."""
        return Maker(self.rng, extreme=self.extreme, first=self.count)

    def add_input(self, shape: Shape, data: str = "normal") -> int:
        """Adds an input; returns its tensor."""
        number = self._number(shape)
        self.inputs.append(Source(writes=number, shape=shape, data=data))
        return number

    def _number(self, shape: Shape) -> int:
        self.count += 1
        self.shapes[self.count - 1] = shape
        return self.count - 1

    def call(
        self,
        kind: str,
        *reads: int,
        changes: tuple[tuple[str, str], ...] = (),
        shares: int | None = None,
        options: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> int:
        """Adds a call; returns its tensor.

        Raises:
            ValueError: if the layer cannot be called so, or its result is too large.
        """
        shapes = [self.shapes[number] for number in reads]
        shape = output_shape(kind, arguments, shapes, options)
        if len(shape) > 3 and self.chance(0.9):
            raise ValueError("too many axes")
        if int(np.prod(shape)) > _MOST_VALUES or len(self.calls) >= _MOST_CALLS:
            raise ValueError("too large")
        number = self._number(shape)
        self.calls.append(
            Call(
                writes=number,
                kind=kind,
                reads=reads,
                arguments=arguments,
                changes=changes,
                shares=shares,
                options=options or {},
            )
        )
        return number

    def again(self, call: int, *reads: int) -> int:
        """Calls the layer of an earlier call on other tensors."""
        (owner,) = (each for each in self.calls if each.writes == call)
        if not is_layer(owner.kind):
            raise ValueError("no layer")
        rest = {"changes": owner.changes, "options": owner.options, **owner.arguments}
        return self.call(owner.kind, *reads, shares=call, **rest)

    def start(self) -> int:
        """A tensor to go on from: mostly the last."""
        tensors = list(self.shapes)
        return tensors[-1] if self.chance(0.75) else self.pick(*tensors)

    def step(self) -> None:
        """Adds what one random rule makes; nothing if it does not fit here."""
        tensor = self.start()
        if len(self.calls) >= _MOST_CALLS - 6:
            return
        rules = _RULES[min(len(self.shapes[tensor]), 3)]
        try:
            _choice(self.rng, rules)(self, tensor)
        except (ValueError, ZeroDivisionError):
            return

    def end(self) -> None:
        """Mostly ends with a weighted layer and a softmax, as networks do."""
        try:
            self._head()
        except ValueError:
            if not self.calls:
                self.call("Dense", self.inputs[0].writes, units=1)

    def _head(self) -> None:
        tensor = list(self.shapes)[-1]
        if self.chance(0.55) and len(self.shapes[tensor]) > 1:
            rank = len(self.shapes[tensor]) - 1
            kind = self.pick(f"GlobalAveragePooling{rank}D", f"GlobalMaxPooling{rank}D", "Flatten")
            tensor = self.call(kind, tensor)
        if not self.calls or self.chance(0.5):
            made = dense(self, tensor)
            if self.chance(0.3):
                self.call("Softmax", made)

    def finished(self) -> Spec:
        """The spec, with one output or several."""
        outputs = [self.calls[-1].writes]
        while self.chance(0.15):
            outputs.append(self.pick(*(call.writes for call in self.calls)))
        if not self.chance(0.1):
            outputs = list(dict.fromkeys(outputs))
        if self.chance(0.08):
            outputs.append(self._beside(outputs[0]))
        spec = self._spec(outputs).pruned()
        if not has_weights(spec) and self.chance(0.9):
            self.calls.append(Call(writes=self.count, kind="Dense", reads=(outputs[0],)))
            self.calls[-1].arguments["units"] = 3
            outputs[0] = self.count
        if self.chance(0.15):
            self._name(outputs)
        return self._spec(outputs).pruned(keep_inputs=self.chance(0.1))

    def _spec(self, outputs: list[int]) -> Spec:
        return Spec(inputs=tuple(self.inputs), calls=tuple(self.calls), outputs=tuple(outputs))

    def _beside(self, output: int) -> int:
        """What may be the same tensor in the file as an output, or as the input."""
        again = self.pick("Dropout", "ReLU", "same", "Activation", "input")
        if again == "same":
            return output
        if again == "input":
            return self.inputs[0].writes
        rest = {"Dropout": {"rate": 0.1}, "Activation": {"activation": "linear"}}
        self.count += 1
        self.calls.append(
            Call(
                writes=self.count - 1,
                kind=again,
                reads=(output,),
                arguments=rest.get(again, {}),
            )
        )
        return self.count - 1

    def _name(self, outputs: list[int]) -> None:
        """Names the layers that write outputs."""
        shared = {call.shares for call in self.calls}
        for call in self.calls:
            is_plain = is_layer(call.kind) and call.kind not in _NAMELESS
            plain = is_plain and call.shares is None
            if call.writes in outputs and plain and call.writes not in shared:
                call.arguments["name"] = f"out{call.writes}"

    # Parts of weighted layers

    def kernel(self, fan_in: int, name: str = "kernel") -> dict[str, Any]:
        """An initializer of a kernel."""
        deviation = round(float(self.pick(0.7, 1.4, 2.0) / np.sqrt(max(fan_in, 1))), 3)
        return {f"{name}_initializer": ["normal", deviation, self.count]}

    def bias(self) -> dict[str, Any]:
        """Whether there is a bias, and how it starts."""
        if self.chance(0.25):
            return {"use_bias": False}
        if self.chance(0.6):
            return {"bias_initializer": ["normal", 0.3, self.count]}
        return {}

    def weight_changes(self, arguments: dict[str, Any], kernel: str = "kernel") -> Any:
        """What makes weights extreme, if anything."""
        changes: list[tuple[str, str]] = []
        if self.extreme and self.chance(0.5):
            if arguments.get("use_bias", True) and self.chance(0.4):
                changes.append(("bias", self.pick(*_BIAS_CHANGES)))
            else:
                changes.append((kernel, self.pick(*_KERNEL_CHANGES)))
        return tuple(changes)

    def activation(self, rank: int = 3) -> dict[str, Any]:
        """An activation as an argument, or none."""
        if self.chance(0.35):
            return {"activation": self.pick(*_FUSED, *_FUSED, self.function(rank))}
        return {}

    def function(self, rank: int) -> str:
        """The name of an activation; on vectors hardly one of those that need images."""
        name = self.pick(*_STRINGS) if self.chance(0.7) else self.pick(*layers.ISLANDS)
        return "relu" if rank == 1 and name.startswith("hard") and self.chance(0.9) else name


# Rules: each takes the maker and a tensor and adds calls.


def conv(maker: Maker, tensor: int) -> int:
    """A convolution of any kind, often with BatchNorm and activation behind it."""
    shape = maker.shapes[tensor]
    rank = len(shape) - 1
    size = [maker.pick(1, 1, 3, 3, 5, 2) if maker.chance(0.2) else 0 for _ in range(rank)]
    one = maker.pick(1, 1, 3, 3, 3, 5, 2)
    size = [each or one for each in size]
    filters = maker.whole(1, 12)
    arguments: dict[str, Any] = {"filters": filters, "kernel_size": size}
    if maker.chance(0.3):
        arguments["strides"] = maker.pick(2, 2, 2, 3)
    elif maker.chance(0.15):
        arguments["dilation_rate"] = 2
    paddings = ["same", "same", "valid"] + ["causal"] * (rank == 1)
    arguments["padding"] = maker.pick(*paddings)
    groups = maker.pick(2, 3, 4)
    if maker.chance(0.15) and shape[-1] % groups == 0:
        arguments.update(filters=groups * maker.whole(1, 3), groups=groups)
    arguments.update(maker.kernel(int(np.prod(size)) * shape[-1]), **maker.bias())
    arguments.update(maker.activation())
    changes = maker.weight_changes(arguments)
    made = maker.call(f"Conv{rank}D", tensor, changes=changes, **arguments)
    return _behind(maker, made)


def depthwise(maker: Maker, tensor: int) -> int:
    """A depthwise convolution."""
    rank = len(maker.shapes[tensor]) - 1
    arguments: dict[str, Any] = {"kernel_size": maker.pick(1, 3, 3, 3, 5, 2)}
    if maker.chance(0.3):
        arguments["strides"] = 2
    arguments["padding"] = maker.pick("same", "same", "valid")
    if maker.chance(0.3):
        arguments["depth_multiplier"] = 2
    arguments.update(maker.kernel(arguments["kernel_size"] ** rank, "depthwise"), **maker.bias())
    arguments.update(maker.activation())
    changes = maker.weight_changes(arguments)
    return _behind(maker, maker.call(f"DepthwiseConv{rank}D", tensor, changes=changes, **arguments))


def separable(maker: Maker, tensor: int) -> int:
    """A separable convolution."""
    shape = maker.shapes[tensor]
    arguments: dict[str, Any] = {"filters": maker.whole(1, 8), "kernel_size": 3, "padding": "same"}
    if maker.chance(0.3):
        arguments["depth_multiplier"] = 2
    arguments.update(maker.kernel(9, "depthwise"), **maker.kernel(shape[-1], "pointwise"))
    arguments.update(maker.bias(), **maker.activation())
    changes = maker.weight_changes(arguments, "pointwise_kernel")
    made = maker.call(f"SeparableConv{len(shape) - 1}D", tensor, changes=changes, **arguments)
    return _behind(maker, made)


def transposed(maker: Maker, tensor: int) -> int:
    """A transposed convolution."""
    shape = maker.shapes[tensor]
    arguments: dict[str, Any] = {
        "filters": maker.whole(1, 8),
        "kernel_size": maker.pick(2, 3, 4),
        "strides": maker.pick(1, 2, 2, 3),
        "padding": maker.pick("same", "valid"),
    }
    arguments.update(maker.kernel(4 * shape[-1]), **maker.bias())
    arguments.update(maker.activation())
    changes = maker.weight_changes(arguments)
    kind = f"Conv{len(shape) - 1}DTranspose"
    return _behind(maker, maker.call(kind, tensor, changes=changes, **arguments))


def dense(maker: Maker, tensor: int) -> int:
    """A dense layer, over the last axis."""
    shape = maker.shapes[tensor]
    arguments: dict[str, Any] = {"units": maker.whole(1, 12)}
    arguments.update(maker.kernel(shape[-1]), **maker.bias())
    arguments.update(maker.activation(len(shape)))
    changes = maker.weight_changes(arguments)
    made = maker.call("Dense", tensor, changes=changes, **arguments)
    if len(shape) == 1 and "activation" in arguments and maker.chance(0.95):
        return made  # a BatchNorm there is refused
    return _behind(maker, made)


def _behind(maker: Maker, tensor: int) -> int:
    """Perhaps a BatchNorm and an activation behind a weighted layer."""
    if maker.chance(0.35):
        tensor = norm(maker, tensor)
    return activation(maker, tensor) if maker.chance(0.35) else tensor


def norm(maker: Maker, tensor: int) -> int:
    """A BatchNorm with statistics."""
    arguments: dict[str, Any] = {}
    number, changes = maker.count, []
    if maker.chance(0.15):
        arguments["scale"] = False
    else:
        signed = maker.chance(0.2)
        arguments["gamma_initializer"] = ["uniform", -1.5 if signed else 0.5, 1.5, number]
    if maker.chance(0.15):
        arguments["center"] = False
    else:
        arguments["beta_initializer"] = ["normal", 0.3, number]
    arguments["moving_mean_initializer"] = ["normal", 0.3, number]
    arguments["moving_variance_initializer"] = ["uniform", 0.3, 2.0, number]
    if maker.extreme and maker.chance(0.5):
        variable, change = maker.pick(*_NORM_CHANGES)
        if arguments.get({"gamma": "scale", "beta": "center"}.get(variable, ""), True):
            changes.append((variable, change))
    made = maker.call("BatchNormalization", tensor, changes=tuple(changes), **arguments)
    return norm(maker, made) if maker.chance(0.08) else made


def activation(maker: Maker, tensor: int) -> int:
    """An activation as a layer, or as a function."""
    kind = maker.pick("string", "string", "ReLU", "ReLU", "ReLU", "ceiling", "Leaky", "ELU", "rare")
    if kind == "string":
        name = maker.function(len(maker.shapes[tensor]))
        return maker.call("Activation", tensor, activation=name)
    if kind == "ceiling":
        ceiling = maker.pick(6.0, 6.0, 6.0, 1.0, 0.1, 20.0)
        if maker.chance(0.2):
            return maker.call("clip", tensor, top=ceiling)
        return maker.call("ReLU", tensor, max_value=ceiling)
    if kind == "Leaky":
        if maker.chance(0.3):
            return maker.call("ReLU", tensor, negative_slope=maker.pick(0.1, 0.01))
        return maker.call("LeakyReLU", tensor, negative_slope=maker.pick(0.3, 0.1, 0.01, 1.0))
    if kind == "ELU":
        return maker.call("ELU", tensor)
    if kind == "rare":
        if maker.chance(0.6):
            return maker.call("Softmax", tensor)
        return maker.call(f"activations.{maker.pick(*_FUNCTIONS)}", tensor)
    return maker.call("ReLU", tensor)


def number(maker: Maker, tensor: int) -> int:
    """An operator with a number."""
    kind = maker.pick("add_number", "subtract_number", "subtract_from_number", "multiply_number")
    value = maker.pick(2.0, 0.5, -1.0, 3.0, 1 / 6, 100.0, 0.0)
    if value == 0.0 and kind == "multiply_number":
        value = 1.0
    return maker.call(kind, tensor, number=round(value, 4))


def hard_sigmoid(maker: Maker, tensor: int) -> int:
    """relu6(x + 3) / 6 written out, and often the product with x."""
    up = maker.call("ReLU", maker.call("add_number", tensor, number=3.0), max_value=6.0)
    gate = maker.call("multiply_number", up, number=1 / 6)
    return maker.call("multiply", tensor, gate) if maker.chance(0.5) else gate


def pair(maker: Maker, tensor: int) -> int:
    """A sum, difference or product with another tensor, with broadcast if need be."""
    shape = maker.shapes[tensor]
    fits = _broadcasts if maker.chance(0.3) else _fits
    others = [t for t, s in maker.shapes.items() if fits(s, shape)]
    other = maker.pick(*others)
    if maker.chance(0.2):
        axis = maker.whole(1, len(shape))
        other = maker.call(maker.pick("mean", "max"), tensor, axis=axis, keepdims=True)
    elif maker.chance(0.5) and len(shape) > 1:
        other = conv_like(maker, tensor)
    reads = (tensor, other) if maker.chance(0.5) else (other, tensor)
    if maker.chance(0.3):
        made = maker.call(maker.pick("add", "subtract", "multiply"), *reads)
    else:
        kind = maker.pick("Add", "Add", "Subtract", "Multiply")
        if kind == "Add" and maker.chance(0.15):
            reads = (*reads, tensor)
        made = maker.call(kind, *reads)
    return activation(maker, made) if maker.chance(0.3) else made


def _broadcasts(shape: Shape, wanted: Shape) -> bool:
    """Whether shapes are of one rank, and each axis is equal or 1 in one of them."""
    sizes = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(a == b or 1 in (a, b) for a, b in sizes)


def _fits(shape: Shape, wanted: Shape) -> bool:
    """Whether shapes are equal, or one is an image's channels alone."""
    if len(shape) != len(wanted):
        return False
    alone = all(size == 1 for size in shape[:-1]) and shape[-1] == wanted[-1]
    return shape == wanted or alone


def conv_like(maker: Maker, tensor: int) -> int:
    """A convolution, or dense layer, that keeps the shape."""
    shape = maker.shapes[tensor]
    kept: dict[str, Any] = {**maker.kernel(shape[-1]), **maker.bias()}
    kept.update(maker.activation(len(shape)))
    changes = maker.weight_changes(kept)
    if len(shape) == 1:
        return maker.call("Dense", tensor, changes=changes, units=shape[-1], **kept)
    kind = f"Conv{len(shape) - 1}D"
    fixed = {"filters": shape[-1], "kernel_size": maker.pick(1, 3), "padding": "same"}
    return maker.call(kind, tensor, changes=changes, **fixed, **kept)


def gate(maker: Maker, tensor: int) -> int:
    """Squeeze and excite."""
    shape = maker.shapes[tensor]
    rank = len(shape) - 1
    means = maker.call(f"GlobalAveragePooling{rank}D", tensor, keepdims=True)
    few = {"filters": maker.whole(1, 4), "kernel_size": 1, "activation": "relu"}
    few.update(maker.kernel(shape[-1]), **maker.bias())
    small = maker.call(f"Conv{rank}D", means, changes=maker.weight_changes(few), **few)
    all_of = {"filters": shape[-1], "kernel_size": 1, **maker.kernel(few["filters"])}
    all_of["activation"] = maker.pick("sigmoid", "hard_sigmoid")
    return maker.call("Multiply", tensor, maker.call(f"Conv{rank}D", small, **all_of))


def concatenate(maker: Maker, tensor: int) -> int:
    """A Concatenate of two or three."""
    shape = maker.shapes[tensor]
    axis = maker.pick(*([-1] * 4), *range(1, len(shape) + 1))
    place = len(shape) - 1 if axis == -1 else axis - 1
    others = [t for t, s in maker.shapes.items() if _but(s, place) == _but(shape, place)]
    reads = [tensor, maker.pick(*others)]
    if maker.chance(0.6):
        reads[1] = activation(maker, tensor) if maker.chance(0.5) else conv_like(maker, tensor)
    if maker.chance(0.2):
        reads.append(maker.pick(*others))
    maker.rng.shuffle(reads)
    return maker.call("Concatenate", *map(int, reads), axis=axis)


def _but(shape: Shape, place: int) -> tuple[int, Shape]:
    """A shape without one axis."""
    return len(shape), (*shape[:place], *shape[place + 1 :])


def pool(maker: Maker, tensor: int) -> int:
    """A pooling of any kind."""
    rank = len(maker.shapes[tensor]) - 1
    kind = maker.pick("Max", "Average")
    if maker.chance(0.15):
        keeps: dict[str, Any] = {"keepdims": True} if maker.chance(0.7) else {}
        return maker.call(f"Global{kind}Pooling{rank}D", tensor, **keeps)
    size = maker.pick(2, 2, 3, 3, 4) if maker.chance(0.7) else [maker.whole(1, 3)] * rank
    arguments: dict[str, Any] = {"pool_size": size, "padding": maker.pick("same", "valid")}
    if maker.chance(0.6):
        arguments["strides"] = maker.pick(1, 2, 3)
    return maker.call(f"{kind}Pooling{rank}D", tensor, **arguments)


def resize(maker: Maker, tensor: int) -> int:
    """Upsampling, padding or cropping."""
    rank = len(maker.shapes[tensor]) - 1
    kind = maker.pick("UpSampling", "ZeroPadding", "Cropping")
    if kind == "UpSampling":
        if rank == 1:
            return maker.call("UpSampling1D", tensor, size=2)
        size = maker.pick(2, 2, 3, [1, 2]) if maker.chance(0.5) else 2
        how = maker.pick("nearest", "bilinear", "bilinear")
        return maker.call("UpSampling2D", tensor, size=size, interpolation=how)
    sides = [[maker.whole(0, 2), maker.whole(0, 2)] for _ in range(rank)]
    argument = "padding" if kind == "ZeroPadding" else "cropping"
    by: dict[str, Any] = {argument: sides if rank > 1 else sides[0]}
    return maker.call(f"{kind}{rank}D", tensor, **by)


def reshape(maker: Maker, tensor: int) -> int:
    """Flatten, Reshape or Permute."""
    shape = maker.shapes[tensor]
    kind = maker.pick("Flatten", "Reshape", "Reshape", "Permute")
    if kind == "Flatten":
        return maker.call("Flatten", tensor)
    if kind == "Permute":
        axes = [int(axis) for axis in maker.rng.permutation(len(shape)) + 1]
        return maker.call("Permute", tensor, dims=axes)
    total = int(np.prod(shape))
    sizes = [n for n in (1, 2, 3, 4, 6, 8) if total % n == 0]
    first = maker.pick(*sizes)
    seconds = [n for n in sizes if total // first % n == 0]
    second = maker.pick(*seconds)
    rest = total // first // second
    wanted = maker.pick([first, second, rest], [total // first, first], [1, 1, total], [total])
    return maker.call("Reshape", tensor, target_shape=wanted)


def scale(maker: Maker, tensor: int) -> int:
    """Rescaling, Normalization, or a BatchNorm alone."""
    channels = maker.shapes[tensor][-1]
    kind = maker.pick("Rescaling", "Normalization", "BatchNormalization")
    if kind == "BatchNormalization":
        return norm(maker, tensor)
    if kind == "Rescaling" or maker.is_own:  # Keras cannot run a Normalization built in a call
        factor, shift = maker.pick((1 / 255, 0.0), (1 / 127.5, -1.0), (2.0, 0.5), (-1.0, 0.0))
        return maker.call("Rescaling", tensor, scale=round(factor, 6), offset=shift)
    mean = [round(float(value), 3) for value in maker.rng.normal(0, 1, channels)]
    variance = [round(float(value), 3) for value in maker.rng.uniform(0.2, 3, channels)]
    return maker.call("Normalization", tensor, mean=mean, variance=variance)


def nothing(maker: Maker, tensor: int) -> int:
    """A layer that acts in training only."""
    kinds: dict[str, dict[str, Any]] = {
        "Dropout": {"rate": 0.2},
        "GaussianNoise": {"stddev": 0.1},
        "GaussianDropout": {"rate": 0.1},
        "ActivityRegularization": {"l2": 1e-4},
        "Identity": {},
    }
    rank = len(maker.shapes[tensor]) - 1
    if rank in (1, 2):
        kinds[f"SpatialDropout{rank}D"] = {"rate": 0.1}
    kind = maker.pick(*kinds)
    return maker.call(kind, tensor, **kinds[kind])


def shared(maker: Maker, tensor: int) -> int:
    """A layer that is called twice."""
    rank = len(maker.shapes[tensor]) - 1
    kind = maker.pick("conv", "conv", "relu", "softmax", "norm", "pool", "activation")
    first = tensor
    if kind == "conv":
        first = conv_like(maker, tensor)
    elif kind == "norm":
        first = norm(maker, tensor)
    elif kind == "pool" and rank > 0:
        first = maker.call(f"MaxPooling{rank}D", tensor, pool_size=2, strides=1)
    elif kind == "activation":
        first = maker.call("Activation", tensor, activation=maker.pick(*_STRINGS))
    else:
        first = maker.call("Softmax" if kind == "softmax" else "ReLU", tensor)
    between = conv_like(maker, first) if maker.chance(0.5) else first
    if maker.chance(0.3):
        between = tensor if between == first else between
    second = maker.again(first, between)
    if maker.chance(0.3) and maker.shapes[first] == maker.shapes[second]:
        return maker.call("Add", first, second)
    return second


def nested(maker: Maker, tensor: int) -> int:
    """A model within the model, of one input or of two, then called by name."""
    shape = maker.shapes[tensor]
    inner = maker.inner()
    reads = [tensor]
    first = inner.add_input(shape)
    if maker.chance(0.3):
        reads.append(conv_like(maker, tensor))
        inner = maker.inner()
        first, second = inner.add_input(shape), inner.add_input(shape)
        inner.call("Subtract", first, second)
    else:
        conv_like(inner, first)
    for _ in range(maker.whole(0, 3)):
        inner.step()
    outputs = (inner.calls[-1].writes,)
    spec = Spec(inputs=tuple(inner.inputs), calls=tuple(inner.calls), outputs=outputs)
    maker.count = inner.count
    made = maker.call("Model", *reads, spec=as_lists(spec.pruned(keep_inputs=True)))
    return maker.again(made, made) if maker.chance(0.15) else made


_Rule = Callable[[Maker, int], int]
_EVERYWHERE: dict[_Rule, float] = {
    activation: 14,
    layers.attention: 4,
    layers.called_twice: 4,
    layers.dot: 3,
    layers.einsum_dense: 4,
    layers.example: 18,
    layers.island: 4,
    layers.operation: 9,
    layers.own: 6,
    layers.recurrent: 3,
    layers.row_norm: 8,
    concatenate: 8,
    dense: 4,
    nested: 4,
    nothing: 7,
    number: 4,
    pair: 12,
    reshape: 4,
    scale: 7,
    shared: 6,
}
_WINDOWS: dict[_Rule, float] = {
    conv: 28,
    depthwise: 9,
    gate: 5,
    hard_sigmoid: 2,
    pool: 11,
    resize: 9,
    separable: 4,
    transposed: 4,
}
_RULES: dict[int, dict[_Rule, float]] = {
    1: {**_EVERYWHERE, dense: 45, reshape: 6, scale: 1, number: 1},
    2: {**_EVERYWHERE, **_WINDOWS},
    3: {**_EVERYWHERE, **_WINDOWS},
}


def is_extreme(case: Case) -> bool:
    """Whether weights or data are out of the ordinary."""
    plain = str(to_json(case))
    odd = any(each.data not in ("normal", "pixels", "positive") for each in case.spec.inputs)
    return odd or "'changes': ((" in plain or "'changes': [[" in plain
