"""The colours of reports, by role: for the page's CSS variables and for its figures."""

from __future__ import annotations

from ddq_tf.report import wording
from ddq_tf.report.data import ModelVariant
from ddq_tf.scheme import MAX_BITS

_LIGHT = {
    "page": "#f4f5f8",
    "surface": "#ffffff",
    "ink": "#1a2230",
    "muted": "#5a6474",
    "rule": "#e1e5eb",
    "grid": "#e6e9ee",
    "track": "#f0f2f5",
    "accent": "#2f5fd0",
    "good": "#14795a",
    "warn": "#9a5b00",
    "pointwise": "#3b72e0",
    "depthwise": "#dd8613",
    "convolution": "#1a9a78",
    "dense": "#a94fb0",
    "other": "#76818f",
    "float": "#8d97a5",
    "stock": "#c08a2d",
    "on": "#fffffe",  # what is written on bars
}
_DARK = {
    "page": "#10141b",
    "surface": "#181e27",
    "ink": "#e6eaf0",
    "muted": "#9ba6b5",
    "rule": "#2b3441",
    "grid": "#2a323e",
    "track": "#202833",
    "accent": "#7aa5ff",
    "good": "#58cfa6",
    "warn": "#f0b45c",
    "pointwise": "#6d9cf8",
    "depthwise": "#efa94e",
    "convolution": "#48c5a1",
    "dense": "#d58adb",
    "other": "#95a0af",
    "float": "#8f9aaa",
    "stock": "#d8a755",
    "on": "#10141b",
}
_SERIES = ("accent", "depthwise", "convolution", "dense")
_LEAST_SHADE, _LEAST_BITS = 0.22, 2


def _with_shades(colours: dict[str, str]) -> dict[str, str]:
    """Adds shade2, ..., shade7: from nearly the surface's colour to nearly the accent."""
    shades = {}
    for bits in range(_LEAST_BITS, MAX_BITS):
        share = _LEAST_SHADE + (1 - _LEAST_SHADE) * (bits - _LEAST_BITS) / (MAX_BITS - _LEAST_BITS)
        ends = zip(_channels(colours["accent"]), _channels(colours["surface"]), strict=True)
        mixed = (round(share * a + (1 - share) * b) for a, b in ends)
        shades[f"shade{bits}"] = "#" + "".join(f"{channel:02x}" for channel in mixed)
    return {**colours, **shades}


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


# Figures are drawn in light colours; no two roles share one, so that each can be found again.
LIGHT = _with_shades(_LIGHT)
DARK = _with_shades(_DARK)


def of_kind(kind: str) -> str:
    """Returns the role that colours a kind of layer."""
    return wording.kind_class(kind)


def of_variant(variant: ModelVariant) -> str:
    """Returns the role that colours a form of the model."""
    if variant.is_ddq:
        return "accent"
    return "float" if variant.label.startswith("float") else "stock"


def of_series(index: int) -> str:
    """Returns the role that colours a curve."""
    return _SERIES[index % len(_SERIES)]


def of_bits(bits: float) -> str:
    """Returns the role that shades a precision."""
    return "accent" if round(bits) >= MAX_BITS else f"shade{max(_LEAST_BITS, round(bits))}"
