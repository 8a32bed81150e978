"""What all figures share: canvas, frame, names, and labels that stay clear of each other."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ddq_tf.report.palette import LIGHT
from ddq_tf.report.wording import clean, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

COLUMN = 400  # pixels: a little less than half of the page's width
TEXT = 11  # pixels
NAME = 12
_NUMBER = "{x:,.6g}"
_SHIFTS = (("center", 0), ("left", 0), ("right", 0))


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draws as here, whatever style the user has set."""
    import matplotlib.style

    with matplotlib.style.context("default"):
        yield


@contextlib.contextmanager
def any_glyph() -> Iterator[None]:
    """Lets text have characters that matplotlib's font lacks: it draws boxes, the page has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def canvas(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    """Returns an empty figure of a size in pixels, each 1/72 inch."""
    from matplotlib.figure import Figure

    # Not pyplot: its figures are global state, and not for threads.
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="white", layout=layout)


def arranged(width: float, height: float) -> Figure:
    """Returns an empty figure that finds the places of its axes, names and legend by itself."""
    figure = canvas(width, height, layout="constrained")
    figure.get_layout_engine().set(w_pad=6 / 72, h_pad=6 / 72)  # type: ignore[union-attr,call-arg]
    return figure


def panel(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Returns axes at a place in pixels from the figure's upper left corner."""
    width, height = figure.get_size_inches() * 72
    place = (left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height)
    axes = figure.add_axes(place)
    frame(axes)
    return axes


def frame(axes: Axes, grid: str = "y") -> None:
    """Gives axes the look of all: grid lines and numbers, no box, no tick marks."""
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(
        which="both", left=False, bottom=False, labelsize=TEXT, labelcolor=LIGHT["muted"]
    )
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=LIGHT["grid"], lw=1)  # type: ignore[arg-type]


def numbers(axes: Axes, suffix: str = "") -> None:
    """Gives the vertical axis about four round values."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(_NUMBER + suffix)


def epochs(axes: Axes, num_epochs: int) -> None:
    """Makes the horizontal axis one of epochs, from 1 on."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.5, num_epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    title(axes, "epoch")


def kibibytes(axes: Axes, sizes: Sequence[float]) -> None:
    """Makes the horizontal axis one of sizes in KiB, by logarithm."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(sizes) * 0.75, max(sizes) * 1.35)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_NUMBER)
    title(axes, "file size in KiB (log)")


def title(axes: Axes, x: str = "", y: str = "") -> None:
    """Names the axes."""
    look = {"fontsize": TEXT, "color": LIGHT["muted"]}
    axes.set_xlabel(x, **look)
    axes.set_ylabel(y, **look)


def name(axes: Axes, x: float, y: float, words: str, length: int = 60, **look: Any) -> Any:
    """Writes words that are no formula."""
    look = {"fontsize": NAME, "color": LIGHT["ink"], **look}
    return axes.text(x, y, words_of(words, length), parse_math=False, **look)


def dashed_line(axes: Axes, value: float, words: str = "") -> None:
    """Draws a dashed line at a height, and words on its right end."""
    axes.axhline(value, color=LIGHT["ink"], lw=1, ls=(0, (4, 4)), alpha=0.75)
    axes.annotate(
        words,
        (1, value),
        (0, 4),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        fontsize=TEXT,
        color=LIGHT["ink"],
    )


def words_of(text: str, length: int) -> str:
    """Returns text as figures show it."""
    return clean(shorten(text, length))


def strokes(
    axes: Axes,
    xs: Sequence[float],
    lows: float | np.ndarray,
    highs: float | np.ndarray,
    **look: Any,
) -> None:
    """Draws vertical lines as one path, which an SVG holds in few bytes."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = np.empty((2 * len(xs), 2))
    points[0::2, 0] = points[1::2, 0] = xs
    points[0::2, 1], points[1::2, 1] = lows, highs
    path = Path(points, [Path.MOVETO, Path.LINETO] * len(xs))
    path.should_simplify = False
    axes.add_patch(PathPatch(path, fill=False, capstyle="butt", **look))


def headline(figure: Figure, words: str) -> None:
    """Writes a title above all axes."""
    figure.suptitle(clean(words), fontsize=14, color=LIGHT["ink"], parse_math=False)


def legend(figure: Figure, entries: Iterable[tuple[str, str]]) -> None:
    """Explains colours below all axes: (role, words) each."""
    from matplotlib.patches import Patch

    entries = list(entries)
    drawn = figure.legend(
        handles=[Patch(color=LIGHT[role]) for role, _ in entries],
        labels=["-"] * len(entries),
        fontsize=TEXT,
        frameon=False,
        loc="outside lower center",
        ncols=5,
    )
    # Not as labels: matplotlib leaves out those that begin with "_".
    for text, (_, words) in zip(drawn.get_texts(), entries, strict=True):
        text.set(text=words_of(words, 60), parse_math=False, color=LIGHT["muted"])


def spread_names(axes: Axes, names: Sequence[str], places: np.ndarray, taken: list[Bbox]) -> None:
    """Writes a name beside each point where it hides nothing that is drawn already.

    Args:
        axes: whose limits are final.
        names: one for each point.
        places: of the points, in pixels, (points, 2).
        taken: what is drawn already, in pixels.
    """
    from matplotlib.transforms import Bbox

    taken = list(taken)
    # Small screens show larger text: it then grows away from its point.
    sides = [("left", 12, 0), ("right", -12, 0)]
    sides += [(side, dx, dy) for dy in (18, -18, 34, -34, 50, -50) for side, dx in _SHIFTS]
    for words, (x, y) in zip(names, places, strict=True):
        text = name(axes, 0, 0, words, 24, va="center", transform=None)
        found = []
        for side, dx, dy in sides:
            text.set(ha=side, position=(x + dx, y + dy))
            with any_glyph():
                box = Bbox.from_extents(*text.get_window_extent().extents)
            found.append((_hidden(box, axes.bbox, taken), len(found), box))
        _, best, box = min(found)
        taken.append(box)
        side, dx, dy = sides[best]
        text.set(ha=side, position=(x + dx, y + dy))


def _hidden(box: Bbox, area: Bbox, taken: Iterable[Bbox]) -> float:
    """Returns how many square pixels of a name lie outside or on something else."""
    from matplotlib.transforms import Bbox

    inside = Bbox.intersection(box, area)
    outside = box.width * box.height - (inside.width * inside.height if inside else 0)
    shared = (Bbox.intersection(box, other) for other in taken)
    return outside + sum(both.width * both.height for both in shared if both)


def finite(values: Iterable[float]) -> list[float]:
    """Returns the values with NaN in place of what is not finite."""
    return [value if math.isfinite(value) else math.nan for value in values]


def any_finite(values: Iterable[float]) -> bool:
    """Whether there is anything to draw."""
    return any(map(math.isfinite, values))
