"""`ddq web`: a .tflite file becomes a folder with a page that runs it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from ddq_tf import data, web
from ddq_tf.data import Range
from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import TensorInfo
from ddq_tf.export.model_metadata import ModelMetadata
from ddq_tf.jobs.export import read_lines
from ddq_tf.jobs.images import DataOptions, fit_of
from ddq_tf.jobs.measure import load_quietly, read_tflite, shown_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebPage:
    """A folder that runs a file in the browser.

    Attributes:
        folder: where it is.
        size_bytes: of all its files.
        input_range: what pixels 0 and 255 become.
        range_from: who says so, in words.
        told: what the page is told of the model.
    """

    folder: Path
    size_bytes: int
    input_range: Range
    range_from: str
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
            "input": {**image, "range": self.input_range, "range_from": self.range_from},
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
        options: how pictures become inputs; nothing else of it is used. What it does not say is
            taken from the file's metadata, then from its input's grid.
        labels: a text file with the name of a class on each line; None for those in the file.
        runtime: a folder with LiteRT.js; None to download it.

    Raises:
        DDQError: if the file cannot run on such a page, the runtime cannot be had, or the folder
            cannot be written.
    """
    web.check_folder(out)
    content = read_tflite(source)
    metadata = web.read_metadata(content)
    fit = fit_of(options)
    # The only input if there are several is refused with the file's other faults.
    image = next(iter(load_quietly(content).inputs.values()))
    (low, high), range_from = _range(options, metadata, image)
    preprocessing = web.Preprocessing(
        low=low, high=high, channels=options.channels or "rgb", crop=fit.crop, resize=fit.resize
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
        input_range=(low, high),
        range_from=range_from,
        told=told,
    )


def _range(options: DataOptions, metadata: ModelMetadata, image: TensorInfo) -> tuple[Range, str]:
    """Returns what pixels 0 and 255 become, and who says so."""
    if options.range_said is not None:
        return options.range_said, "as given"
    if metadata.mean:
        return data.range_of(metadata.mean, metadata.std), "from the file's metadata"
    if (shown := shown_range(image)) is not None:
        return shown[0], "as the file's input shows"
    raise DDQError(
        "the file must say how pixels become inputs. Received: no normalization in its metadata, "
        "and an input of no usual range. Give --input_range=LOW,HIGH or --mean and --std, or "
        "export the model again with --input_range"
    )
