"""How the programs speak: flags with ranges, errors of one line, signals, and output that nobody
reads any more."""
from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from support.processes import first_to_fail

MOST = 99_999_999  # of anything that is counted: eight digits, as in a checkpoint's name


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes no abbreviations: a slip is not another flag."""

    def __init__(self, **how: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
                         **how)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)} (try {self.prog} -h)\n")

    def useless(self, args: argparse.Namespace, names: str, why: str) -> None:
        """Exit with code 2 if one of these flags was given, which would do nothing."""
        for name in names.split():
            if getattr(args, name) not in (None, False, []):
                self.error(f"--{name} does nothing {why}")


def count(text: str) -> int:
    """A flag's value: a whole number of at least 1."""
    return _number(int, text, 1, MOST)


def count_or_none(text: str) -> int:
    """A flag's value: a whole number of at least 0."""
    return _number(int, text, 0, MOST)


def amount(text: str) -> float:
    """A flag's value: a number of at least 0."""
    return _number(float, text, 0, 1e9)


def share(text: str) -> float:
    """A flag's value: a number from 0 to 1."""
    return _number(float, text, 0, 1)


def _number(kind: type, text: str, least: float, most: float) -> Any:
    what = "a whole number" if kind is int else "a number"
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must be {what} from {least} to {most:.9g}, not {text!r}")
    return value


def check_target(flag: str, path: Path | None) -> None:
    """Raise ValueError, before the work, unless a file can be written at `path` after it."""
    if path is None or path.exists() and not (path.is_file() or path.is_dir()):
        return  # a device or a pipe is written to as it is
    if path.is_dir():
        raise ValueError(f"{flag} {path}: is a folder; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as e:
        raise ValueError(f"{flag} {path}: cannot be written there ({e.strerror})") from None


def check_picture(flag: str, path: Path | None, kinds: str = "") -> None:
    """Raise ValueError, before the work, where matplotlib could not draw a file of that name.

    kinds: the endings that may be, with spaces between them; else all that matplotlib knows.
    """
    if path is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(f"{flag} needs matplotlib: pip install -r requirements.txt") from None
    known = kinds.split() or sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in known:
        many = "one of " * (len(known) > 1)
        raise ValueError(f"{flag} {path}: the name must end in {many}{', '.join(known)}")


# ------------------------------------------------------------------------------------------------
# Signals: Ctrl-C, a kill, a closed terminal, a closed pipe


class Stopped(BaseException):
    """A signal asked for the end. No Exception, so that no `except Exception` mistakes it."""

    def __init__(self, number: int, said: str):
        super().__init__(said)
        self.number = number


class Signals:
    """What has asked for the end. It comes at once, unless somebody has promised to look."""

    def __init__(self) -> None:
        self.number, self.patient, self.said = 0, False, "stopped"

    def heed(self) -> None:
        """From now on. What is ignored stays so (nohup)."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.arrive)

    def arrive(self, number: int, frame: FrameType | None = None) -> None:
        """The handler. A second signal must not break into the clearing up after the first."""
        first, self.number = not self.number, self.number or number
        if first and not self.patient:
            raise Stopped(number, self.said)

    @contextmanager
    def later(self) -> Iterator[None]:
        """In here a signal only sets `number`: the step is finished, and saved, first."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    @contextmanager
    def at_once(self, said: str) -> Iterator[None]:
        """In here it ends what may take minutes, also if it came before."""
        before, self.patient, self.said = (self.patient, self.said), False, said
        try:
            if self.number:
                raise Stopped(self.number, said)
            yield
        finally:
            self.patient, self.said = before


signals = Signals()


def say(text: str, end: str = "\n") -> None:
    """Print at once. Where nobody reads any more (`| head`, a closed terminal) that is a signal; a
    full disk under the log is none, and the text is tried again with the next."""
    try:
        print(text, end=end, flush=True)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            return warn(f"standard output: {e.strerror}")
        if not isinstance(e, BrokenPipeError):
            warn(f"standard output: {e.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signals.arrive(int(getattr(signal, "SIGPIPE", 13)))


def warn(text: str) -> None:
    """A line on stderr."""
    try:
        print(f"warning: {one_line(text)}", file=sys.stderr, flush=True)
    except OSError:
        pass


# ------------------------------------------------------------------------------------------------
# Errors


def one_line(text: object) -> str:
    """Text without line breaks."""
    return " ".join(str(text).split())


def out_of_memory(e: BaseException) -> bool:
    """Torch has a class of its own for this on CUDA only; its words on Linux and macOS, on Windows,
    and for Apple's GPUs."""
    words = "can't allocate memory", "not enough memory", "MPS backend out of memory"
    return isinstance(e, (torch.OutOfMemoryError, MemoryError)) or any(w in str(e) for w in words)


def reason(e: BaseException) -> str:
    """What went wrong, for the user, in one line."""
    if isinstance(e, OSError) and e.strerror:
        return one_line(f"{e.filename}: {e.strerror}" if e.filename else e.strerror)
    if isinstance(e, (ValueError, OSError)):
        return one_line(e)
    if out_of_memory(e):
        return f"out of memory: {one_line(e)[:200]}"
    if type(e).__name__.startswith("Dist") or "gloo" in str(e) or "NCCL" in str(e):
        return (f"lost another process, or never met it ({one_line(e)[:200]}); --resume, or "
                "torchrun --max-restarts, goes on from the last checkpoint")
    place = traceback.extract_tb(e.__traceback__)[-1]
    return (f"{type(e).__name__}: {one_line(e)[:300]} ({Path(place.filename).name}, line "
            f"{place.lineno}; `python -X dev` shows the whole way there)")


def guarded(function: Callable[..., Any], *args: Any) -> int:
    """Run a program; whatever ends it becomes an exit code and at most one line.

    0: success. 2: an error of the user's. 1: another. 128 + number: a signal.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal need not know every character
    if os.name == "nt" and sys.stdout.isatty():
        os.system("")  # makes its console understand colours
    try:
        signals.heed()
        function(*args)
        return 0
    except Stopped as e:
        code, said = 128 + e.number, str(e)
    except Exception as e:
        if sys.flags.dev_mode:
            traceback.print_exc()
        code, said = 2 if isinstance(e, (ValueError, OSError)) else 1, f"error: {reason(e)}"
    try:
        if first_to_fail():
            print(said, file=sys.stderr, flush=True)
    except OSError:  # a closed terminal
        pass
    return code
