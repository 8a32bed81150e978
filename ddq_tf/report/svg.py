"""Small SVG vocabulary: elements, scales, ticks and axes. Colours come from the style sheet."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import re
from collections.abc import Iterable, Sequence

# Characters that XML cannot hold, even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The average advance of one character, in units of the font size.
_CHARACTER_WIDTH = 0.56


def escape(text: object) -> str:
    """Returns text that is safe in element content and in attributes."""
    return html.escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def element(tag: str, *content: str, **attributes: object) -> str:
    """Returns `<tag ...>content</tag>`.

    Args:
        tag: name of the element.
        *content: markup; text must be escaped already.
        **attributes: `class_` reads as class, other underscores as hyphens; floats are rounded
            and None is left out.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is not None:
            shown = _coordinate(value) if isinstance(value, float) else escape(value)
            parts.append(f'{name.rstrip("_").replace("_", "-")}="{shown}"')
    opening = " ".join(parts)
    return f"<{opening}>{''.join(content)}</{tag}>" if content else f"<{opening}/>"


def label(x: float, y: float, text: str, **attributes: object) -> str:
    """Returns a text element."""
    return element("text", escape(text), x=float(x), y=float(y), **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Returns a straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def rect(x: float, y: float, width: float, height: float, *content: str, **more: object) -> str:
    """Returns a rectangle; negative sizes read as 0."""
    size = {"width": float(max(0, width)), "height": float(max(0, height))}
    return element("rect", *content, x=float(x), y=float(y), **size, **more)


def title(text: str) -> str:
    """Returns the element that browsers show as a tooltip and screen readers read."""
    return element("title", escape(text))


def path(points: Iterable[tuple[str, float, float]], class_: str) -> str:
    """Returns a path of (command, x, y)."""
    data = "".join(f"{cmd}{_coordinate(x)} {_coordinate(y)}" for cmd, x, y in points)
    return element("path", d=data, class_=class_)


def picture(width: float, height: float, name: str, *content: str, class_: str = "chart") -> str:
    """Returns a whole SVG with a name for screen readers.

    It fills its column, and stays between sizes at which its text is legible.
    """
    return element(
        "svg",
        title(name),
        *content,
        viewBox=f"0 0 {_coordinate(width)} {_coordinate(height)}",
        role="img",
        class_=class_,
        style=f"--natural:{_coordinate(width)}px",
    )


def text_width(text: str, font_size: float) -> float:
    """Returns about how wide a text is."""
    return len(text) * font_size * _CHARACTER_WIDTH


def shorten(text: str, max_characters: int) -> str:
    """Returns the text with its middle left out if it is too long."""
    if len(text) <= max_characters:
        return text
    head = (max_characters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (max_characters - 1 - head) :]}"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Maps [low, high] to the pixels [start, stop], linearly or by logarithm."""

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Returns the pixel of `value`."""
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.stop - self.start)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns round values, about `count` of them, that enclose [low, high]."""
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, low + (abs(low) or 1) / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns values 1, 2, 5, 10, ... that enclose [low, high]; both must be positive."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    values = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
    first = max(value for value in values if value <= low * (1 + 1e-9))
    last = min(value for value in values if value >= high * (1 - 1e-9) and value > first)
    return [value for value in values if first <= value <= last]


def epoch_ticks(num_epochs: int, count: int = 6) -> list[int]:
    """Returns whole epochs from 1 on, at most about `count` of them."""
    step = next(
        base * 10**power
        for power in range(9)
        for base in (1, 2, 5)
        if num_epochs <= base * 10**power * count
    )
    return sorted({1, *range(step, num_epochs + 1, step)} - ({2} if step == 2 else set()))


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Returns a tick value with the decimals that its neighbours need."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1)
    if step < 1e-4 or max(abs(tick) for tick in ticks) >= 1e5:
        return f"{value:.3g}"
    digits = 0
    while abs(round(step, digits) - step) > 1e-9 * step:
        digits += 1
    return f"{value + 0.0:,.{digits}f}"


def y_axis(
    scale: Scale, ticks: Sequence[float], left: float, right: float, suffix: str = ""
) -> str:
    """Returns grid lines with their values to the left."""
    return "".join(
        line(left, scale(tick), right, scale(tick), "grid")
        + label(
            left - 6,
            scale(tick) + 3.5,
            tick_text(tick, ticks) + suffix,
            class_="tick",
            text_anchor="end",
        )
        for tick in ticks
    )


def _coordinate(value: object) -> str:
    text = f"{float(str(value)):.1f}"
    return text[:-2] if text.endswith(".0") else text
