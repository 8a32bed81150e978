"""`ddq export --android`: what an Android project needs of a file, and where it takes it from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export.model_metadata import ModelMetadata
from ddq_tf.files import check_writable
from ddq_tf.targets import get_target

ASSETS = Path("app", "src", "main", "assets")
ASSET = "model.tflite"
# What examples/android computes itself, code by code as training did.
RESIZES = ("bilinear", "bicubic", "nearest")


def asset_of(project: str | os.PathLike[str]) -> Path:
    """Returns where an Android project wants its model.

    Args:
        project: its folder.

    Raises:
        DDQError: if it has no assets, or they cannot be written to.
    """
    folder = Path(project) / ASSETS
    if not folder.is_dir():
        raise DDQError(
            f"--android needs the folder of a Gradle project, with {ASSETS.as_posix()} in it, such "
            f"as examples/android. Received: {str(project)!r}. Choose another, or create {ASSETS}"
        )
    check_writable(folder / ASSET, "the asset")
    return folder / ASSET


def check_told(labels: bool, input_range: bool) -> None:
    """Checks that an app will find in the file what it needs.

    Args:
        labels: whether they are given.
        input_range: whether it is given or noted.

    Raises:
        DDQError: naming the flags that are missing.
    """
    lines = []
    if not labels:
        lines.append("--labels=FILE must name the classes, one a line, for the app to show them")
    if not input_range:
        lines.append(
            "--input_range=LOW,HIGH must say what pixels 0 and 255 become, as -1,1: the model's "
            "file does not note it"
        )
    raise_all("--android needs to know more:", lines)


def check_model(model: Any, metadata: ModelMetadata | None, target: str | None) -> None:
    """Checks that the app can run a model.

    Args:
        model: a DDQ model.
        metadata: of its file.
        target: as for `export_tflite`.

    Raises:
        DDQError: naming everything that it cannot.
    """
    lines = []
    takes, gives = model.input_shape, model.output_shape
    image = isinstance(takes, tuple) and len(takes) == 4 and takes[3] == 3 and None not in takes[1:]
    if not image:
        lines.append(f"it must take one image of a fixed size, in 3 channels. Received: {takes}")
    if not (isinstance(gives, tuple) and len(gives) == 2):
        lines.append(f"it must give one number for each class. Received: {gives}")
    chosen = get_target(target or model.ddq_config.target)
    if chosen.runtime != "LiteRT":
        lines.append(f"--target must be one of LiteRT's. Received: {chosen.name}")
    if metadata is not None and metadata.resize not in RESIZES:
        lines.append(
            f"pictures must be resized by one of {RESIZES} in training: the app has no other. "
            f"Received: {metadata.resize!r}"
        )
    raise_all(f"an Android app cannot use model {model.name!r}:", lines)
