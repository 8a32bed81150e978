"""`ddq web`: a .tflite file becomes a folder with a page that runs it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddq_tf import web
from ddq_tf.data import Range
from ddq_tf.errors import DDQError
from ddq_tf.export.metadata_reader import read_metadata
from ddq_tf.jobs.export import read_lines
from ddq_tf.jobs.measure import load_quietly, read_tflite
from ddq_tf.jobs.pixels import Pixels, pixels_of_file
from ddq_tf.pictures import DataOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebPage:
    """A folder that runs a file in the browser.

    Attributes:
        folder: where it is.
        size_bytes: of all its files.
        input_range: what pixels 0 and 255 become.
        sources: who says how pictures become inputs; see `Pixels`.
        told: what the page is told of the model.
    """

    folder: Path
    size_bytes: int
    input_range: Range
    sources: Mapping[str, str]
    told: dict[str, Any]

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        image = {name: value for name, value in self.told["input"].items() if name != "codes"}
        return {
            "folder": str(self.folder),
            "size_bytes": self.size_bytes,
            "model": self.told["name"],
            "model_bytes": self.told["bytes"],
            "input": {
                **image,
                "range": self.input_range,
                "range_from": self.sources["input_range"],
                **{f"{name}_from": self.sources[name] for name in ("channels", "crop", "resize")},
            },
            "output": self.told["output"],
            "labels": len(self.told["labels"]),
            "runtime": self.told["runtime"],
        }


def make_web_page(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: DataOptions,
    *,
    labels: str | os.PathLike[str] | None = None,
    runtime: str | os.PathLike[str] | None = None,
) -> WebPage:
    """Makes the folder; see `ddq_tf.web`.

    Args:
        source: the .tflite file.
        out: the folder to make, or an earlier one to replace.
        options: how pictures become inputs; see `pixels_of_file`.
        labels: a text file with the name of a class on each line; None for those in the file.
        runtime: a folder with LiteRT.js; None to download it.

    Raises:
        DDQError: if the file cannot run on such a page, the runtime cannot be had, or the folder
            cannot be written.
    """
    web.check_folder(out)
    content = read_tflite(source)
    metadata = read_metadata(content, with_labels=labels is None)
    # The only input if there are several is refused with the file's other faults.
    image = next(iter(load_quietly(content).inputs.values()))
    pixels = pixels_of_file(options, metadata, image)
    low, high = input_range = _range_of(pixels)
    preprocessing = web.Preprocessing(
        low=low, high=high, channels=pixels.channels, **dataclasses.asdict(pixels.fit)
    )
    names = metadata.labels if labels is None else read_lines(Path(labels))
    told = web.make_folder(
        out,
        content,
        name=metadata.name or Path(source).stem,
        preprocessing=preprocessing,
        labels=names,
        runtime=lambda: web.find_runtime(runtime),
    )
    folder = Path(out)
    return WebPage(
        folder=folder,
        size_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        input_range=input_range,
        sources=pixels.sources,
        told=told,
    )


def _range_of(pixels: Pixels) -> Range:
    """What pixels 0 and 255 become, which somebody must say."""
    if pixels.input_range is None:
        raise DDQError(
            "the file must say how pixels become inputs. Received: no normalization in its "
            "metadata, and an input of no usual range. Give --input_range=LOW,HIGH or --mean and "
            "--std, or export the model again with --input_range"
        )
    return pixels.input_range
