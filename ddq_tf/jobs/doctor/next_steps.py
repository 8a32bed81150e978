"""What to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ddq_tf.jobs.doctor.reading import takes_image
from ddq_tf.report.diagnosis import Port


def after_cure(file: str, target: str) -> tuple[str, ...]:
    """Returns what asks again."""
    if not file:
        return (f"ddq_tf.jobs.diagnose(model, target={target!r})  # after the cure",)
    return (shlex.join(["ddq", "doctor", file, f"--target={target}"]) + "  # after the cure",)


def commands_for(
    file: str,
    target: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    is_known: bool,
) -> tuple[str, ...]:
    """Returns what quantizes the model, without labels and with; Python if it reads no image."""
    if not file or not takes_image(inputs) or len(outputs) > 1:
        return (
            f"ddq_tf.quantize_model(model, ddq_tf.DDQConfig(target={target!r}), calibration=inputs)"
            "  # in Python; the commands take files of models of one image and one output",
        )
    flags = [f"--target={target}", f"--out={Path(file).with_suffix('')}_ddq.keras"]
    if not is_known:
        flags.insert(0, "--input_range=LOW,HIGH")
    kinds = [("reconstruct", "images:FOLDER", "some hundred images, no labels")]
    if len(outputs[0].shape) == 2:
        kinds.append(("quantize", "folder:FOLDER", "a folder for each class; trains"))
    return tuple(
        f"{shlex.join(['ddq', name, file, f'--data={spec}', *flags])}  # {words}"
        for name, spec, words in kinds
    )
