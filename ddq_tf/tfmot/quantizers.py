"""DDQ inside TFMOT: quantizers with learned ranges for `quantize_apply`, on tf_keras.

    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = ddq_tf.tfmot.DDQQuantizeScheme(num_bits=4, bits={"logits": 8})
    quantized = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    quantized.compile(...); quantized.fit(...)
    float_model, ranges = ddq_tf.tfmot.from_tfmot(quantized)

The mathematics is that of `ddq_tf.quantizers`: uniform levels, ranges that learn by gradient. Bits
are given, not learned: TFMOT's `fit` has no budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from ddq_tf.errors import DDQError
from ddq_tf.quantizers.fake_quant import fake_quantize
from ddq_tf.quantizers.grid import signed_qmax, unsigned_qmax
from ddq_tf.quantizers.ranges import learned_range, range_value
from ddq_tf.scheme import MAX_BITS
from ddq_tf.tfmot.packages import inner, tf_keras, tfmot

_keras2 = tf_keras()
_known = tfmot().quantization.keras
_schemes = inner("quantization.keras.default_8bit.default_8bit_quantize_scheme")
_registries = inner("quantization.keras.default_8bit.default_8bit_quantize_registry")
_layouts = inner("quantization.keras.default_8bit.default_8bit_quantize_layout_transform")
_configs = inner("quantization.keras.default_8bit.default_8bit_quantize_configs")

_SHARES = np.linspace(0.2, 1.0, 33).astype(np.float32)  # of the largest magnitude, tried as range
_SAMPLE = 4096
_LEAST = 1e-6

Variables = dict[str, Any]


def _check_bits(**bits: Any) -> None:
    for name, value in bits.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= MAX_BITS:
            raise DDQError(f"{name} must be 2 to {MAX_BITS}. Received: {name}={value!r}")


def _best_range(values: Any, qmin: Any, qmax: Any, axes: list[int]) -> Any:
    """The range of least squared error among shares of the largest magnitude.

    Args:
        values: float32.
        qmin: of the grid, float32.
        qmax: likewise.
        axes: over which values share a range.

    Returns:
        alpha: float32 > 0, with the axes as 1.
    """
    largest = tf.maximum(tf.reduce_max(tf.abs(values), axes, keepdims=True), _LEAST)
    tried = tf.reshape(_SHARES, [-1] + [1] * len(values.shape)) * largest[None]
    scales = tried / qmax
    rounded = tf.clip_by_value(tf.round(values[None] / scales), qmin, qmax) * scales
    shared = [axis + 1 for axis in axes]
    errors = tf.reduce_sum(tf.square(rounded - values[None]), shared, keepdims=True)
    return tf.gather(_SHARES, tf.argmin(errors, axis=0)) * largest


def _best_of(sample: Any, qmin: Any, qmax: Any) -> Any:
    """The range of least squared error of a sample; a scalar."""
    return tf.reshape(_best_range(sample, qmin, qmax, [0]), ())


class DDQWeightQuantizer(_known.quantizers.Quantizer):
    r"""Fake-quantizes a kernel on uniform levels, with a range that learns by gradient.

        w_q = s * clip(round(w / s), -n, n),   s = alpha / n,   n = 2^(num_bits-1) - 1,
        alpha = base * exp(2 tanh(log_range / 2))   (see `ddq_tf.quantizers.ranges`)

    `base` is the range of least squared error for the kernel that the first training step meets;
    until then it is computed anew in each call. DDQ's uniform case (section 3, reconstructed).

    Variables of the wrapper: `<kernel>_log_range`, trainable, and `<kernel>_base_range`; float32,
    of the shape of the output channels.

    Args:
        num_bits: 2 to 8.
        per_channel: whether each output channel has a range of its own.

    Raises:
        DDQError: if num_bits is something else.

    Example:
        >>> ddq_tf.tfmot.DDQWeightQuantizer(num_bits=4).get_config()
        {'num_bits': 4, 'per_channel': True}
    """

    def __init__(self, num_bits: int = 4, per_channel: bool = True) -> None:
        _check_bits(num_bits=num_bits)
        self.num_bits = num_bits
        self.per_channel = per_channel

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Variables:
        """Creates the variables for a kernel of this shape on its wrapper."""
        kept = _channel_axes(layer, name, len(tensor_shape)) if self.per_channel else ()
        shape = [int(size) if i in kept else 1 for i, size in enumerate(tensor_shape)]
        log_range, base_range = (
            layer.add_weight(
                f"{name}_{kind}_range", shape=shape, initializer="zeros", trainable=kind == "log"
            )
            for kind in ("log", "base")
        )
        return {"log_range": log_range, "base_range": base_range}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs: Any, training: bool, weights: Variables, **kwargs: Any) -> Any:
        """Returns the fake-quantized kernel; float32, its shape."""
        n = np.float32(signed_qmax(self.num_bits))
        shared = [i for i, size in enumerate(weights["base_range"].shape) if size == 1]
        kernel = tf.stop_gradient(inputs)
        base = _found(weights["base_range"], lambda: _best_range(kernel, -n, n, shared))
        if training:
            base = weights["base_range"].assign(base)
        speed = np.float32(min(1.0, (7 / n) ** 2))  # as `WeightQuantizer`
        alpha = learned_range(base, weights["log_range"], speed)
        return fake_quantize(
            tf.convert_to_tensor(inputs),
            alpha / n,
            tf.convert_to_tensor(-n),
            tf.convert_to_tensor(n),
        )

    def learned_alpha(self, weights: Variables) -> np.ndarray | None:
        """Returns alpha, or None before the first training step."""
        return _alpha(weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"num_bits": self.num_bits, "per_channel": self.per_channel}


class DDQActivationQuantizer(_known.quantizers.Quantizer):
    r"""Fake-quantizes activations on a uniform grid, with a range that learns by gradient.

        x_q = s * clip(round(x / s), qmin, qmax),   s = alpha / qmax

    on codes {0..2^b-1} where the first training batch has nothing below 0, else {-n..n},
    n = 2^(b-1)-1; at 8 bits {-128..127}. `base` is the range of least squared error on a sample of
    that batch. Before it nothing is rounded.

    Variables of the wrapper: `<name>_log_range`, trainable, `<name>_base_range` and `<name>_least`,
    the least value of the first batch; float32 scalars.

    Args:
        num_bits: 2 to 8.

    Raises:
        DDQError: if num_bits is something else.
    """

    def __init__(self, num_bits: int = MAX_BITS) -> None:
        _check_bits(num_bits=num_bits)
        self.num_bits = num_bits

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Variables:
        """Creates the variables on the wrapper."""
        kinds = ("log_range", "base_range", "least")
        return {
            kind: layer.add_weight(
                f"{name}_{kind}", shape=(), initializer="zeros", trainable=kind == "log_range"
            )
            for kind in kinds
        }

    @tf.autograph.experimental.do_not_convert
    def __call__(self, inputs: Any, training: bool, weights: Variables, **kwargs: Any) -> Any:
        """Returns the fake-quantized activations; float32, the same shape."""
        least, base = weights["least"], weights["base_range"]
        if training:
            seen = tf.minimum(tf.reduce_min(tf.stop_gradient(inputs)), 0.0)
            least = least.assign(tf.where(tf.equal(base, 0), seen, least))
        qmin, qmax = self._limits(tf.convert_to_tensor(least))
        if training:
            base = base.assign(_found(base, lambda: _best_of(_sample(inputs), qmin, qmax)))
        learned = tf.greater(base, 0)
        alpha = learned_range(tf.where(learned, base, 1.0), weights["log_range"])
        return tf.where(learned, fake_quantize(inputs, alpha / qmax, qmin, qmax), inputs)

    def _limits(self, least: Any) -> tuple[Any, Any]:
        """The smallest and the largest code."""
        n = signed_qmax(self.num_bits)
        signed = tf.less(least, 0)
        low = np.float32(-n - (self.num_bits == MAX_BITS))
        high = np.float32(unsigned_qmax(self.num_bits))
        return tf.where(signed, low, np.float32(0)), tf.where(signed, np.float32(n), high)

    def learned_limits(self, weights: Variables) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns (min, max) of the grid's symmetric range, or None before the first batch."""
        alpha = _alpha(weights)
        if alpha is None:
            return None
        return (-alpha if weights["least"].numpy() < 0 else np.zeros_like(alpha)), alpha

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"num_bits": self.num_bits}


def _channel_axes(wrapper: Any, name: str, rank: int) -> tuple[int, ...]:
    """Which axes of a kernel tell its output channels."""
    layer = getattr(wrapper, "layer", wrapper)
    if isinstance(layer, _keras2.layers.Conv2DTranspose):
        return (rank - 2,)
    return (rank - 2, rank - 1) if name.startswith("depthwise") else (rank - 1,)


def _found(variable: Any, best: Callable[[], Any]) -> Any:
    """A base range, or the best one where there is none yet."""
    fresh = tf.reduce_all(tf.equal(variable, 0))
    return tf.cond(fresh, best, lambda: tf.convert_to_tensor(variable))


def _sample(values: Any) -> Any:
    """Some values of a batch, spread evenly; shape (count,)."""
    flat = tf.reshape(tf.stop_gradient(values), (-1,))
    return tf.ensure_shape(flat[:: tf.maximum(tf.size(flat) // _SAMPLE, 1)], (None,))


def _alpha(weights: Variables) -> np.ndarray | None:
    base = weights["base_range"].numpy()
    if not base.any():
        return None
    return np.asarray(range_value(tf.constant(base), weights["log_range"].numpy()))


class DDQQuantizeConfig(_known.QuantizeConfig):
    """Quantizes what TFMOT's default scheme does of a layer, by DDQ's quantizers.

    For single layers, as `quantize_annotate_layer(layer, DDQQuantizeConfig(num_bits=4))`; then
    call `quantize_apply` inside `ddq_tf.tfmot.quantize_scope()`. TFMOT leaves such a layer alone:
    it quantizes between a convolution and the BatchNorm behind it. For networks with BatchNorms
    use `DDQQuantizeScheme`.

    Args:
        num_bits: of the kernel, 2 to 8.
        activation_bits: of what the layer writes, 2 to 8.
        per_channel: see `DDQWeightQuantizer`.
        only_output: whether only the output is quantized, as of a BatchNorm.

    Raises:
        DDQError: if bits are something else; if TFMOT does not know a layer's type.
    """

    def __init__(
        self,
        num_bits: int = 4,
        activation_bits: int = MAX_BITS,
        per_channel: bool = True,
        only_output: bool = False,
    ) -> None:
        _check_bits(num_bits=num_bits, activation_bits=activation_bits)
        self._options = {
            "num_bits": num_bits,
            "activation_bits": activation_bits,
            "per_channel": per_channel,
            "only_output": only_output,
        }
        self._only_output = only_output
        self.weight_quantizer = DDQWeightQuantizer(num_bits, per_channel)
        self.activation_quantizer = DDQActivationQuantizer(activation_bits)

    def _default(self, layer: Any) -> Any:
        """What TFMOT does of a layer."""
        if self._only_output:
            return _configs.NoOpQuantizeConfig()
        registry = _registries.Default8BitQuantizeRegistry()
        if not registry.supports(layer):
            raise DDQError(
                f"layer {layer.name!r} ({type(layer).__name__}): TFMOT's scheme does not know it; "
                "do not annotate it, or give a QuantizeConfig of your own"
            )
        return registry.get_quantize_config(layer)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Returns the kernels, each with the quantizer."""
        found = self._default(layer).get_weights_and_quantizers(layer)
        return [(kernel, self.weight_quantizer) for kernel, _ in found]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Returns the layer's own activation with the quantizer."""
        found = self._default(layer).get_activations_and_quantizers(layer)
        return [(activation, self.activation_quantizer) for activation, _ in found]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Lets the layer compute with quantized kernels."""
        self._default(layer).set_quantize_weights(layer, quantize_weights)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Lets the layer's activation quantize."""
        self._default(layer).set_quantize_activations(layer, quantize_activations)

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """Returns the quantizer if the layer's output needs one."""
        needed = self._only_output or self._default(layer).get_output_quantizers(layer)
        return [self.activation_quantizer] if needed else []

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return dict(self._options)


class _Layout(_layouts.Default8BitQuantizeLayoutTransform):
    """TFMOT's layout, with DDQ's quantizers behind what it fuses."""

    def __init__(self, scheme: DDQQuantizeScheme) -> None:
        self._scheme = scheme

    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Returns the transformed model and each layer's QuantizeConfig."""
        model, found = super().apply(model, layer_quantize_map)
        for name, entry in found.items():
            config = entry.get("quantize_config")
            if isinstance(config, _configs.Default8BitOutputQuantizeConfig):
                entry["quantize_config"] = self._scheme.config_of(name, only_output=True)
        return model, found


class _Registry(_registries.Default8BitQuantizeRegistry):
    """TFMOT's registry, whose answers are DDQ's."""

    def __init__(self, scheme: DDQQuantizeScheme) -> None:
        super().__init__()
        self._scheme = scheme

    def get_quantize_config(self, layer: Any) -> DDQQuantizeConfig:
        """Returns a layer's QuantizeConfig."""
        return self._scheme.config_of(layer.name)


class DDQQuantizeScheme(_schemes.Default8BitQuantizeScheme):
    """A scheme for `quantize_apply(model, scheme)`: TFMOT's layout, DDQ's quantizers.

    Args:
        num_bits: of kernels, 2 to 8.
        activation_bits: of activations.
        per_channel: see `DDQWeightQuantizer`.
        bits: of some kernels, by the names of their layers.

    Raises:
        DDQError: if bits are something else.
    """

    def __init__(
        self,
        num_bits: int = 4,
        activation_bits: int = MAX_BITS,
        per_channel: bool = True,
        bits: Mapping[str, int] | None = None,
    ) -> None:
        self.bits = dict(bits or {})
        _check_bits(num_bits=num_bits, activation_bits=activation_bits, **self.bits)
        self._num_bits = num_bits
        self._activation_bits = activation_bits
        self._per_channel = per_channel

    def config_of(self, name: str, *, only_output: bool = False) -> DDQQuantizeConfig:
        """Returns the QuantizeConfig of the layer of a name."""
        return DDQQuantizeConfig(
            self.bits.get(name, self._num_bits),
            self._activation_bits,
            self._per_channel,
            only_output,
        )

    def get_layout_transformer(self) -> _Layout:
        """Returns what fuses BatchNorms and ReLUs."""
        return _Layout(self)

    def get_quantize_registry(self) -> _Registry:
        """Returns what knows each layer's QuantizeConfig."""
        return _Registry(self)


CLASSES = (DDQWeightQuantizer, DDQActivationQuantizer, DDQQuantizeConfig)
