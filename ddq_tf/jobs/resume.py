"""Where commands keep unfinished work, and whether to go on with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ddq_tf.errors import DDQError
from ddq_tf.jobs.screen import Screen


def work_folder(
    out: str | os.PathLike[str],
    given: str | os.PathLike[str] | None,
    kept: Callable[[Path], int | None],
    units: str,
    *,
    resume: bool,
    screen: Screen,
) -> Path:
    """Returns the folder where a command keeps unfinished work.

    Args:
        out: the file that it will write.
        given: the folder, if the user names one.
        kept: how much of the work is done in a folder, None if there is none: `epochs_kept` or
            `blocks_kept`.
        units: of that, in words.
        resume: whether to go on with what is there.
        screen: where to tell what is there.

    Raises:
        DDQError: if something is there, and is not to be gone on with.
    """
    folder = Path(given or f"{os.fspath(out)}.checkpoint")
    done = kept(folder)
    if done is None:
        return folder
    if not resume:
        raise DDQError(
            f"{str(folder)!r} holds an unfinished run of this command, {done} {units} done: add "
            "--resume to go on with it, or delete the folder to begin anew"
        )
    screen.heading(f"Going on behind {done} {units}, kept in {folder}")
    return folder
