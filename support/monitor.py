"""While a model is trained: the log, evaluations, what is kept, and when to stop."""
from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import tinytrm
from data.files import replacing
from support.checkpoints import read_dict, save_model, write_checkpoint
from support.console import Stopped, reason, say, signals, warn
from support.cost import CARD, dtype_name, gib, hardware, hours, memory_used
from support.folders import checkpoints
from support.processes import agree
from support.scoring import Seen, score
from support.tasks import Task
from tinytrm import State, rank_and_world

METRICS = ("loss", "answer_loss", "halting_loss", "count",
           "exact_accuracy", "cell_accuracy", "steps")
HEADER = ["step", "seconds", "lr", *METRICS, "held_out_exact"]
LONG, LOOKS = 600, 20  # seconds that make a run a long one, which is evaluated so many times
SYNC = 10  # steps; only so often are figures fetched, and the other processes asked
TIMED = 30  # steps of the first minute, see `Monitor.rehearse`


@dataclass
class Schedule:
    """When to do what."""

    save_every: int = 2000  # a checkpoint every so many steps ...
    save_minutes: float = 10  # ... and when so many minutes have passed
    save_last: int = 2  # so many checkpoints, the newest, are kept
    eval_every: int | None = None  # evaluate every so many steps; 0: never; None: see LOOKS
    milestones: int = 0  # so many copies of the averaged weights on the way
    log_seconds: float = 5  # a line of progress
    price: float = 2.5  # dollars per GPU-hour


class Monitor:
    """The on_step of `tinytrm.train`."""

    def __init__(self, out: Path, task: Task, schedule: Schedule, page: Callable | None = None):
        """page: a `report.Live`, of process 0."""
        self.out, self.task, self.config, self.schedule = out, task, task.config, schedule
        self.page = page
        steps = self.config.steps
        self.look_every = SYNC * math.ceil(steps / LOOKS / SYNC)
        if schedule.eval_every is not None:
            self.look_every = schedule.eval_every or steps + 1
        self.milestones = {steps * k // (schedule.milestones + 1)
                           for k in range(1, schedule.milestones + 1)}
        self.pending: list[Tensor] = []
        rows = read_metrics(out / "metrics.csv") if rank_and_world()[0] == 0 else []
        self.before = float(rows[-1]["seconds"]) if rows else 0.0
        self.asked = len(task.test) if task.test else 0
        kept = kept_in(out / "best.pt")
        if kept.get("asked") != self.asked:  # another sample: the figures are not to be compared
            kept = {}
        self.best, self.best_step = kept.get("held_out", -1.0), kept.get("step", 0)
        self.started = self.saved = time.time()
        self.pause, self.logged = 0.0, 0.0
        self.first_step: int | None = None
        self.since: tuple[int, float] | None = None  # step and seconds when all was warm
        self.rehearsed = False

    def __call__(self, state: State, metrics: dict[str, Tensor]) -> None:
        if self.first_step is None:
            self.first_step = state.step - 1
            if self.best_step > self.first_step:  # of a run, or a branch of it, that was given up
                self.best, self.best_step = -1.0, 0
        self.pending.append(torch.stack([metrics[name].float() for name in METRICS]))
        step, last = state.step, state.step == self.config.steps
        look = step % self.look_every == 0 or (last and self.schedule.eval_every is None)
        save = step % self.schedule.save_every == 0
        if not (step % SYNC == 0 or look or save or last or step in self.milestones
                or (signals.number and rank_and_world()[1] == 1)):
            return
        rows, held_out, seen = self.collect(state), {}, Seen() if self.page else None
        if look and self.is_worth_a_look(state):
            held_out = self.evaluate(state, seen)
        if rank_and_world()[0] == 0:
            with forgiven():
                self.log(state, rows, held_out.get("exact_accuracy", ""), last)
                if step in self.milestones:
                    self.keep(f"milestone-{step:08d}.pt", state, step=step)
            if self.page and held_out and not signals.number:
                self.draw(state, held_out, seen)
        self.save_or_stop(state, save or last, last)
        if self.since is None:
            self.since = step, self.seconds()
        elif step - self.since[0] >= TIMED and not self.rehearsed and not last:
            self.rehearse(state)

    def rehearse(self, state: State) -> None:
        """In the first minute of every run: what it will take, as measured, and a checkpoint that
        is written and read back. Raises ValueError if it does not give back the weights, OSError.
        """
        self.rehearsed, begun = True, time.time()
        write_checkpoint(self.out, state, self.schedule.save_last, **self.extra(state))
        if rank_and_world()[0] == 0:
            folder = checkpoints(self.out)[-1]
            weights = read_dict(folder / "state.pt")["weights"]
            for name, weight in weights.items():
                if not torch.equal(weight, state.model.state_dict()[name].cpu()):
                    raise ValueError(f"{folder}: does not give back {name} as it was written")
            size = sum(f.stat().st_size for f in folder.iterdir())
            left, device, world = self.left(state), state.slots.ids.device, rank_and_world()[1]
            cost = ""
            if device.type == "cuda":
                dollars = left / 3600 * world * self.schedule.price
                cost = (f", ${dollars:,.2f}; the estimate for {CARD}s was "
                        f"{hours(self.config, world):.1f} h")
            say(f"measured  {1000 / self.speed(state):.3g} ms a step, "
                f"{gib(memory_used(device))} in each process; "
                f"{timedelta(seconds=left)} left{cost}\n"
                f"          a checkpoint of {size / 1e6:.1f} MB was written and read back in "
                f"{time.time() - begun:.1f} s")
        self.saved = time.time()
        self.pause += self.saved - begun

    def seconds(self) -> float:
        """Of training, since this process began; evaluations are not training."""
        return time.time() - self.started - self.pause

    def speed(self, state: State) -> float:
        """Steps a second, without those in which things were compiled and warmed up."""
        step, then = self.since or (self.first_step or 0, 0.0)
        return max(1, state.step - step) / max(1e-9, self.seconds() - then)

    def left(self, state: State) -> int:
        """Seconds of training to come."""
        return round((self.config.steps - state.step) / self.speed(state))

    def collect(self, state: State) -> Tensor:
        """Figures (steps, METRICS) since the last time, summed over processes. Raises ValueError if
        one is not finite."""
        rows = torch.stack(self.pending)
        if rank_and_world()[1] > 1:
            dist.all_reduce(rows)
        rows = rows.cpu().double()
        bad = (~rows.isfinite().all(1)).nonzero()
        if len(bad):
            step, good = state.step - len(rows) + int(bad[0]) + 1, checkpoints(self.out)
            have = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was saved"
            raise ValueError(f"the loss became {rows[int(bad[0]), 0]} at step {step}; {have}; "
                             "try a smaller --lr, or --dtype float32")
        self.pending.clear()
        return rows

    def is_worth_a_look(self, state: State) -> bool:
        """The user's word, else: will the run take longer than ten minutes?"""
        if self.schedule.eval_every is not None:
            return True
        if self.since is None:
            return False
        return agree(self.config.steps / self.speed(state) > LONG, state.slots.ids.device)

    def evaluate(self, state: State, seen: Seen | None) -> dict:
        """The averaged weights on the held-out sample; the best are kept. Fills `seen`."""
        begun, result = time.time(), {}
        # Alone, a signal ends the evaluation here, and the training once the step is saved. Of
        # several processes the others would wait for us.
        with suppress(Stopped):
            if rank_and_world()[1] > 1:
                result = score(self.task, state.ema, copies=0, seen=seen)
            else:
                with signals.at_once(""):
                    result = score(self.task, state.ema, copies=0, seen=seen)
        right = result.get("exact_accuracy", "")
        if rank_and_world()[0] == 0 and right != "" and right > self.best:
            with forgiven():
                self.keep("best.pt", state, step=state.step, held_out=right,
                          asked=self.asked)
                self.best, self.best_step = right, state.step
        self.pause += time.time() - begun
        return result

    def keep(self, name: str, state: State, **what: float) -> None:
        """A copy of the averaged weights, to be evaluated like model.pt."""
        save_model(self.out / name, state.ema, **self.extra(state), kept=what)

    def extra(self, state: State) -> dict[str, Any]:
        """What is kept with a model."""
        return dict(self.task.extra(), trained=self.trained(state))

    def trained(self, state: State) -> dict[str, Any]:
        """How the model came about: steps, seconds, and what it ran on, one after the other."""
        device, resumed = state.slots.ids.device, getattr(state.ema, "extra", None)
        was = (resumed or {}).get("trained", {})
        earlier = was.get("hardware", [] if resumed is None else ["unknown"])
        before = max(self.before, was.get("seconds", 0.0))  # in another folder the log is new
        here, hours = hardware(device), (time.time() - self.started) / 3600
        gpus = rank_and_world()[1] if device.type == "cuda" else 0
        return dict(steps=state.step, seconds=round(before + self.seconds(), 2),
                    hardware=[*(h for h in earlier if h != here), here],
                    gpu_hours=was.get("gpu_hours", 0.0) + gpus * hours, price=self.schedule.price,
                    memory=max(was.get("memory", 0.0), round(memory_used(device) / 2**30, 2)),
                    dtype=dtype_name(self.config, device), torch=str(torch.__version__),
                    date=time.strftime("%Y-%m-%d"))

    def draw(self, state: State, held_out: dict, seen: Seen) -> None:
        """The page, of a run in progress. This is not training, either."""
        begun, left = time.time(), self.left(state)
        trained = self.trained(state)
        self.page(state.ema, held_out, seen, trained, (
            f"step {state.step:,} of {self.config.steps:,} after "
            f"{timedelta(seconds=round(trained['seconds']))} of training, about "
            f"{timedelta(seconds=left)} left"))
        self.pause += time.time() - begun

    def log(self, state: State, rows: Tensor, held_out: float | str, last: bool) -> None:
        """A row of metrics.csv; now and then a line on the screen."""
        config, seconds = self.config, self.seconds()
        count = rows[:, 3].sum().item()  # where no slot has halted, the shares are of nothing
        means = [*rows[:, :3].mean(0), rows[:, 3].sum(), *rows[:, 4:].sum(0) / (count or math.nan)]
        f = dict(zip(METRICS, (m.item() for m in means)))
        lr = config.lr * tinytrm.lr_factor(config, state.step - 1)
        with open(self.out / "metrics.csv", "a", newline="") as file:
            row = [f"{self.before + seconds:.2f}", f"{lr:.4g}", *(f"{v:.6g}" for v in f.values())]
            csv.writer(file).writerow([state.step, *row, held_out])
        if seconds - self.logged < self.schedule.log_seconds and not last and held_out == "":
            return
        self.logged, speed, left = seconds, self.speed(state), self.left(state)
        right = (f"right {f['cell_accuracy']:4.0%} of cells {f['exact_accuracy']:4.0%} of puzzles, "
                 f"in {f['steps']:4.1f} steps" if count else "no puzzle has been left yet")
        say(f"step {state.step:>{len(str(config.steps))}}/{config.steps}   loss {f['loss']:.3f}   "
            f"{right}   {speed:.1f}/s, {self.outlook(state, left)}"
            + (f"   held out {held_out:.1%}" if held_out != "" else ""))

    def outlook(self, state: State, left: int) -> str:
        """Time left, when it ends, memory, and on a GPU what it has cost so far."""
        device = state.slots.ids.device
        words = [f"{timedelta(seconds=left)} left"]
        if left > LONG:
            words.append(time.strftime("ends %a %H:%M", time.localtime(time.time() + left)))
        words.append(gib(memory_used(device)))
        if device.type == "cuda":
            words.append(f"${self.trained(state)['gpu_hours'] * self.schedule.price:.2f} so far")
        return ", ".join(words)

    def save_or_stop(self, state: State, due: bool, last: bool) -> None:
        """A checkpoint when one is due, and when a signal has come."""
        device, now = state.slots.ids.device, time.time()
        stop = agree(bool(signals.number), device)
        late = agree(now - self.saved > 60 * self.schedule.save_minutes, device)
        if due or stop or late:
            try:
                write_checkpoint(self.out, state, self.schedule.save_last, **self.extra(state))
                self.saved = time.time()
                if rank_and_world()[0] == 0 and self.saved - now > 1:
                    say(f"checkpoint at step {state.step:,} took {self.saved - now:.1f} s")
            except OSError as e:
                if last:  # then at least the result, which is smaller
                    if rank_and_world()[0] == 0:
                        with suppress(OSError):
                            save_model(self.out / "model.pt", state.ema, **self.extra(state))
                    agree(False, device)  # the others wait for it
                if last or stop:
                    raise
                self.saved = time.time()  # and not again at the next step
                if rank_and_world()[0] == 0:
                    warn(f"{e}; training goes on")
        if stop and not last:
            raise Stopped(signals.number or 15, f"stopped at step {state.step:,}, all saved; go on "
                                                "with --resume")


@contextmanager
def forgiven() -> Iterator[None]:
    """A log or a copy that cannot be written is no reason to stop."""
    try:
        yield
    except OSError as e:
        warn(f"{reason(e)}; training goes on")


def kept_in(path: Path) -> dict[str, Any]:
    """What `Monitor.keep` said of a file: step, held_out, asked. Empty if there is no such file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["extra"]["kept"]
    except Exception:  # none there, or of another version: a dozen kinds of error
        return {}


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, without those that were cut off."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [r for r in csv.DictReader(file) if list(r) == HEADER and r["step"].isdigit()
                and None not in r.values()]


def start_metrics(path: Path, step: int) -> None:
    """A new metrics.csv, or the old one without the rows after this step."""
    rows = [r for r in read_metrics(path) if int(r["step"]) <= step] if step else []
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, HEADER)
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
