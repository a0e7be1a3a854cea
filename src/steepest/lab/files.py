"""Files that survive a kill, a full disk and a second process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from steepest.core.errors import SteepestError

try:
    import fcntl
except ImportError:  # Windows has no flock; there the lock is left out
    fcntl = None  # type: ignore[assignment]


class Busy(SteepestError):
    """A folder that another process holds and that was not to be waited for; the message names the holder."""


def tell(message: str) -> None:
    """The default notice: one line on stderr."""
    print(f"steepest: {message}", file=sys.stderr, flush=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` (disk full, no permission) into one line that names the file and the next step."""
    try:
        yield
    except OSError as error:
        raise SteepestError(
            f"cannot write {path}: {error.strerror or error}: "
            "mend that and run the same command again; what is finished is kept"
        ) from error


def make_folder(folder: Path) -> Path:
    """``mkdir -p`` with a one-line error."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def replace(path: Path, data: bytes | memoryview, *, keep: Path | None = None) -> None:
    """Writes ``path`` whole or not at all (temporary file, fsync, rename); old content moves to ``keep``."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a rename outlast a power cut; a system that cannot open a folder sees to it itself."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(folder: Path, notice: Callable[[str], None] = tell, wait: bool = True) -> Iterator[None]:
    """One process at a time in ``folder``; a second one says so and waits. A killed holder frees it.

    wait=False: :class:`Busy` instead of waiting, for a worker that has other runs to turn to.
    """
    path = folder / "lock"
    with writing(path):
        file = open(path, "a+")  # noqa: SIM115 - closed below; "a+" leaves the holder's line readable
    with file:
        if fcntl is not None and not _taken(file, path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            file.seek(0)
            holder = f"{folder} is in use by process {file.read().strip() or '?'}"
            if not wait:
                raise Busy(f"{holder}: try again when it has ended")
            notice(f"{holder}: waiting for it to end")
            _taken(file, path, fcntl.LOCK_EX)
        with writing(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is in ``folder``; looking disturbs none that looks, and none that waits."""
    path = folder / "lock"
    if fcntl is None or not path.exists():
        return False
    with writing(path), open(path, encoding="utf-8") as file:
        return not _taken(file, path, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _taken(file: IO[str], path: Path, operation: int) -> bool:
    """Takes the lock; False where another process has it and ``operation`` does not wait."""
    with writing(path):  # a file system without locks
        try:
            fcntl.flock(file, operation)
        except BlockingIOError:
            return False
    return True
