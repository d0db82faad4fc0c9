"""Everything that a long run does, once and in a minute or two, before money is spent on it.

Real steps on the real puzzles, a checkpoint, the resumption from it, a batch of the evaluation and,
where torchrun may restart processes, one that is lost. Then what was measured, what that means for
the whole run, and a verdict.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from support.checkpoints import read_checkpoint, write_checkpoint
from support.console import say
from support.cost import CARD, describe_device, gib, hours, memory_used, timed_step
from support.folders import checkpoints
from support.monitor import LONG, LOOKS, SYNC, Schedule
from support.processes import agree, restarted
from support.scoring import score
from support.tasks import Task, sample
from tinytrm import Config, State, rank_and_world

WARM, STEPS, AGAIN = 5, 30, 3  # steps to warm up, to time, to do after the checkpoint
NOTES = "rehearsal.json"


def rehearse(task: Task, state: State, out: Path, schedule: Schedule) -> None:
    """Do all that in a folder beside `out`, which goes again; print what it means.

    Raises ValueError if the verdict is bad, or the run too short to be rehearsed.
    """
    if task.config.steps < WARM + STEPS:
        raise ValueError(f"--rehearse makes {WARM + STEPS} steps, and --steps says "
                         f"{task.config.steps}: there is nothing to rehearse")
    folder = out.parent / f".{out.name}.trial"
    try:
        lost, notes = perform(task, state, folder)
    except BaseException:
        if not may_restart():  # else we go on from what is in it
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if rank_and_world()[0] == 0:
        shutil.rmtree(folder)
        report(task, notes, schedule, lost, state.slots.ids.device)


class Checked:
    """Puzzles that are checked once, as a run does, and not again at each of the timed steps."""

    def __init__(self, puzzles: Any, config: Config):
        puzzles.check(config)
        self.draw = puzzles.draw

    def check(self, config: Config) -> None:
        """They have been."""


def may_restart() -> bool:
    """Will torchrun start us anew if one of us is lost?"""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0


def perform(task: Task, state: State, folder: Path) -> tuple[str, dict[str, Any]]:
    """What became of the process that was to be lost, and what was measured."""
    (rank, world), device = rank_and_world(), state.slots.ids.device
    puzzles: Any = Checked(task.train, task.config)
    loses_one = world > 1 and may_restart()
    if restarted() and checkpoints(folder):
        notes = json.loads((folder / NOTES).read_text())
    else:
        notes = first_half(task, state, puzzles, folder)
        if loses_one:
            if rank == 0:
                say(f"          process {world - 1} is killed now, on purpose")
            agree(False, device)  # all notes are taken
            if rank == world - 1:
                os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(AGAIN):
        timed_step(state, puzzles)
    read_checkpoint(checkpoints(folder)[-1], state, task.about)
    notes["same"] = digest(state) == notes["weights"]
    timed_step(state, puzzles)
    begun, some = time.time(), dataclasses.replace(task)
    if task.test:
        some.test = sample(task.test, 256 * world)
    if device.type == "cuda":  # the first is compiled, and not counted
        score(some, state.ema, copies=0)
        begun = time.time()
    score(some, state.ema, copies=0)
    share = len(some.test) / len(task.test) if task.test else 1.0
    notes.update(look=(time.time() - begun) / share, memory=memory_used(device))
    agree(False, device)  # all have done with the folder
    if restarted():
        return "one process was killed; all were restarted, and went on from the checkpoint", notes
    if world > 1:
        return "not tried; start this by torchrun --max-restarts=1", notes
    return "there is only one process", notes


def digest(state: State) -> str:
    """SHA-256 of the weights."""
    parts = (p.detach().cpu().numpy().tobytes() for p in state.model.parameters())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def first_half(task: Task, state: State, puzzles: Any, folder: Path) -> dict[str, Any]:
    """Steps and a checkpoint; what was measured."""
    rank, device = rank_and_world()[0], state.slots.ids.device
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    agree(False, device)  # the folder is there, and empty
    times = [timed_step(state, puzzles) for _ in range(WARM + STEPS)]
    begun = time.time()
    write_checkpoint(folder, state, **task.extra())
    sizes = {f.name: f.stat().st_size for f in checkpoints(folder)[-1].iterdir()}
    notes = dict(step=median(times[WARM:]), warm=sum(times[:WARM]), save=time.time() - begun,
                 size=sum(sizes.values()), model=sizes["model.pt"],
                 free=shutil.disk_usage(folder).free, weights=digest(state))
    if rank == 0:
        (folder / NOTES).write_text(json.dumps(notes))
    return notes


def report(task: Task, notes: dict[str, Any], schedule: Schedule, lost: str, device: torch.device
           ) -> None:
    """Print it all. Raises ValueError for what must not be."""
    world = rank_and_world()[1]
    config, step, price = task.config, notes["step"], schedule.price
    training = config.steps * step
    looks = LOOKS if training > LONG else 1.0
    if schedule.eval_every is not None:
        looks = config.steps / schedule.eval_every if schedule.eval_every else 1.0
    saves = config.steps / schedule.save_every
    saves += training / max(60 * schedule.save_minutes, SYNC * step)
    total = (notes["warm"] + training + looks * notes["look"] + saves * notes["save"]) / 3600
    eager, compiled = hours(config, world)
    on, dollars = f"{world} x {describe_device(device)}", ""
    if device.type == "cuda":
        on, dollars = f"{on} at ${price:g} an hour each", f", ${total * world * price:,.2f}"
    say(f"measured  {1000 * step:.3g} ms a step, {gib(notes['memory'], 2)} in each process; a "
        f"checkpoint {notes['size'] / 1e6:.1f} MB in {notes['save']:.1f} s; an evaluation "
        f"{notes['look']:.1f} s\n"
        f"whole run {total:.2f} hours{dollars} on {on}, evaluations and checkpoints included\n"
        f"dry run   {compiled:.2f} hours compiled, {eager:.2f} eager, on {world} x {CARD}: an "
        "estimate\n"
        f"lost one  {lost}")
    # Checkpoints and one more in the making; best, milestones, and one of these in the making.
    need = (schedule.save_last + 1) * notes["size"] + (2 + schedule.milestones) * notes["model"]
    problems = []
    # Several processes look for a signal every SYNC steps, and not during an evaluation, which may
    # come before the checkpoint; that at the end is broken off.
    looked = training > LONG if schedule.eval_every is None else schedule.eval_every > 0
    needs = notes["save"] + SYNC * step + (notes["look"] if looked else 0)
    if world > 1 and needs > 20:
        say("remark    torchrun kills its processes 30 s after a signal, and until all is saved it "
            f"can take {needs:.0f} s: start it with --shutdown-timeout=300")
    if not notes["same"]:
        problems.append("the checkpoint does not give back the weights")
    if notes["free"] < need:
        problems.append(f"the disk has {notes['free'] / 1e9:.1f} GB left, the run needs "
                        f"{need / 1e9:.1f}")
    if notes["save"] > 15 * schedule.save_minutes:
        problems.append("a quarter of the time would go into checkpoints: raise --save_minutes")
    if device.type == "cuda":
        have = torch.cuda.get_device_properties(device).total_memory / 2**30
        full = torch.cuda.max_memory_reserved(device) / 2**30  # with what is kept for later
        if full > 0.95 * have:
            problems.append(f"{full:.0f} of {have:.0f} GiB are full: lower --micro_batch")
    if not math.isfinite(total):
        problems.append("a step takes no time that could be measured")
    if problems:
        raise ValueError("not ready: " + "; ".join(problems))
    say("verdict   ready: all of it worked")
