"""What the wrappers of TFMOT have learned."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddq_tf.errors import raise_all
from ddq_tf.scheme import MAX_BITS
from ddq_tf.tfmot.packages import tfmot
from ddq_tf.transform import KernelRange, Ranges

_FRESH = ((-6.0, 6.0), (0.0, 0.0))  # ranges that TFMOT's quantizers start from
_OWN = "tensorflow_model_optimization"


class Learned:
    """Collects ranges and precisions, wrapper by wrapper."""

    def __init__(self) -> None:
        self._outputs: dict[str, tuple[float, float]] = {}
        self._sums: dict[str, tuple[float, float]] = {}
        self._kernels: dict[str, KernelRange] = {}
        self._bits: dict[str, int] = {}
        self._fresh: list[str] = []
        self._float: list[str] = []
        self._notes: list[str] = []
        self._problems: list[str] = []

    def input(self, layer: Any, name: str) -> None:
        """Notes what a QuantizeLayer learned of the model's input of that name."""
        if layer.quantizer is not None:
            self._note(self._outputs, name, layer.quantizer, layer.quantizer_vars)

    def without_wrapper(self, name: str) -> None:
        """Notes a layer with weights that has no wrapper."""
        self._float.append(name)

    def wrapper(self, wrapper: Any, name: str) -> None:
        """Notes what a wrapper learned of the kernel and outputs of the layer of that name."""
        config = wrapper.quantize_config
        for _, quantizer, variables in wrapper._weight_vars:
            self._kernel(name, quantizer, variables)
        for activation in wrapper._quantize_activations:
            for kind, ranges in (("pre", self._sums), ("post", self._outputs)):
                variables = getattr(activation, f"_{kind}_activation_vars", None)
                if variables is not None:
                    self._note(ranges, name, activation.quantizer, variables)
        for quantizer in wrapper._output_quantizers:
            self._note(self._outputs, name, quantizer, wrapper._output_quantizer_vars)
        kind = type(config)
        if not kind.__module__.startswith((_OWN, __package__ or "")) and wrapper._weight_vars:
            self._bits[name] = MAX_BITS
            self._notes.append(
                f"layer {name!r}: {kind.__name__} is a QuantizeConfig of your own; the kernel "
                f"keeps {MAX_BITS} bits"
            )

    def _kernel(self, name: str, quantizer: Any, variables: Any) -> None:
        if hasattr(quantizer, "learned_alpha"):
            alpha, bits = quantizer.learned_alpha(variables), quantizer.num_bits
            self._bits[name] = bits
        else:
            bits = MAX_BITS
            pair = self._pair(name, quantizer, variables)
            alpha = None if pair is None else np.maximum(-pair[0], pair[1])
        if alpha is not None and (alpha > 0).all():
            self._kernels[name] = KernelRange(alpha=tuple(alpha.ravel()), num_bits=bits)

    def _note(
        self, ranges: dict[str, tuple[float, float]], name: str, quantizer: Any, variables: Any
    ) -> None:
        pair = self._pair(name, quantizer, variables)
        if pair is not None:
            ranges[name] = float(pair[0].min()), float(pair[1].max())

    def _pair(
        self, name: str, quantizer: Any, variables: Any
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """(min, max) of a quantizer; None where it was never learned, or is not known."""
        if hasattr(quantizer, "learned_limits"):
            pair = quantizer.learned_limits(variables)
            if pair is None:
                self._fresh.append(name)
            return pair
        known = tfmot().quantization.keras.quantizers
        if isinstance(quantizer, known.FixedQuantizer):
            return np.array(quantizer.init_min), np.array(quantizer.init_max)
        if not {"min_var", "max_var"} <= set(variables or ()):
            self._problems.append(
                f"layer {name!r}: {type(quantizer).__name__}, whose variables "
                f"{sorted(variables or ())} tell no (min, max)"
            )
            return None
        low, high = variables["min_var"].numpy(), variables["max_var"].numpy()
        if any((low == a).all() and (high == b).all() for a, b in _FRESH):
            self._fresh.append(name)
            return None
        return low, high

    def check(self) -> None:
        """Raises one error for all quantizers that are not known."""
        raise_all(
            "quantizers must have variables min_var and max_var, as TFMOT's have:", self._problems
        )

    def ranges(self, clustered: tuple[str, ...]) -> Ranges:
        """Returns all that was noted, with the names of clustered layers."""
        notes = list(self._notes)
        if self._fresh:
            names = ", ".join(map(repr, dict.fromkeys(self._fresh)))
            notes.append(f"ranges that were never learned, so that they need data: of {names}")
        if self._float and (self._kernels or self._outputs):
            names = ", ".join(map(repr, self._float))
            notes.append(
                f"without a quantizer in TFMOT, and quantized here unless Rule(..., in_float=True) "
                f"says otherwise: {names}"
            )
        return Ranges(
            outputs=self._outputs,
            sums=self._sums,
            kernels=self._kernels,
            bits=self._bits,
            clustered=clustered,
            notes=tuple(notes),
        )
