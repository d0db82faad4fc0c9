"""Run folders: which of the files in one are ours, and how no run harms another.

    model.pt             averaged weights at the end; best.pt: where the evaluations were best
    milestone-STEP.pt    averaged weights on the way (--milestones)
    metrics.csv          the log
    report.html          a page to look at (--html)
    checkpoint-STEP/     all that is needed to go on (checkpoints.py)
    .lock                held, not only there, while a run is in the folder
    .replaced/           the run that --overwrite replaces, until the new one has saved something

Everything else in it is the user's and left alone.
"""
from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from support.console import warn
from support.processes import from_rank_0, restarted

REPLACED = ".replaced"
PAGE_FILE = "report.html"
_OURS = re.compile(rf"model\.pt|best\.pt|milestone-\d{{8}}\.pt|metrics\.csv|{re.escape(PAGE_FILE)}")


def is_checkpoint(path: Path) -> bool:
    """Eight digits, a manifest, no link: made by us."""
    return (re.fullmatch(r"checkpoint-\d{8}", path.name) is not None and not path.is_symlink()
            and (path / "manifest.json").is_file())


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    return sorted(filter(is_checkpoint, out.glob("checkpoint-*")))


def unfinished(checkpoint: Path) -> Path:
    """What a checkpoint is called while it is written, or removed."""
    return checkpoint.with_name(f".{checkpoint.name}.tmp")


def is_used(out: Path) -> bool:
    """Is there anything in this folder but a lock that nobody holds?"""
    return out.is_dir() and any(p.name != ".lock" for p in out.iterdir())


def check_folder(out: Path, given: bool, resume: str | bool | None, overwrite: bool
                 ) -> Path | None:
    """The checkpoint to go on from, if any. Raises ValueError or OSError where a run must not
    begin. Changes nothing on the disk.

    given: the user named the folder; resume: True, "auto" or the path of a checkpoint.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; name a folder")
    found = checkpoints(out)
    named = None if resume in (None, True, "auto") else Path(str(resume))
    start = found[-1] if found and (resume in (True, "auto") or is_restart(out)) else None
    if is_restart(out):  # where nothing was saved before, from where it was to begin
        early = named and is_checkpoint(named) and not (start and start.name >= named.name)
        return named if early else start
    if resume is True and not found:
        raise FileNotFoundError(f"--resume: there is no checkpoint in {out}")
    if named:
        start = named
        if not is_checkpoint(start):
            raise FileNotFoundError(f"--resume {resume}: is no checkpoint folder")
    if overwrite:
        return start
    if start and start.resolve().parent != out.resolve() and is_used(out):
        raise ValueError(f"--out {out}: {start} is no checkpoint of the run in there; --resume "
                         "without it goes on with that run, --overwrite replaces it, or name "
                         "another folder by --out")
    if start and found and found[-1].name > start.name:
        raise ValueError(f"{found[-1]} is newer than {start}; give another --out, or --overwrite "
                         "to go back for good")
    if resume == "auto" and not found and (out / "model.pt").exists():
        raise ValueError(f"{out} holds a model but no checkpoint to go on from; give another "
                         "--out, or --overwrite")
    if given and not resume and is_used(out):
        raise ValueError(f"--out {out}: there is something in it; --resume goes on with a run, "
                         "--overwrite replaces it, or name another folder")
    return start


@contextmanager
def entered(out: Path, given: bool, start: Path | None, overwrite: bool) -> Iterator[str]:
    """Have the folder for oneself, made ready, after `check_folder`. Gives a line for the log, or
    "", in all processes; they wait for process 0, and fail with it. Raises ValueError, OSError."""
    with ExitStack() as stack:
        yield from_rank_0(_enter, stack, out, given, start, overwrite)


def _enter(stack: ExitStack, out: Path, given: bool, start: Path | None, overwrite: bool) -> str:
    """The part of process 0, which holds the lock until the stack is closed."""
    said, again = "", is_restart(out)
    if not (given or start or overwrite or again) and is_used(out):
        with locked(out):  # nobody is at work there
            pass
        aside = next(p for k in range(1, 10**6) if not (p := Path(f"{out}-{k}")).exists())
        out.rename(aside)
        said = f"moved     the run that was here is now in {aside}\n"
    out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(out))
    found, elsewhere = checkpoints(out), start and start.resolve().parent != out.resolve()
    if found and not (overwrite or elsewhere) and (not start or found[-1].name > start.name):
        try:  # a restart is not to take that run for ours
            (out / ".lock").unlink()
        except PermissionError:  # Windows, where we have it open
            (out / ".lock").write_text("")
        raise ValueError(f"{out}: another run has saved {found[-1].name} there meanwhile; begin "
                         "again")
    if overwrite and not again:
        said = _replace(out, start)
    for half in out.glob(unfinished(Path("checkpoint-????????")).name):
        if not half.is_symlink():
            shutil.rmtree(half, ignore_errors=True)  # what is open elsewhere harms nothing
    return said


def _replace(out: Path, start: Path | None) -> str:
    """Put our own files aside; of the run that is to go on from `start`, what is newer."""
    found = checkpoints(out)
    first = start.name if start and start.resolve().parent == out.resolve() else ""
    old = [c for c in found if c.name > first]
    if not first:
        old += [p for p in out.glob("*") if _OURS.fullmatch(p.name) and not p.is_symlink()]
    if not old or ((out / REPLACED).exists() and not found):
        return ""  # nothing there, or the run that replaced it never came to save anything
    shutil.rmtree(out / REPLACED, ignore_errors=True)
    (out / REPLACED).mkdir()
    for path in old:
        path.rename(out / REPLACED / path.name)
    return f"replaced  what was here is in {out / REPLACED} until the first checkpoint\n"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder. The lock ends with the process, however that ends. Raises ValueError."""
    try:
        import fcntl
    except ImportError:  # Windows, where a file that somebody has open cannot be removed
        try:
            (out / ".lock").unlink(missing_ok=True)
        except PermissionError:
            raise ValueError(f"{out}: another run is at work in this folder") from None
        with open(out / ".lock", "w") as file:
            file.write(_me())  # for `is_restart`
            file.flush()
            yield
        with suppress(PermissionError):  # a scanner
            (out / ".lock").unlink(missing_ok=True)
        return
    with open(out / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{out}: another run is at work in this folder") from None
        except OSError as e:
            warn(f"{out}: its file system has no locks ({e.strerror}), so that nothing keeps a "
                 "second run out")
        file.seek(0)
        if file.read() != _me():  # else a full disk could take what `is_restart` has to find
            file.truncate(0)
            file.write(_me())
            file.flush()
        yield
        (out / ".lock").unlink(missing_ok=True)  # not after an error: torchrun may restart us


def is_restart(out: Path) -> bool:
    """Has torchrun restarted us, after it was we who were at work in this folder?"""
    lock = out / ".lock"
    return restarted() and lock.is_file() and lock.read_text() == _me()


def _me() -> str:
    """Who is at work: torchrun, the parent, is the same before and after it restarts us."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    # In a virtual environment on Windows the parent is a launcher, a new one at each restart.
    parent = 0 if os.name == "nt" and run not in ("", "none") else os.getppid()
    return f"{socket.gethostname()} {parent} {run}"
