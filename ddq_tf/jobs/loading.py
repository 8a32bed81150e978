"""Model files in and out: whole or not at all, and errors that name the file."""

from __future__ import annotations

import importlib.util
import inspect
import io
import json
import os
import re
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

import ddq_tf.layers  # noqa: F401  (registers the DDQ layers with Keras)
from ddq_tf.errors import DDQError
from ddq_tf.files import atomic_write_bytes, check_writable
from ddq_tf.search import DDQModel

_KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_NOTES = "ddq_tf.json"
_LONGEST_CAUSE = 300
_UNKNOWN = re.compile(r"Could not locate (class|function) '([^']+)'")
_MOST_UNPACKED = 200  # Keras stores weights as they are, and deflates only a little JSON


class _LegacyDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Reads what Keras 2 wrote: it stored `groups`, always 1, which Keras 3 refuses."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Returns the plain Keras layer."""
        kept = {name: value for name, value in config.items() if name != "groups"}
        return keras.layers.DepthwiseConv2D.from_config(kept)


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a Keras model, float or DDQ, uncompiled.

    Args:
        path: a .keras file, or a legacy .h5 file of Keras 2 or 3.

    Raises:
        DDQError: if the file is missing, broken, or no Keras model.
    """
    path = Path(path)
    if not path.is_file():
        raise DDQError(f"the model file does not exist. Received: {str(path)!r}")
    if path.suffix.lower() not in _KERAS_SUFFIXES:
        raise DDQError(f"a Keras model ends in .keras or .h5. Received: {str(path)!r}")
    legacy = path.suffix.lower() != ".keras"
    if not legacy:
        _check_archive(path)
    shims = {"DepthwiseConv2D": _LegacyDepthwiseConv2D} if legacy else None
    try:
        model = keras.models.load_model(path, custom_objects=shims, compile=False)
    except Exception as error:  # Keras lets through whatever zipfile, h5py or a layer raises.
        raise DDQError(f"cannot load the model {str(path)!r}: {_cause(error)}") from error
    if not isinstance(model, keras.Model):
        raise DDQError(f"{str(path)!r} holds a {type(model).__name__}, not a Keras model")
    return model


def load_code(path: str | os.PathLike[str]) -> None:
    """Runs a Python file, so that model files may name the classes and functions in it.

    Modules beside it can be imported from it.

    Args:
        path: of the file.

    Raises:
        DDQError: if there is no such file, or it raises.
    """
    path = Path(path)
    if not path.is_file() or path.suffix != ".py":
        raise DDQError(f"--code needs a Python file that exists. Received: {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise DDQError(f"--code cannot be imported. Received: {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of whatever a user's code raises
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise DDQError(
            f"--code: {str(path)!r} raised {type(error).__name__}: {_cause(error)} "
            f"({where.filename}:{where.lineno})"
        ) from error
    named = {
        name: value
        for name, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }
    keras.saving.get_custom_objects().update(named)


def _check_archive(path: Path) -> None:
    """Raises DDQError unless a .keras file is a whole archive of a size that it could have."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DDQError(f"{str(path)!r} is damaged, or no .keras file: {error}") from error
    packed = path.stat().st_size
    if unpacked > _MOST_UNPACKED * packed + (1 << 20):
        raise DDQError(
            f"{str(path)!r} unpacks to {unpacked:,} bytes, more than {_MOST_UNPACKED} times its "
            f"{packed:,}: no .keras file of a model does"
        )


def load_ddq_model(path: str | os.PathLike[str]) -> DDQModel:
    """Loads a DDQ model.

    Raises:
        DDQError: if the file cannot be loaded or holds a float model.
    """
    model = load_model(path)
    if not isinstance(model, DDQModel):
        raise DDQError(
            f"{str(path)!r} holds a float model; `ddq quantize` makes a DDQ model from it"
        )
    return model


def load_float_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a float model.

    Raises:
        DDQError: if the file cannot be loaded or holds a DDQ model.
    """
    model = load_model(path)
    if isinstance(model, DDQModel):
        raise DDQError(f"{str(path)!r} holds a DDQ model where the float model is needed")
    return model


def check_output(path: str | os.PathLike[str], suffix: str) -> Path:
    """Returns a path that can be written, checked before the work starts.

    Raises:
        DDQError: if its name does not end in `suffix`, or its folder cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise DDQError(f"the file to write must end in {suffix}. Received: {str(path)!r}")
    check_writable(path)
    return path


def save_model(model: keras.Model, path: str | os.PathLike[str], notes: Mapping[str, Any]) -> Path:
    """Writes a .keras file in one step.

    Args:
        model: what to save.
        path: where to.
        notes: JSON values to keep in the file, for `read_notes`. Keras ignores them.
    """
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "model.keras"
        model.save(temporary)
        content = io.BytesIO(temporary.read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(_NOTES, json.dumps(dict(notes)))
    return atomic_write_bytes(path, content.getvalue())


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what `save_model` noted in a .keras file; nothing for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            notes = json.loads(archive.read(_NOTES))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile):
        return {}
    return notes if isinstance(notes, dict) else {}


def _cause(error: Exception) -> str:
    """Returns the first line of an error; Keras appends whole configurations.

    Of what a file names and this process does not know: what, and the cure.
    """
    unknown = _UNKNOWN.search(str(error))
    if unknown:
        return (
            f"it names the {unknown[1]} {unknown[2]!r}, which is none of Keras's. Say which Python "
            "file defines it: --code=FILE.py; in Python, keras.models.load_model with "
            "custom_objects, then quantize_model"
        )
    if "Python lambda" in str(error):
        return (
            "it has a Lambda of a Python lambda, which Keras does not load unasked. Give it a "
            "function with a name, from --code=FILE.py; or, in Python, load it with "
            "keras.models.load_model(path, safe_mode=False), then quantize_model"
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    first = lines[0]
    return first if len(first) <= _LONGEST_CAUSE else f"{first[:_LONGEST_CAUSE]}…"
