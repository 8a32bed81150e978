"""The state of unfinished work in one file, which appears whole or not at all."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.files import atomic_write_bytes

_FORMAT = 1


class Kept:
    """What a file holds of unfinished work.

    Attributes:
        path: of the file.
        notes: what `keep` was told.
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]) -> None:
        held = json.loads(bytes(arrays["notes"]).decode())
        if held["format"] != _FORMAT:
            raise ValueError(f"format {held['format']}")
        self.path = path
        self.notes: dict[str, Any] = {**held["notes"]}
        self._settings: dict[str, Any] = {**held["settings"]}
        self._count = int(held["variables"])
        self._arrays = arrays

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Kept | None:
        """Returns what a file holds; None if there is none.

        Raises:
            DDQError: if it is broken.
        """
        path = Path(path)
        if not path.is_file():
            return None
        try:
            with open(path, "rb") as file:
                _check_stored(file)
                with np.load(file) as archive:
                    return cls(path, dict(archive))
        except Exception as error:  # of zipfile, zlib, numpy or json: damage shows anywhere
            raise broken(path, error) from error

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raises DDQError, with all that differs, if the work was begun with other settings."""
        now = plain(settings)
        names = [*self._settings, *(name for name in now if name not in self._settings)]
        changed = [
            f"{name}={self._settings.get(name)!r}, now {now.get(name)!r}"
            for name in names
            if self._settings.get(name) != now.get(name)
        ]
        if changed:
            raise DDQError(
                f"the unfinished work {str(self.path)!r} was begun with other settings: "
                f"{'; '.join(changed)}. Go on with the same, or delete it to begin anew"
            )

    def assign_to(self, variables: Sequence[Any]) -> None:
        """Gives variables their values.

        Raises:
            DDQError: if they are others than those that were kept.
        """
        try:
            values = [self._arrays[f"variable_{number}"] for number in range(self._count)]
        except KeyError as error:
            raise broken(self.path, error) from error
        shapes = [tuple(value.shape) for value in values]
        if shapes != [tuple(variable.shape) for variable in variables]:
            raise DDQError(
                f"the unfinished work {str(self.path)!r} is of another model or optimizer: it has "
                f"{len(values)} variables. Received: {len(variables)}, or others in shape. Delete "
                "it to begin anew"
            )
        if not all(value.dtype.kind in "fiub" for value in values):
            raise broken(self.path, TypeError("it holds others than numbers"))
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def extra(self, name: str) -> dict[str, np.ndarray]:
        """Returns further arrays that were kept under a name."""
        start = f"extra_{name}_"
        return {n.removeprefix(start): a for n, a in self._arrays.items() if n.startswith(start)}


def broken(path: Path, error: Exception) -> DDQError:
    """Returns the error for a file of unfinished work that cannot be used."""
    reason = str(error) or type(error).__name__
    return DDQError(
        f"cannot read the unfinished work {str(path)!r}: {reason}. Delete it to begin anew"
    )


def _check_stored(file: Any) -> None:
    """Raises ValueError for an archive that unpacks to more than it is: `keep` packs nothing."""
    with zipfile.ZipFile(file) as archive:
        if any(member.file_size != member.compress_size for member in archive.infolist()):
            raise ValueError("it is packed, which ddq_tf never does")
    file.seek(0)


def keep(
    path: str | os.PathLike[str],
    variables: Sequence[Any],
    *,
    notes: Mapping[str, Any],
    settings: Mapping[str, Any],
    extra: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Writes the state of unfinished work; its folder is made if missing.

    Args:
        path: of the file.
        variables: whose values to keep.
        notes: anything that JSON holds.
        settings: what must be the same when the work goes on, as JSON holds it.
        extra: further arrays, by two names.
    """
    head = {
        "format": _FORMAT,
        "notes": dict(notes),
        "settings": plain(settings),
        "variables": len(variables),
    }
    arrays = {"notes": np.frombuffer(json.dumps(head).encode(), np.uint8)}
    for number, variable in enumerate(variables):
        arrays[f"variable_{number}"] = np.asarray(ops.convert_to_numpy(variable))
    for group, values in (extra or {}).items():
        arrays |= {f"extra_{group}_{name}": value for name, value in values.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, content.getvalue())


def forget(folder: str | os.PathLike[str], *names: str) -> None:
    """Deletes files of finished work, and their folder if nothing else is in it."""
    folder = Path(folder)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings as JSON gives them back."""
    return json.loads(json.dumps(dict(settings)))
