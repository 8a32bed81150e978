"""Model metadata as they lie in a file: fields and codes of TFLite's metadata_schema.fbs, our own.

Fields are given by their places in their table, as flatbuffers count them.
"""

from __future__ import annotations

import enum

ENTRY = "TFLITE_METADATA"  # of the model's own metadata
IDENTIFIER = b"M001"
LABELS_ARE_AXIS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS
NORMALIZATION = 1  # ProcessUnitOptions.NormalizationOptions
FEATURE, IMAGE = 1, 2  # ContentProperties
COLOR_SPACES = {3: 1, 1: 2}  # ColorSpaceType by channels: RGB, GRAYSCALE
FITTING = "ddq_tf_fitting"  # a CustomMetadata: the standard has no field for these
FITTED = ("channels", "crop", "resize")  # fields of `ModelMetadata` that it holds


class Model(enum.IntEnum):
    """Fields of ModelMetadata, the root."""

    NAME, DESCRIPTION, SUBGRAPHS, LEAST_PARSER = 0, 1, 3, 7


class Subgraph(enum.IntEnum):
    """Fields of SubGraphMetadata."""

    INPUTS, OUTPUTS, CUSTOM = 2, 3, 9


class Tensor(enum.IntEnum):
    """Fields of TensorMetadata."""

    NAME, CONTENT, UNITS, FILES = 0, 3, 4, 6


class Content(enum.IntEnum):
    """Fields of Content, a union."""

    KIND, PROPERTIES = 0, 1


class Image(enum.IntEnum):
    """Fields of ImageProperties."""

    COLOR_SPACE = 0


class Unit(enum.IntEnum):
    """Fields of ProcessUnit, a union."""

    KIND, OPTIONS = 0, 1


class Normalization(enum.IntEnum):
    """Fields of NormalizationOptions."""

    MEAN, STD = 0, 1


class File(enum.IntEnum):
    """Fields of AssociatedFile."""

    NAME, KIND = 0, 2


class Custom(enum.IntEnum):
    """Fields of CustomMetadata."""

    NAME, DATA = 0, 1
