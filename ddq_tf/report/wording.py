"""How numbers, names and kinds read, the same in text, in figures and in HTML."""

from __future__ import annotations

import math
import re

from ddq_tf.report.data import FLOAT_LABEL, STOCK_LABEL, Agreement, ModelVariant, Report

NONE = "-"
_SPARSE = 0.05  # a share of zeros that somebody meant
# Characters that XML cannot hold, even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Returns text that XML can hold: control characters are replaced."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(text: str, max_characters: int) -> str:
    """Returns the text with its middle left out if it is too long."""
    if len(text) <= max_characters:
        return text
    head = (max_characters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (max_characters - 1 - head) :]}"


def percent(share: float | None, digits: int = 2) -> str:
    """Returns a share as a percentage, never rounding an imperfect share up to 100."""
    if share is None or not math.isfinite(share):
        return NONE
    text = f"{share * 100:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def error(share: float) -> str:
    """Returns a quantization error with two digits, as in 6.4e-5."""
    if not math.isfinite(share):
        return NONE
    mantissa, exponent = f"{share:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}" if share else "0"


def size(size_bytes: int | None) -> str:
    """Returns bytes with the unit that suits them."""
    if size_bytes is None:
        return NONE
    if size_bytes < 1024:
        return f"{size_bytes} B"
    if size_bytes < 1024**2:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes / 1024**2:.2f} MiB"


def kib(size_bytes: int | None) -> str:
    """Returns bytes in KiB, without the unit."""
    return NONE if size_bytes is None else f"{size_bytes / 1024:,.1f}"


def number(value: float | None, digits: int = 2) -> str:
    """Returns a number with `digits` decimals."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def bits(value: float, digits: int = 3) -> str:
    """Returns a precision: whole where it is, as means over channels are not."""
    return f"{value:.{digits}g}"


def share_of(variant: ModelVariant, base: ModelVariant | None) -> str:
    """Returns the size of `variant` as a percentage of that of `base`."""
    if variant.size_bytes is None or base is None or not base.size_bytes:
        return NONE
    return percent(variant.size_bytes / base.size_bytes, 1)


def standard_error(variant: ModelVariant) -> float | None:
    """Returns one standard error of the accuracy, or None where it is unknown."""
    if variant.accuracy is None or not variant.num_samples or not 0 <= variant.accuracy <= 1:
        return None
    return math.sqrt(variant.accuracy * (1 - variant.accuracy) / variant.num_samples)


def zeros_sentence(report: Report) -> str:
    """Returns how many zeros a sparse network had and has; nothing of one that had few."""
    before, now = report.share_of_zeros("float_zeros"), report.share_of_zeros("zeros")
    if before < _SPARSE:
        return ""
    return f"{percent(before, 1)} of the float weights were 0, {percent(now, 1)} of the codes are"


def short_kind(kind: str) -> str:
    """Returns a kind in at most two words: "pointwise conv", "dense"."""
    return kind.split("(")[0].strip().replace("convolution", "conv")


def kind_class(kind: str) -> str:
    """Returns the name under which the style sheet colours a kind."""
    first = kind.split(" ")[0].lower()
    known = {"pointwise", "depthwise", "dense", "convolution"}
    return first if first in known else "other"


def headline(report: Report) -> str:
    """Returns the outcome in one or two sentences, "" if nothing was measured."""
    result = report.result
    if result is None:
        return ""
    sentences = []
    base, stock = report.variant(FLOAT_LABEL), report.variant(STOCK_LABEL)
    if result.size_bytes is not None:
        smaller = [
            f"{other.size_bytes / result.size_bytes:.1f} times smaller than {name}"
            for other, name in ((base, "float"), (stock, "stock int8"))
            if other and other.size_bytes and other.size_bytes >= result.size_bytes > 0
        ]
        tail = f", {' and '.join(smaller)}" if smaller else ""
        sentences.append(f"The file takes {size(result.size_bytes)}{tail}.")
    if result.accuracy is not None:
        sentences.append(_accuracy_sentence(result.accuracy, base))
    return " ".join(sentences)


def _accuracy_sentence(accuracy: float, base: ModelVariant | None) -> str:
    sentence = f"It reaches {percent(accuracy)} accuracy"
    if base is None or base.accuracy is None:
        return f"{sentence}."
    points = round((accuracy - base.accuracy) * 100, 2)
    if not points:
        return f"{sentence}, as much as float."
    return f"{sentence}, {abs(points):.2f} points {'above' if points > 0 else 'below'} float."


def floor_sentence(report: Report) -> str:
    """Returns how far the file is above the least that its weights take, "" without a file."""
    floor = report.floor_bytes
    if not floor:
        return ""
    above = report.above_floor_bytes
    total = sum(above.values())
    items = ", ".join(f"{kind.replace('_', ' ')} {size:,}" for kind, size in above.items() if size)
    return (
        f"{floor + total:,} bytes, {percent(total / floor)} above the {floor:,} that weight codes, "
        f"biases and weight scales take ({items}).{_entropy_sentence(report)}"
    )


def _entropy_sentence(report: Report) -> str:
    entropy = report.code_entropy_bytes
    return "" if entropy is None else f" At their entropy the weight codes take {entropy:,} bytes."


def agreement_lines(agreement: Agreement) -> list[tuple[bool, str]]:
    """Returns what the verification found: whether each finding is flawless, and its words."""
    same = round(agreement.top1_agreement * agreement.num_samples)
    lines = [
        (
            agreement.top1_agreement == 1,
            f"The file and the trained model give the same answer for {same:,} of "
            f"{agreement.num_samples:,} samples ({percent(agreement.top1_agreement)}).",
        ),
        (agreement.max_lsb == 0, _codes_sentence(agreement)),
        (
            agreement.weight_codes_identical,
            "The file holds exactly the weight codes that were trained."
            if agreement.weight_codes_identical
            else "Some weight codes in the file differ from those that were trained.",
        ),
    ]
    if agreement.delegated_ops is not None and agreement.total_ops is not None:
        lines.append(_delegate_line(agreement, agreement.delegated_ops, agreement.total_ops))
    return lines


def _codes_sentence(agreement: Agreement) -> str:
    if agreement.max_lsb == 0:
        return "All output codes are equal."
    steps = "1 step" if agreement.max_lsb == 1 else f"{agreement.max_lsb} steps"
    return (
        f"{percent(agreement.equal_codes_share)} of the output codes are equal; the others differ "
        f"by at most {steps} of the output grid."
    )


def _delegate_line(agreement: Agreement, delegated: int, total: int) -> tuple[bool, str]:
    count = agreement.partitions
    pieces = "" if count is None else f", in {count} partition{'' if count == 1 else 's'}"
    sentence = f"The XNNPACK delegate runs {delegated} of {total} operators{pieces}."
    if agreement.undelegated:
        sentence += f" Built-in kernels run: {', '.join(agreement.undelegated)}."
    return delegated == total and count in (None, 1), sentence
