"""Checkpoints: a folder that appears whole or not at all, from which training goes on as if it had
never stopped."""
from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import tinytrm
from data.files import patiently, sha256
from support.folders import REPLACED, checkpoints, unfinished
from support.processes import first_said
from tinytrm import TRM, State, rank_and_world

MAY_CHANGE = ("steps", "micro_batch", "eval_steps")  # of Config, from part to part
# These, too, as after a NaN one must, or for another number of steps; the log names them.
MAY_MEND = ("lr", "puzzle_lr", "dtype", "two_step_phase")
# Entries of Task.about, which may not, and what it is where a checkpoint does not say.
SAME_DATA = dict(kind=None, sha256=None, split=None, augmented=None, hints=0.0)


def write_checkpoint(out: Path, state: State, last: int = 2, **extra: Any) -> None:
    """Write out/checkpoint-STEP with all that `State` holds; then all but the newest `last` go.

    model.pt: config, averaged weights, puzzle table and `extra`. state.pt: weights, optimizer,
    step. carry-RANK.pt: the slots of one process. manifest.json: their SHA-256. Raises OSError in
    all processes when one of them fails, and ValueError when the weights are not finite.
    """
    models = [*state.model.parameters(), *state.ema.parameters()]
    if not all(bool(p.isfinite().all()) for p in models):
        good = checkpoints(out)
        raise ValueError(f"the weights are not finite at step {state.step}, so they are not saved; "
                         f"the last good checkpoint is {good[-1] if good else 'none'}")
    rank, world = rank_and_world()
    final = out / f"checkpoint-{state.step:08d}"
    folder = unfinished(final)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            save_model(folder / "model.pt", state.ema, **extra)
            weights = {k: v for k, v in state.model.state_dict().items() if k != "puzzle_table"}
            write_synced(folder / "state.pt", dict(weights=weights, step=state.step,
                                                   optimizer=state.optimizer.state_dict()))
        write_synced(folder / f"carry-{rank}.pt", dict(vars(state.slots)))

    def publish() -> None:
        files = {f.name: sha256(f) for f in sorted(folder.glob("*.pt"))}
        write_synced(folder / "manifest.json", dict(step=state.step, world=world, files=files))
        found = checkpoints(out)
        if final in found:
            shutil.rmtree(final)
        patiently(os.replace, folder, final)
        getattr(os, "sync", lambda: None)()  # not on Windows
        older = [c for c in found if c.name < final.name]
        for old in older[:max(0, len(older) + 1 - last)]:
            discard(old)
        shutil.rmtree(out / REPLACED, ignore_errors=True)

    together(write, final, folder)
    together(publish if rank == 0 else lambda: None, final, folder)


def discard(folder: Path) -> None:
    """Remove a checkpoint, as far as the disk allows; never leave a half that looks whole. The next
    run in the folder tries again."""
    half = unfinished(folder)
    with suppress(OSError):  # a file that is open elsewhere: on NFS, on Windows
        folder.rename(half)
    shutil.rmtree(half, ignore_errors=True)


def together(part: Callable[[], None], final: Path, folder: Path) -> None:
    """Do this process's part; OSError in all processes if any of them fails."""
    mine = ""
    try:
        part()
    except (OSError, RuntimeError) as e:
        mine = why(e)
    if problem := first_said(mine):
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"could not save {final}: {problem}; older checkpoints are untouched")


def why(e: Exception) -> str:
    """What a failure to write was, in a few words."""
    return getattr(e, "strerror", None) or (str(e).splitlines() or [type(e).__name__])[0]


def write_synced(path: Path, content: dict) -> None:
    """Write a dict, as JSON or by torch.save, and wait until it is on the disk."""
    with open(path, "wb") as file:
        if path.suffix == ".json":
            file.write(json.dumps(content, indent=1).encode())
        else:
            torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def save_model(path: Path, model: TRM, **extra: Any) -> None:
    """`tinytrm.save`, and wait until it is on the disk; where it fails, what was there before
    stays, and nothing else. Raises OSError."""
    new = Path(f"{path}.new")
    try:
        patiently(tinytrm.save, new, model, **extra)
        with open(new, "rb+") as file:
            os.fsync(file.fileno())  # else the name may be there before the content, without power
        patiently(os.replace, new, path)
    except (OSError, RuntimeError) as e:  # torch raises RuntimeError when the disk is full
        raise OSError(f"{path}: could not be saved: {why(e)}") from None
    finally:
        for half in new, Path(f"{new}.tmp"):
            half.unlink(missing_ok=True)


def load_model(path: Path) -> TRM:
    """`tinytrm.load` of a run folder, a checkpoint or a file. Raises OSError, ValueError."""
    file = path / "model.pt" if path.is_dir() else path
    if not file.is_file():
        found = checkpoints(path)
        raise FileNotFoundError(f"{file}: no such model" + (
            f"; the run has not ended, but there is {found[-1]}" if found else ""))
    try:
        model = tinytrm.load(file)
    except Exception as e:  # a torn zip, a refused pickle, foreign content: a dozen kinds of error
        raise ValueError(f"{file}: not a usable model: {' '.join(str(e).split())[:200]}") from None
    finite = all(bool(t.isfinite().all()) for t in model.state_dict().values())
    if not finite or zipfile.ZipFile(file).testzip():  # compares checksums; torch.load does not
        raise ValueError(f"{file}: not a usable model: its weights are damaged")
    return model


def about_of(model: TRM) -> dict[str, Any]:
    """What a loaded model says of the puzzles it was trained on; empty if it says nothing, or if
    another program than train.py put something of its own there."""
    about = getattr(model, "extra", {}).get("about")
    return about if isinstance(about, dict) and "kind" in about else {}


def read_dict(path: Path) -> dict:
    """A dict made by torch.save; no code in the file is executed. Raises OSError, ValueError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Exception as e:  # a torn zip or a refused pickle raises a dozen kinds of error
        raise ValueError(f"{path}: not a readable file of weights ({type(e).__name__})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no weights by name, but a {type(content).__name__}")
    return content


def read_checkpoint(folder: Path, state: State, about: dict | None = None) -> str:
    """Put a checkpoint into `state`, all or nothing; returns a remark for the log.

    about: the data to go on with. Raises ValueError if a file is damaged or missing, or belongs to
    another config or other data.
    """
    rank, world = rank_and_world()
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        then, files = manifest["world"], manifest["files"]
        carries = [f"carry-{r}.pt" for r in range(then)]
        for name in ["model.pt", "state.pt", *carries]:
            if sha256(folder / name) != files[name]:
                raise ValueError(f"{name} is damaged")
        ema, rest = tinytrm.load(folder / "model.pt"), read_dict(folder / "state.pt")
        weights, optimizer, step = rest["weights"], rest["optimizer"], rest["step"]
        carry = read_dict(folder / carries[rank]) if then == world else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as e:
        older = [c for c in checkpoints(folder.parent) if c.name < folder.name]
        hint = f"; go back by --overwrite --resume {older[-1]}" if older else ""
        said = f"no {e} in it" if isinstance(e, KeyError) else why(e)
        raise ValueError(f"{folder}: not a usable checkpoint ({said}){hint}") from None
    ours, theirs = dataclasses.asdict(state.model.config), dataclasses.asdict(ema.config)
    differ = {k: f"{k} {theirs[k]} -> {ours[k]}" for k in ours if ours[k] != theirs[k]}
    if wrong := [said for k, said in differ.items() if k not in MAY_CHANGE + MAY_MEND]:
        raise ValueError(f"{folder}: made with another config ({', '.join(wrong)}); give the same "
                         "flags, or another --out")
    was = about_of(ema)
    if about and was and any(about.get(k, v) != was.get(k, v) for k, v in SAME_DATA.items()):
        raise ValueError(f"{folder}: trained on other puzzles ({was.get('data')}) than these "
                         f"({about.get('data')}), or with other hints or --augment_mazes; give the "
                         "same flags, or another --out")
    if step > state.model.config.steps:
        raise ValueError(f"{folder}: is at step {step:,}, beyond --steps "
                         f"{state.model.config.steps}")
    state.ema.load_state_dict(ema.state_dict())  # the puzzle table is shared, so this fills both
    state.model.load_state_dict(weights, strict=False)
    state.optimizer.load_state_dict(optimizer)
    state.step, state.ema.extra = step, ema.extra  # the latter says how it was trained
    remark = "".join(f", {differ[k]}" for k in MAY_MEND if k in differ)
    if carry is None:
        return f"{remark}, by {then} processes: the puzzles in thought start anew"
    # As here, device and dtype: the forward pass computes in that of y.
    state.slots = SimpleNamespace(**{k: v.to(getattr(state.slots, k)) for k, v in carry.items()})
    return remark
