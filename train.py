"""Train a Tiny Recursive Model.

    python train.py                                     # 6x6 Sudoku on a laptop: two minutes
    python train.py --preset sudoku                     # the paper's model on Sudoku-Extreme
    python train.py --preset sudoku9 --data my.csv      # your own puzzles, source,question,answer
    torchrun --nproc_per_node=4 train.py --preset arc1  # four GPUs compute the same as one
    python train.py --preset sudoku --resume            # go on where it stopped
    python train.py --preset arc1 --dry-run             # parameters, FLOPs, hours, dollars

The method is in tinytrm.py. Here is what surrounds it: the command line, the data of each preset,
the log (`metrics.csv`), and checkpoints that lose no step. A run folder holds `model.pt` (averaged
weights, for evaluate.py) once training has ended, and `checkpoint-STEP/` folders until then.
"""
from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import inspect
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import tinytrm
from data.tasks import Task, open_task
from evaluate import score, describe
from tinytrm import METRICS, PRESETS, Config, State, compute_dtype, ranks

# ------------------------------------------------------------------------------------------------
# The command line: every field of Config is a flag


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        self.exit(2, f"error: {message} (try {self.prog} -h)\n")


def field_help() -> dict[str, str]:
    """The comment behind each field of Config, which is also its help text."""
    return dict(re.findall(r"^    (\w+): \w+ = .*?  # (.*)$", inspect.getsource(Config), re.M))


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """The flags and the Config they make: the preset's, with the given fields replaced."""
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", default="sudoku6", choices=PRESETS, help="where the settings start from")
    p.add_argument("--data", type=Path, help="a folder with train.csv and test.csv, or one CSV to split")
    p.add_argument("--out", type=Path, help="run folder (default runs/PRESET)")
    p.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    p.add_argument("--resume", nargs="?", const=True, metavar="CHECKPOINT",
                   help="go on from the newest checkpoint of the run folder, or from this one")
    p.add_argument("--save_every", type=int, default=2000, metavar="STEPS", help="checkpoint every so many steps ...")
    p.add_argument("--save_minutes", type=float, default=10, metavar="MIN", help="... or minutes, whichever is first")
    p.add_argument("--eval_every", type=int, default=0, metavar="STEPS", help="evaluate while training (0: at the end)")
    p.add_argument("--eval_puzzles", type=int, default=1000, metavar="N", help="held-out puzzles to evaluate on")
    p.add_argument("--eval_copies", type=int, default=8, metavar="N", help="ARC: augmented copies that vote at the end")
    p.add_argument("--log_seconds", type=float, default=5, metavar="S", help="a line of progress every so often")
    g = p.add_argument_group("estimate")
    g.add_argument("--dry-run", action="store_true", help="print sizes, FLOPs, hours and dollars; train nothing")
    g.add_argument("--gpus", type=int, default=4)
    g.add_argument("--peak_tflops", type=float, default=989, help="of one GPU (default: H100, dense bfloat16)")
    g.add_argument("--utilisation", type=float, default=0.25, help="share of that peak")
    g.add_argument("--price", type=float, default=2.5, help="dollars per GPU-hour")
    g = p.add_argument_group("configuration (defaults: the preset's)")
    help_of = field_help()
    for f in dataclasses.fields(Config):
        kind = type(f.default)
        how = dict(action=argparse.BooleanOptionalAction) if kind is bool else dict(type=kind, metavar=kind.__name__)
        g.add_argument(f"--{f.name}", default=None, help=help_of[f.name], **how)
    args = p.parse_args(argv)
    given = {f.name: v for f in dataclasses.fields(Config) if (v := getattr(args, f.name)) is not None}
    args.out = args.out or Path("runs") / args.preset
    for name in ("save_every", "save_minutes", "eval_puzzles", "gpus", "peak_tflops", "utilisation", "log_seconds"):
        if not getattr(args, name) > 0:
            p.error(f"--{name} must be above 0, not {getattr(args, name)}")
    return args, dataclasses.replace(PRESETS[args.preset], **given)


# ------------------------------------------------------------------------------------------------
# What a run costs


def flops_per_step(config: Config) -> float:
    """Matrix-multiply FLOPs of one optimizer step: forward calls + 2 x the calls with gradient."""
    L, D, inner = config.length, config.dim, config.inner
    if config.mixer == "mlp":
        mix = 2 * D * 3 * L * inner(L)
    else:
        mix = 2 * L * 4 * D * D + 4 * L * L * D
    net = config.layers * (mix + 2 * L * 3 * D * inner(D))
    heads = 2 * config.seq_len * D * config.vocab_size
    with_gradient = config.n + 1
    return config.batch_size * (net * (config.T * with_gradient + 2 * with_gradient) + 3 * heads)


def dry_run(args: argparse.Namespace, config: Config) -> None:
    """Print parameters, FLOPs, steps, hours and dollars."""
    with torch.device("meta"):
        network = sum(p.numel() for p in tinytrm.TRM(dataclasses.replace(config, num_puzzles=0)).parameters())
    step = flops_per_step(config)
    hours = step * config.steps / (args.gpus * args.peak_tflops * 1e12 * args.utilisation) / 3600
    print(f"parameters      {network:,} in the network, {network + config.num_puzzles * config.dim:,} with the "
          f"{config.num_puzzles:,}-row puzzle table")
    print(f"FLOPs           {step:.3g} a step ({config.batch_size} puzzles, {config.T * (config.n + 1)} network calls, "
          f"{config.n + 1} with gradient)")
    print(f"steps           {config.steps:,}: {step * config.steps:.3g} FLOPs in all")
    print(f"estimate        {hours:.1f} hours on {args.gpus} GPUs at {args.utilisation:.0%} of {args.peak_tflops:g} TFLOP/s, "
          f"${hours * args.gpus * args.price:,.0f} at ${args.price:g} per GPU-hour")


# ------------------------------------------------------------------------------------------------
# Checkpoints: a folder that appears whole or not at all


def write_checkpoint(out: Path, state: State) -> None:
    """Write out/checkpoint-STEP with all that `State` holds; then remove all but the previous one.

    model.pt: config, averaged weights, puzzle table. state.pt: weights, optimizer, step.
    carry-RANK.pt: the slots of one process. manifest.json: their SHA-256.
    """
    rank, world = ranks()
    final = out / f"checkpoint-{state.step:08d}"
    folder = out / f".{final.name}.tmp"
    problem = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            tinytrm.save(folder / "model.pt", state.ema, step=state.step)
            weights = {k: v for k, v in state.model.state_dict().items() if k != "puzzle_table"}
            write_synced(folder / "state.pt", dict(weights=weights, optimizer=state.optimizer.state_dict(), step=state.step))
        write_synced(folder / f"carry-{rank}.pt", dict(vars(state.carry)))
    except OSError as e:
        problem = f"{e.strerror or e}"
    if agree(bool(problem), state.model.device):
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"could not save {final}: {problem or 'another process failed'}; older checkpoints are untouched")
    if rank == 0:
        files = {f.name: sha256(f) for f in sorted(folder.glob("*.pt"))}
        (folder / "manifest.json").write_text(json.dumps(dict(step=state.step, world=world, files=files), indent=1))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(folder, final)
        os.sync()
        for old in checkpoints(out)[:-2]:
            shutil.rmtree(old)
    if world > 1:
        dist.barrier()


def write_synced(path: Path, content: dict) -> None:
    with open(path, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def agree(flag: bool, device) -> bool:
    """True everywhere if it is true in any process."""
    if ranks()[1] == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return votes.item() > 0


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    return sorted(out.glob("checkpoint-*"))


def read_checkpoint(folder: Path, state: State) -> str:
    """Put a checkpoint into `state`; returns a remark for the log. Raises OSError or ValueError."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, digest in manifest["files"].items():
            if sha256(folder / name) != digest:
                raise ValueError(f"{name} is damaged")
        ema = tinytrm.load(folder / "model.pt")
        rest = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError) as e:
        older = [c for c in checkpoints(folder.parent) if c.name < folder.name]
        hint = f"; the one before it: --resume {older[-1]}" if older else ""
        raise ValueError(f"{folder}: not a usable checkpoint ({e}){hint}") from None
    ours, theirs = dataclasses.asdict(state.model.config), dataclasses.asdict(ema.config)
    differ = [f"{k} {theirs[k]} -> {ours[k]}" for k in ours if ours[k] != theirs[k] and k not in ("steps", "micro_batch")]
    if differ:
        raise ValueError(f"{folder}: made with another config ({', '.join(differ)}); give the same flags, or another --out")
    state.ema.load_state_dict(ema.state_dict())  # the puzzle table is shared, so this fills both
    state.model.load_state_dict(rest["weights"], strict=False)
    state.optimizer.load_state_dict(rest["optimizer"])
    state.step = rest["step"]
    if manifest["world"] != ranks()[1]:
        return f", by {manifest['world']} processes: the puzzles in thought start anew"
    carry = torch.load(folder / f"carry-{ranks()[0]}.pt", map_location=state.model.device, weights_only=True)
    state.carry = tinytrm.Carry(**carry)
    return ""


# ------------------------------------------------------------------------------------------------
# What happens after each step: log, evaluate, save, stop


class Monitor:
    """The on_step of `train`. Waits for the device, and talks to other processes, every 10 steps only."""

    SYNC = 10

    def __init__(self, args: argparse.Namespace, task: Task):
        self.args, self.task, self.config = args, task, task.config
        self.pending, self.stop = [], 0
        self.started = self.saved_at = time.time()
        self.logged = 0.0
        self.first_step = None
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self.on_signal)

    def on_signal(self, number, frame):
        self.stop = number

    def __call__(self, state: State, metrics: torch.Tensor) -> None:
        if self.first_step is None:
            self.first_step = state.step - 1
        self.pending.append(metrics)
        last = state.step == self.config.steps
        if state.step % self.SYNC == 0 or last or (self.stop and ranks()[1] == 1):
            rows = self.collect(state)
            every = self.args.eval_every
            held_out = score(self.task, state.ema, copies=0) if every and state.step % every == 0 and not last else {}
            if ranks()[0] == 0:
                self.log(state, rows, held_out.get("exact_accuracy", ""), last)
            self.save_or_stop(state, last)

    def collect(self, state: State) -> torch.Tensor:
        """Bring the figures of the last steps to the host, summed over processes."""
        rows = torch.stack(self.pending)
        if ranks()[1] > 1:
            dist.all_reduce(rows)
        rows = rows.cpu().double()
        bad = (~rows.isfinite().all(1)).nonzero()
        if len(bad):
            step = state.step - len(rows) + int(bad[0]) + 1
            good = checkpoints(self.args.out)
            raise ValueError(f"the loss became {rows[int(bad[0]), 0]} at step {step}; "
                             + (f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet")
                             + "; try a smaller --lr or --dtype float32")
        self.pending.clear()
        return rows

    def log(self, state: State, rows: torch.Tensor, held_out: float | str, last: bool) -> None:
        """A row of metrics.csv; now and then a line on the screen."""
        config, seconds = self.config, time.time() - self.started
        count = rows[:, 3].sum().item()
        f = dict(zip(METRICS, [*rows[:, :3].mean(0).tolist(), count, *(rows[:, 4:].sum(0) / max(1, count)).tolist()]))
        lr = config.lr * tinytrm.learning_rate(config, state.step - 1)
        with open(self.args.out / "metrics.csv", "a", newline="") as file:
            csv.writer(file).writerow([state.step, f"{seconds:.2f}", f"{lr:.4g}", *(f"{v:.6g}" for v in f.values()), held_out])
        if seconds - self.logged >= self.args.log_seconds or last or held_out != "":
            speed = (state.step - self.first_step) / seconds
            left = timedelta(seconds=round((config.steps - state.step) / speed))
            print(f"step {state.step:>{len(str(config.steps))}}/{config.steps}  loss {f['loss']:.3f}  just finished: {f['cell_accuracy']:4.0%} of cells, "
                  f"{f['exact_accuracy']:4.0%} of puzzles in {f['steps']:4.1f} steps   {speed:.2f} steps/s, {left} left"
                  + (f"   held out: {held_out:.1%}" if held_out != "" else ""), flush=True)
            self.logged = seconds

    def save_or_stop(self, state: State, last: bool) -> None:
        device, args = state.model.device, self.args
        stop = agree(bool(self.stop), device)
        due = time.time() - self.saved_at > 60 * args.save_minutes and ranks()[0] == 0
        if last or stop or state.step // args.save_every > (state.step - self.SYNC) // args.save_every or agree(due, device):
            begun = time.time()
            try:
                write_checkpoint(args.out, state)
                if ranks()[0] == 0 and time.time() - begun > 1:
                    print(f"checkpoint at step {state.step:,} saved in {time.time() - begun:.1f} s", flush=True)
            except OSError as e:
                if last or stop:
                    raise
                print(f"warning: {e}; training goes on", file=sys.stderr, flush=True)
            self.saved_at = time.time()
        if stop and not last:
            raise Stopped(self.stop or signal.SIGTERM, f"stopped at step {state.step:,}; go on with --resume")


class Stopped(Exception):
    """A signal asked for the end; all is saved. args: signal number, message."""


# ------------------------------------------------------------------------------------------------
# The run


def choose_device(name: str | None) -> torch.device:
    """The device asked for, or the best there is; under torchrun each process its own GPU."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise ValueError(f"--device {name}: not available on this machine") from None
    return torch.device(name)


def show(task: Task, model: tinytrm.TRM, among: int = 50) -> None:
    """Print the held-out puzzle that takes the most steps to solve, among the first few, as it is thought through."""
    test = task.test
    inputs = torch.from_numpy(test.inputs[:among].astype(np.int64)).to(model.device)
    steps = [(a.cpu().numpy(), q.cpu().numpy()) for a, q, _ in tinytrm.think(model, inputs, torch.zeros_like(inputs[:, 0]))]
    wrong = np.array([(a != test.labels[:among]).sum(1) for a, _ in steps])  # (steps, puzzles)
    needed = np.where((wrong == 0).any(0), (wrong == 0).argmax(0), -1)  # first step that is right
    i = int(needed.argmax())
    print("\nA puzzle it has never seen, thought through:\n")
    pictures = []
    for k in range(needed[i] + 1 if needed[i] >= 0 else len(steps)):
        answers, q = steps[k]
        title = f"step {k + 1}: {wrong[k, i]} wrong" if wrong[k, i] else f"step {k + 1}: solved"
        pictures.append(f"{title}\n{task.render(test.inputs[i], answers[i], test.labels[i], sys.stdout.isatty())}".splitlines())
    print(beside(pictures))


def beside(pictures: list[list[str]], columns: int = 80) -> str:
    """Pictures, as lists of lines, side by side in as many rows as the width of the terminal needs."""
    length = lambda line: len(re.sub(r"\x1b\[[\d;]*m", "", line))  # colours take no room
    width = 3 + max(length(line) for p in pictures for line in p)
    per_row, text = max(1, columns // width), []
    for start in range(0, len(pictures), per_row):
        row = pictures[start:start + per_row]
        for lines in zip(*row):
            text.append("".join(line + " " * (width - length(line)) for line in lines).rstrip())
        text.append("")
    return "\n".join(text)


def run(args: argparse.Namespace, config: Config) -> None:
    """Data, training, evaluation, demonstration."""
    device = choose_device(args.device)
    if "LOCAL_RANK" in os.environ:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
    rank, world = ranks()
    say = print if rank == 0 else lambda *_, **__: None
    if rank == 0:
        args.out.mkdir(parents=True, exist_ok=True)
        task = open_task(args.preset, config, args.data)
    if world > 1:
        dist.barrier()  # the first process may have to make the data that the others read
    if rank:
        task = open_task(args.preset, config, args.data)
    if task.test is not None:
        task.test = task.test.first(args.eval_puzzles)
    config = task.config
    fits_in_memory(config, device)
    state = State(config, device)
    say(f"model     {sum(p.numel() for p in state.model.parameters()):,} parameters"
        + (f" and a table of {config.num_puzzles:,} x {config.dim}" if config.num_puzzles > 1 else "")
        + f", {config.mixer} mixer, {str(compute_dtype(config, device))[6:]} on {device.type}" + (f", {world} processes" if world > 1 else ""))
    say(f"data      {len(task.train):,} training examples from {task.about['data']}"
        + (f", {len(task.test):,} held out" if task.test is not None else f", {len(task.corpus.asked):,} tasks asked"))
    start(args, state, say)

    begun = time.time()
    monitor = Monitor(args, task)
    model = tinytrm.train(config, task.train, device, state, monitor)
    if rank == 0:
        tinytrm.save(args.out / "model.pt", model, about=task.about, **task.tensors())
    say(f"trained   {state.step - monitor.first_step:,} steps in {time.time() - begun:.0f} s; weights in {args.out / 'model.pt'}")
    result = score(task, model, copies=args.eval_copies)
    if rank == 0:
        if task.render:
            show(task, model)
        print(describe(result))


def start(args: argparse.Namespace, state: State, say) -> None:
    """Go on from a checkpoint, if asked for or restarted by torchrun; else clear the run folder."""
    found = checkpoints(args.out)
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if args.resume and args.resume is True and not found:
        raise FileNotFoundError(f"--resume: there is no checkpoint in {args.out}")
    if args.resume or (restarted and found):
        folder = Path(args.resume) if isinstance(args.resume, str) else found[-1]
        say(f"resumed   {folder}, step {state.step:,}{read_checkpoint(folder, state)}", flush=True)
    elif ranks()[0] == 0:
        for old in found:
            shutil.rmtree(old)
        (args.out / "model.pt").unlink(missing_ok=True)
    if ranks()[0] == 0:
        start_metrics(args.out / "metrics.csv", state.step)


def fits_in_memory(config: Config, device: torch.device) -> None:
    """Raise ValueError when what one backward pass must remember is clearly too much for this machine.

    Linux hands out memory that it does not have and kills the process later, without a word."""
    if device.type != "cpu":
        return
    batch = min(config.micro_batch or config.batch_size, config.batch_size) // ranks()[1]
    mix = config.inner(config.length) * 3 * config.dim if config.mixer == "mlp" else 5 * config.length * config.dim
    numbers = (config.n + 1) * config.layers * batch * (mix + 3 * config.length * config.inner(config.dim))
    needed = 2 * numbers / 2**30
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if needed > available:
        raise ValueError(f"{batch} puzzles at a time need more than {needed:.0f} GiB of memory, this machine has {available:.0f}; "
                         f"--micro_batch {max(1, int(batch * available / needed / 4))} computes the same in pieces")


def start_metrics(path: Path, step: int) -> None:
    """A new metrics.csv, or the old one without the rows after this step."""
    header = ["step", "seconds", "lr", *METRICS, "held_out_exact"]
    rows = list(csv.reader(open(path))) if step and path.is_file() else []
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *(r for r in rows[1:] if r and int(r[0]) <= step)])


def main(argv: list[str] | None = None) -> int:
    args, config = None, None
    try:
        args, config = parse_args(argv)
        dry_run(args, config) if args.dry_run else run(args, config)
    except Stopped as e:
        print(e.args[1], file=sys.stderr)
        return 128 + e.args[0]
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except RuntimeError as e:  # out of memory has a class of its own on GPUs only
        if isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e):
            print(f"error: batch_size {config.batch_size} does not fit in memory; try --micro_batch "
                  f"{max(1, (config.micro_batch or config.batch_size) // 4)}, which computes the same", file=sys.stderr)
            return 2
        raise
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
