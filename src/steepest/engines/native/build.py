"""C++ text to a loaded library: compiled once, kept on disk for the next process."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from steepest.core.errors import BuildFailed

FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-w"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
"""No flag lets the compiler change a result: without contraction each operation rounds, as torch's do; the two
last ones only give up errno and floating-point exceptions, which nobody reads."""
NATIVE = ("-march=native", "-mcpu=native", "")
"""How compilers are told of this machine's vector units: the first that the compiler takes."""
OPENMP = ("-fopenmp", "")
"""With threads where the compiler has them, else without."""
VECTORS = ("-DVECTOR_MATH", "-lmvec")
"""With glibc's functions for vectors (at most 4 units in the last place off), where it has them."""
DIGEST = hashlib.sha256().digest_size


def library(source: str, stem: str) -> ctypes.CDLL:
    """The library made from a C++ text, from the disk if it was made before.

    ``stem`` begins the file's name. The text lies beside the library, to be read.

    Raises: BuildFailed.
    """
    command = compiler()
    key = hashlib.sha256("\0".join((source, *FLAGS, *NATIVE, *OPENMP, *identity(tuple(command)))).encode())
    name = f"{stem}-{key.hexdigest()[:24]}"
    for folder in folders():
        path = folder / f"{name}.so"
        if intact(path) and (found := loaded(path)):
            return found
        try:
            return build(command, source, path)
        except OSError:  # a folder that cannot be written, or a full disk
            continue
    raise BuildFailed(f"native kernel: {tempfile.gettempdir()} cannot be written; set TMPDIR or XDG_CACHE_HOME")


def compiler() -> list[str]:
    """The command of the C++ compiler: CXX if it is set, else g++ or clang++.

    Raises: BuildFailed where there is none.
    """
    if given := os.environ.get("CXX"):
        command = shlex.split(given)
        if command and shutil.which(command[0]):
            return command
        raise BuildFailed(f"C++ compiler CXX={given!r} is not found: set CXX to one, or use engine='batched'")
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildFailed("no C++ compiler: apt-get install g++, or set CXX, or use engine='batched'")


@functools.cache
def identity(command: tuple[str, ...]) -> tuple[str, ...]:
    """What a library depends on beside its text: compiler and processor, told without starting a process."""
    program = Path(shutil.which(command[0]) or command[0]).resolve()
    told = program.stat()
    return (*command, str(program), str(told.st_mtime_ns), str(told.st_size), platform.machine(), processor())


def processor() -> str:
    """The features that ``-march=native`` may use."""
    try:
        with open("/proc/cpuinfo") as file:  # the first processor's block: a large machine has hundreds
            block = file.read(16384).split("\n\n")[0]
    except OSError:
        return platform.processor()
    words = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in block.splitlines() if line.startswith(words))


def folders() -> Iterator[Path]:
    """Where libraries are kept: the user's cache; a folder of this process alone where that cannot be used."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    yield Path(home) / "steepest" / "kernels"
    yield Path(temporary().name)


@functools.cache
def temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="steepest-kernels-", ignore_cleanup_errors=True)


def build(command: list[str], source: str, path: Path) -> ctypes.CDLL:
    """Compiles beside ``path`` and renames: another process sees a whole library or none.

    Raises: BuildFailed with the compiler's first complaint; OSError where the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    complaint = ""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=path.parent) as scratch:
        text, made = Path(scratch) / f"{path.stem}.cpp", Path(scratch) / path.name
        text.write_text(source)
        vectors = (VECTORS, ()) if "VECTOR_MATH" in source else ((),)
        for openmp, (define, *link), native in product(OPENMP, [v or ("",) for v in vectors], NATIVE):
            flags = [*FLAGS, *filter(None, (native, openmp, define))]
            # Compiled and linked apart: the linker must not bring an OpenMP runtime beside torch's own.
            steps = ([*flags, "-c", text, "-o", f"{made}.o"], ["-shared", f"{made}.o", "-o", made, *link])
            failed = next(filter(None, (ran([*command, *step]) for step in steps)), "")
            complaint = complaint or failed
            if failed:
                continue
            content = made.read_bytes()
            made.write_bytes(content + hashlib.sha256(content).digest())
            if found := loaded(made):
                os.replace(text, path.with_suffix(".cpp"))
                os.replace(made, path)
                return found
    raise BuildFailed(
        f"{shlex.join(command)} made no native kernel: {complaint or 'the library does not load'}: "
        "set CXX to another compiler, or use engine='batched'"
    )


def ran(command: list[object]) -> str:
    """The first line of error of a command; empty if it went well."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), (lines or [f"exit {done.returncode}"])[0])


def intact(path: Path) -> bool:
    """Whether the file ends in the digest of the rest: the loader would crash on a truncated library."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def loaded(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None
