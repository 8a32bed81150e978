"""The folder: the page, the model, what the page must know of it, and the runtime."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import Runner, TensorInfo, is_for_micro
from ddq_tf.files import atomic_write_folder, check_replaceable
from ddq_tf.web.model_file import output_activation
from ddq_tf.web.runtime import PACKAGE, VERSION

MADE_BY = "ddq_web.json"  # what the page must know; by it a folder is known as one of ours
_MODEL, _RUNTIME = "model.tflite", "runtime"
_TYPES = ("int8", "uint8", "float32")
_NOTICE = (
    f"The .js and .wasm files in this folder are those of LiteRT.js, npm package {PACKAGE} "
    f"{VERSION}, unchanged.\nCopyright Google LLC, Apache License 2.0: "
    "https://www.apache.org/licenses/LICENSE-2.0\n"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes a network's input, as in training.

    Attributes:
        low: what pixel 0 becomes: a number, or one for each channel in the network's order.
        high: what pixel 255 becomes, likewise.
        channels: their order, "rgb" or "bgr".
        crop: share of the picture's centre that the network sees, in (0, 1].
        resize: of `tf.image.resize`.
    """

    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0
    channels: str = "rgb"
    crop: float = 1.0
    resize: str = "bilinear"

    def codes(self, info: TensorInfo) -> list[list[float]]:
        """Returns what each pixel value becomes in a network's input, for each of 3 channels.

        Args:
            info: of the input.
        """
        low, high = (
            np.broadcast_to(np.asarray(end, np.float64), (3,)) for end in (self.low, self.high)
        )
        # In float32, as ddq_tf.data computes it.
        step = ((high - low) / 255).astype(np.float32)
        pixels = np.arange(256, dtype=np.float32)[:, None]
        return info.quantize(pixels * step + low.astype(np.float32)).T.tolist()


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuses a folder that `make_folder` could not write, before the work for it starts.

    Raises:
        DDQError: if it holds other things, or cannot be written to.
    """
    check_replaceable(folder, MADE_BY)


def make_folder(
    folder: str | os.PathLike[str],
    content: bytes,
    *,
    name: str,
    preprocessing: Preprocessing,
    runtime: Callable[[], Mapping[str, bytes]],
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the folder, whole or not at all.

    Args:
        folder: to make, or to replace if it is an earlier one.
        content: of a .tflite file with one image as input and one output.
        name: of the model.
        preprocessing: how pictures become inputs.
        runtime: gives LiteRT.js's files, as `find_runtime` does; asked once all else is well.
        labels: a name for each class; () for none.

    Returns:
        What the page is told of the model.

    Raises:
        DDQError: if the page cannot run such a file, or the folder cannot be written.
    """
    described = _description(content, name, preprocessing, labels)
    told = json.dumps(described, ensure_ascii=False).encode()
    files = {
        **_page(),
        MADE_BY: told,
        _MODEL: content,
        **{f"{_RUNTIME}/{file}": data for file, data in runtime().items()},
        f"{_RUNTIME}/NOTICE.txt": _NOTICE.encode(),
    }
    atomic_write_folder(folder, files, marker=MADE_BY)
    return described


def _page() -> dict[str, bytes]:
    """The page's own files."""
    there = importlib.resources.files("ddq_tf.web").joinpath("page")
    return {file.name: file.read_bytes() for file in there.iterdir() if file.is_file()}


def _description(
    content: bytes, name: str, preprocessing: Preprocessing, labels: Sequence[str]
) -> dict[str, Any]:
    if is_for_micro(content):
        raise DDQError(
            "the file must be for LiteRT, to run in the browser. Received: one compressed for "
            "TFLite Micro. Export it with --target=litert"
        )
    runner = Runner(content)
    image, result = _only_image(runner), _only_result(runner)
    classes = int(result.shape[-1])
    if labels and len(labels) != classes:
        raise DDQError(f"{classes} labels are needed, one for each class. Received: {len(labels)}")
    return {
        "name": name,
        "file": _MODEL,
        "bytes": len(content),
        "runtime": {"folder": f"{_RUNTIME}/", "package": PACKAGE, "version": VERSION},
        "input": {
            "height": int(image.shape[1]),
            "width": int(image.shape[2]),
            "type": image.dtype.name,
            "channels": preprocessing.channels,
            "crop": preprocessing.crop,
            "resize": preprocessing.resize,
            "codes": preprocessing.codes(image),
        },
        "output": {
            "classes": classes,
            "type": result.dtype.name,
            "scale": None if result.scale is None else float(result.scale),
            "zero_point": result.zero_point,
            "activation": output_activation(content),
        },
        "labels": list(labels),
    }


def _only_image(runner: Runner) -> TensorInfo:
    """The input, if it is one image."""
    shapes = {name: info.shape for name, info in runner.inputs.items()}
    info = next(iter(runner.inputs.values()))
    known = len(info.shape) == 4 and info.shape[0] in (-1, 1) and info.shape[3] == 3
    if len(shapes) != 1 or not known or min(info.shape[1:]) < 1 or info.dtype.name not in _TYPES:
        raise DDQError(
            "the page needs a file with one input, an image (1, height, width, 3) of "
            f"{', '.join(_TYPES)}. Received: {shapes} of {info.dtype}"
        )
    return info


def _only_result(runner: Runner) -> TensorInfo:
    """The output, if it is one row of classes."""
    shapes = {name: info.shape for name, info in runner.outputs.items()}
    info = next(iter(runner.outputs.values()))
    if len(shapes) != 1 or len(info.shape) != 2 or info.dtype.name not in _TYPES:
        raise DDQError(
            f"the page needs a file with one output, (1, classes) of {', '.join(_TYPES)}. "
            f"Received: {shapes} of {info.dtype}"
        )
    return info
