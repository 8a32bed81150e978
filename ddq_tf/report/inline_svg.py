"""Matplotlib figures as SVG inside an HTML page.

What matplotlib writes becomes small and part of the page:

- A colour of `palette.LIGHT` becomes the CSS variable of its role, and so follows dark mode.
- Text stays text, in the page's font.
- An artist whose gid `tooltip` made has that text as its tooltip.
- Clip paths, ids and groups without meaning are left out: nothing in it refers to anything.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from ddq_tf.report import palette
from ddq_tf.report.drawing import any_glyph
from ddq_tf.report.wording import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOOLTIP = "tooltip:"
_ROLES = {colour: f"var(--{role})" for role, colour in palette.LIGHT.items()}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_KEPT = {"fill", "stroke", "stroke-width", "stroke-dasharray"}
_KEPT |= {"opacity", "fill-opacity", "stroke-opacity"}
_Element = ElementTree.Element


def tooltip(words: str) -> str:
    """Returns the gid that gives an artist a tooltip."""
    return _TOOLTIP + clean(words)


def inline_svg(figure: Figure, name: str, *, is_wide: bool = False) -> Markup:
    """Returns a figure as an <svg> element.

    Args:
        figure: drawn at 72 dpi, so that its points are the pixels of the page.
        name: for screen readers; "" hides the figure from them.
        is_wide: whether it scrolls in its box instead of shrinking with the page.
    """
    root = ElementTree.fromstring(_drawn(figure))
    width, height = (round(inches * 72) for inches in figure.get_size_inches())
    svg = _Element("svg", {"viewBox": f"0 0 {width} {height}"})
    svg.set("class", "chart wide" if is_wide else "chart")
    svg.set("style", f"--natural:{width}px")
    if name:
        svg.set("role", "img")
        ElementTree.SubElement(svg, "title").text = clean(name)
    else:
        svg.set("aria-hidden", "true")
    shared = {f"#{node.get('id')}": node for node in root.iter(f"{_SVG}path") if node.get("id")}
    svg.extend(part for node in root for part in _slim(node, shared))
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _drawn(figure: Figure) -> str:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), any_glyph():
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="none")
    return file.getvalue()


def _slim(node: _Element, shared: dict[str, _Element]) -> Iterator[_Element]:
    """Yields what is visible of a node, without the groups around it."""
    tag = node.tag.removeprefix(_SVG)
    if tag == "g":
        parts = [part for child in node for part in _slim(child, shared)]
        group = node.get("id", "")
        if parts and group.startswith(_TOOLTIP):
            parts = [_titled(parts, group.removeprefix(_TOOLTIP))]
        yield from parts
    elif tag == "text":
        yield _text(node)
    elif tag == "path":
        yield from _path(node, node.get("d", ""))
    elif tag == "use":
        x, y = _short(f"{node.get('x')} {node.get('y')}").split()
        marker = shared[node.get(_LINK, "")].get("d", "")
        for path in _path(node, marker):
            path.set("transform", f"translate({x} {y})")
            yield path


def _titled(parts: list[_Element], words: str) -> _Element:
    outer = parts[0] if len(parts) == 1 else _Element("g")
    if len(parts) > 1:
        outer.extend(parts)
    title = _Element("title")
    title.text = words
    outer.insert(0, title)
    return outer


def _path(node: _Element, data: str) -> Iterator[_Element]:
    style = _style(node)
    if data and (style.get("fill") != "none" or "stroke" in style):
        short = re.sub(r"\s*([MLQCz])\s*", r"\1", _short(data)).strip()
        upright = re.sub(r"M(\S+) (\S+)L\1 ", r"M\1 \2V", short)
        yield _Element("path", {"d": upright, "style": _joined(style)})


def _text(node: _Element) -> _Element:
    words = node.get("style", "")
    text = _Element("text")
    # Attributes, which the page's style sheet overrides on small screens.
    size = re.search(r"([\d.]+)px", words)
    text.set("font-size", size[1] if size else "11")
    if re.search(r"\b(bold|[67]00)\b", words):
        text.set("font-weight", "600")
    if anchor := re.search(r"text-anchor: (middle|end)", words):
        text.set("text-anchor", anchor[1])
    text.set("style", _joined(_style(node)))
    for name in ("x", "y"):
        text.set(name, _short(node.get(name, "0")))
    turn = _short(node.get("transform", ""))
    if turn and not re.match(r"rotate\(-?0 ", turn):
        text.set("transform", turn)
    text.text = node.text
    return text


def _style(node: _Element) -> dict[str, str]:
    rules = (rule.partition(":") for rule in node.get("style", "").split(";"))
    found = {name.strip(): value.strip() for name, _, value in rules}
    return {
        name: _ROLES.get(value, _short(value)) for name, value in found.items() if name in _KEPT
    }


def _joined(style: dict[str, str]) -> str:
    return ";".join(f"{name}:{value}" for name, value in style.items())


def _short(text: str) -> str:
    """Returns text with its numbers rounded to tenths of a pixel, or to two digits below 1."""
    return re.sub(r"-?\d*\.\d+", _rounded, text)


def _rounded(found: re.Match[str]) -> str:
    value = float(found[0])
    return f"{round(value, 1 if abs(value) >= 1 else 2):g}" if value else "0"
