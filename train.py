"""Train a Tiny Recursive Model.

    python train.py                                     # 6x6 Sudoku on a laptop: two minutes
    python train.py --preset sudoku                     # the paper's model on Sudoku-Extreme
    python train.py --preset sudoku9 --data my.csv      # your own puzzles, source,question,answer
    torchrun --nproc_per_node=4 train.py --preset arc1  # four GPUs compute the same as one
    python train.py --preset sudoku --resume            # go on where it stopped
    python train.py --preset arc1 --dry-run             # parameters, FLOPs, hours, dollars
    python train.py --preset sudoku --bench             # speed of this machine, plain and compiled

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
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import tinytrm
from data.tasks import Task, first, open_task
from evaluate import (
    Parser, choose_device, describe, join_processes, leave, rank_0_first, rollouts, score
)  # fmt: skip
from tinytrm import METRICS, PRESETS, Config, State, compute_dtype, ranks

# ------------------------------------------------------------------------------------------------
# The command line: every field of Config is a flag


def field_help() -> dict[str, str]:
    """The comment behind each field of Config, which is also its help text."""
    return dict(re.findall(r"^    (\w+): \w+ = .*?  # (.*)$", inspect.getsource(Config), re.M))


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """The flags and the Config they make: the preset's, with the given fields replaced."""
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", default="sudoku6", choices=PRESETS,
                   help="where the settings start from")
    p.add_argument("--data", type=Path, help="a folder with train.csv and test.csv, one CSV to "
                   "split, or the folder that holds the ARC repositories")
    p.add_argument("--out", type=Path, help="run folder (default runs/PRESET)")
    p.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    p.add_argument("--resume", nargs="?", const=True, metavar="CHECKPOINT",
                   help="go on from the newest checkpoint of the run folder, or from this one; "
                   '"auto": from the newest if there is one')
    p.add_argument("--save_every", type=int, default=2000, metavar="STEPS",
                   help="checkpoint every so many steps ...")
    p.add_argument("--save_minutes", type=float, default=10, metavar="MIN",
                   help="... and when so many minutes have passed")
    p.add_argument("--eval_every", type=int, default=0, metavar="STEPS",
                   help="evaluate while training (default: only at the end)")
    p.add_argument("--eval_puzzles", type=int, default=1000, metavar="N",
                   help="held-out puzzles to evaluate on")
    p.add_argument("--eval_copies", type=int, default=8, metavar="N",
                   help="ARC: augmented copies that vote at the end")
    p.add_argument("--record", type=Path, metavar="FOLDER",
                   help="at the end, rollouts too, and all figures as FOLDER/PRESET-seedN.md, .csv")
    p.add_argument("--log_seconds", type=float, default=5, metavar="S",
                   help="a line of progress every so often")
    p.add_argument("--compile", action="store_true",
                   help="torch.compile the network: same mathematics, faster after half a minute")
    g = p.add_argument_group("estimate")
    g.add_argument("--dry-run", action="store_true",
                   help="print sizes, FLOPs, hours and dollars; train nothing")
    g.add_argument("--bench", action="store_true",
                   help="time steps on random puzzles, plain and compiled; train nothing")
    g.add_argument("--bench_seconds", type=float, default=20, help="time for each of the two")
    g.add_argument("--gpus", type=int, default=4)
    g.add_argument("--peak_tflops", type=float, default=989,
                   help="of one GPU (default: H100, dense bfloat16)")
    g.add_argument("--utilisation", type=float, default=0.25, help="share of that peak")
    g.add_argument("--price", type=float, default=2.5, help="dollars per GPU-hour")
    g = p.add_argument_group("configuration (defaults: the preset's)")
    help_of = field_help()
    for f in dataclasses.fields(Config):
        kind = type(f.default)
        how = dict(type=kind, metavar=kind.__name__.upper())
        if kind is bool:
            how = dict(action=argparse.BooleanOptionalAction)
        # torchrun takes --n for one of its own flags, so the authors' names work too.
        names = [f"--{f.name}", *{"n": ["--L_cycles"], "T": ["--H_cycles"]}.get(f.name, [])]
        g.add_argument(*names, dest=f.name, default=None, help=help_of[f.name], **how)
    args = p.parse_args(argv)
    for name in ("save_every", "save_minutes", "eval_puzzles", "gpus", "peak_tflops", "utilisation",
                 "log_seconds", "bench_seconds"):
        if not getattr(args, name) > 0:
            p.error(f"--{name} must be above 0, not {getattr(args, name)}")
    args.out = args.out or Path("runs") / args.preset
    fields = {f.name: getattr(args, f.name) for f in dataclasses.fields(Config)}
    given = {name: value for name, value in fields.items() if value is not None}
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
    cycle = config.n + 1  # network calls
    return config.batch_size * (net * (config.T * cycle + 2 * cycle) + 3 * heads)


def dry_run(args: argparse.Namespace, config: Config) -> None:
    """Print parameters, FLOPs, steps, hours and dollars."""
    with torch.device("meta"):
        model = tinytrm.TRM(dataclasses.replace(config, num_puzzles=0))
    network, rows = sum(p.numel() for p in model.parameters()), config.num_puzzles
    step, cycle = flops_per_step(config), config.n + 1
    speed = args.gpus * args.peak_tflops * 1e12 * args.utilisation
    first = flops_per_step(dataclasses.replace(config, T=1, n=math.ceil(config.n * 2 / 3)))
    total = config.steps * (config.shallow * first + (1 - config.shallow) * step)
    hours = total / speed / 3600
    print(f"parameters  {network:,} in the network, {network + rows * config.dim:,} with the "
          f"{rows:,}-row puzzle table")
    print(f"FLOPs       {step:.3g} a step: {config.batch_size} puzzles, {config.T * cycle} network "
          f"calls, {cycle} of them with gradient")
    print(f"steps       {config.steps:,}, {total:.3g} FLOPs in all")
    print(f"estimate    {hours:.1f} hours on {args.gpus} GPUs at {args.utilisation:.0%} of "
          f"{args.peak_tflops:g} TFLOP/s; ${hours * args.gpus * args.price:,.0f} at "
          f"${args.price:g} per GPU-hour")


def bench(args: argparse.Namespace, config: Config) -> None:
    """Print steps/s, puzzles/s (supervision steps of one puzzle), FLOP/s of the matrix products,
    their share of what this machine reaches at those shapes, and peak memory. Raises ValueError."""
    device, cells = choose_device(args.device), (config.batch_size, config.seq_len)
    config = dataclasses.replace(config, num_puzzles=min(config.num_puzzles, 100_000))
    fits_in_memory(config, device)
    tokens = np.random.default_rng(config.seed).integers(1, config.vocab_size, cells)
    puzzles, peak, lines = tinytrm.Puzzles(tokens, tokens), matmul_peak(config, device), []
    for name in ("plain", "compiled"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        state, seconds, begun = State(config, device), [], time.perf_counter()
        if name == "compiled" and not compile_net(state.model):
            break
        while len(seconds) < 5 or sum(seconds[3:]) < args.bench_seconds:
            start = time.perf_counter()
            one = dataclasses.replace(config, steps=state.step + 1)
            tinytrm.train(one, puzzles, device, state, lambda _, m: m.cpu())  # waits for the device
            seconds.append(time.perf_counter() - start)
            if len(seconds) == 3:  # the first steps compile and warm up
                ready = time.perf_counter() - begun
        peak = max(peak, matmul_peak(config, device))  # before and after: clocks change
        step = float(np.median(seconds[3:]))
        lines.append((name, step, ready, memory_used(device)))
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    dtype = str(compute_dtype(config, device)).removeprefix("torch.")
    print(f"bench     {args.preset}: {config.mixer} mixer, {config.length} positions, D "
          f"{config.dim}, n {config.n}, T {config.T}, batch {config.batch_size}, {dtype} on "
          f"{describe_device(device)}{threads}\n"
          f"matmul    {peak / 1e9:,.0f} GFLOP/s, the best of the network's own products")
    for name, step, ready, memory in lines:
        speed = flops_per_step(config) / step
        print(f"{name:9} {1 / step:.3g} steps/s   {config.batch_size / step:,.0f} puzzles/s   "
              f"{speed / 1e9:,.0f} GFLOP/s, {speed / peak:.0%} of matmul   {memory:.2f} GiB   "
              f"first 3 steps {ready:.0f} s")


def matmul_peak(config: Config, device: torch.device) -> float:
    """FLOP/s of the fastest of the matrix products of one layer, at their own shapes."""
    B, L, D, dtype = config.batch_size, config.length, config.dim, compute_dtype(config, device)
    rates = []
    for name, (out, fan_in) in config.weight_shapes().items():
        along_sequence = config.mixer == "mlp" and name.startswith("mix")
        columns = B * D if along_sequence else B * L
        weight, h = torch.randn(out, fan_in), torch.randn(fan_in, columns)
        # Features last, as in F.linear; the mixing along the sequence multiplies from the left.
        product = (weight, h) if along_sequence else (h.T.contiguous(), weight.T)
        a, b = (t.to(device, dtype) for t in product)
        seconds = []
        for _ in range(12):
            start = time.perf_counter()
            c = a @ b
            if device.type != "cpu":
                c.ravel()[0].item()  # wait
            seconds.append(time.perf_counter() - start)
        rates.append(2 * out * fan_in * columns / np.median(seconds[2:]))
    return max(rates)


def memory_used(device: torch.device) -> float:
    """GiB: on CUDA the most that was allocated, else the most this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not on Windows, where only --bench needs it

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def describe_device(device: torch.device) -> str:
    """The name of the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "")
    return f"{device.type}" + (f" ({name})" if name and device.type == "cpu" else "")


# ------------------------------------------------------------------------------------------------
# Checkpoints: a folder that appears whole or not at all


def write_checkpoint(out: Path, state: State) -> None:
    """Write out/checkpoint-STEP with all that `State` holds; then remove all but the previous one.

    model.pt: config, averaged weights, puzzle table. state.pt: weights, optimizer, step.
    carry-RANK.pt: the slots of one process. manifest.json: their SHA-256. Raises OSError, and
    ValueError when the weights are not finite.
    """
    if not all(bool(p.isfinite().all()) for p in state.model.parameters()):
        good = checkpoints(out)
        raise ValueError(f"the weights are not finite at step {state.step}, so they are not saved; "
                         f"the last good checkpoint is {good[-1] if good else 'none'}")
    rank, world = ranks()
    final = out / f"checkpoint-{state.step:08d}"
    folder, problem = out / f".{final.name}.tmp", ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            tinytrm.save(folder / "model.pt", state.ema)
            weights = {k: v for k, v in state.model.state_dict().items() if k != "puzzle_table"}
            write_synced(folder / "state.pt", dict(weights=weights, step=state.step,
                                                   optimizer=state.optimizer.state_dict()))
        write_synced(folder / f"carry-{rank}.pt", dict(vars(state.carry)))
    except (OSError, RuntimeError) as e:  # torch raises RuntimeError when the disk is full
        problem = getattr(e, "strerror", None) or str(e).splitlines()[0]
    if agree(bool(problem), state.model.device):
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(f"could not save {final}: {problem or 'another process failed'}; "
                      "older checkpoints are untouched")
    if rank == 0:
        manifest = dict(step=state.step, world=world,
                        files={f.name: sha256(f) for f in sorted(folder.glob("*.pt"))})
        write_synced(folder / "manifest.json", manifest)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(folder, final)
        os.sync()
        for old in checkpoints(out)[:-2]:
            shutil.rmtree(old)
    if world > 1:
        dist.barrier()


def write_synced(path: Path, content: dict) -> None:
    """Write a dict, as JSON or by torch.save, and wait until it is on the disk."""
    with open(path, "wb") as file:
        if path.suffix == ".json":
            file.write(json.dumps(content, indent=1).encode())
        else:
            torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def agree(flag: bool, device: torch.device) -> bool:
    """True in every process if it is true in any."""
    if ranks()[1] == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return votes.item() > 0


def checkpoints(out: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    return sorted(out.glob("checkpoint-*"))


def read_checkpoint(folder: Path, state: State) -> str:
    """Put a checkpoint into `state`, all or nothing; returns a remark for the log.

    Raises ValueError if a file is damaged or missing, or belongs to another config.
    """
    rank, world = ranks()
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        carries = [f"carry-{r}.pt" for r in range(manifest["world"])]
        for name in ["model.pt", "state.pt", *carries]:
            if sha256(folder / name) != manifest["files"][name]:
                raise ValueError(f"{name} is damaged")
        ema, rest = tinytrm.load(folder / "model.pt"), tinytrm.read(folder / "state.pt")
    except (OSError, ValueError, KeyError) as e:
        older = [c for c in checkpoints(folder.parent) if c.name < folder.name]
        hint = f"; the one before it: --resume {older[-1]}" if older else ""
        raise ValueError(f"{folder}: not a usable checkpoint ({e}){hint}") from None
    ours, theirs = dataclasses.asdict(state.model.config), dataclasses.asdict(ema.config)
    differ = [f"{k} {theirs[k]} -> {ours[k]}" for k in ours if ours[k] != theirs[k]]
    differ = [d for d in differ if not d.startswith(("steps ", "micro_batch ", "eval_steps "))]
    if differ:
        raise ValueError(f"{folder}: made with another config ({', '.join(differ)}); give the same "
                         "flags, or another --out")
    state.ema.load_state_dict(ema.state_dict())  # the puzzle table is shared, so this fills both
    state.model.load_state_dict(rest["weights"], strict=False)
    state.optimizer.load_state_dict(rest["optimizer"])
    state.step = rest["step"]
    if manifest["world"] != world:
        return f", by {manifest['world']} processes: the puzzles in thought start anew"
    carry = torch.load(folder / carries[rank], state.model.device, weights_only=True)
    state.carry = tinytrm.Carry(**carry)
    return ""


# ------------------------------------------------------------------------------------------------
# After each step: log, evaluate, save, stop


class Stopped(Exception):
    """A signal asked for the end, and all is saved. args: number of the signal, message."""


class Monitor:
    """The on_step of `train`. Only every SYNC steps does it wait for the device and for others."""

    SYNC = 10

    def __init__(self, args: argparse.Namespace, task: Task):
        self.args, self.task, self.config = args, task, task.config
        self.pending, self.stop, self.first_step, self.logged = [], 0, None, 0.0
        self.at_once = False
        self.started = self.saved = time.time()
        self.before = seconds_before(args.out / "metrics.csv") if ranks()[0] == 0 else 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.on_signal)

    def on_signal(self, number, frame):
        self.stop = number
        if self.at_once:
            self.at_once = False  # a second signal must not break into the clearing up
            raise Stopped(number, "stopped while evaluating, all saved; go on with --resume")

    @contextmanager
    def interruptible(self, at_once: bool = True):
        """A step is finished before a signal is heeded; what runs in here, for minutes maybe, is
        not: Stopped is raised at once, also for a signal that came with the last step."""
        self.at_once = at_once
        if at_once and self.stop:
            self.on_signal(self.stop, None)
        try:
            yield
        finally:
            self.at_once = False

    def __call__(self, state: State, metrics: torch.Tensor) -> None:
        if self.first_step is None:
            self.first_step = state.step - 1
        self.pending.append(metrics)
        last, every = state.step == self.config.steps, self.args.eval_every
        if state.step % self.SYNC == 0 or last or (self.stop and ranks()[1] == 1):
            rows, held_out = self.collect(state), {}
            if every and state.step % every == 0:
                begun, alone = time.time(), ranks()[1] == 1  # else the others would wait for us
                # A signal ends the evaluation here, the training below, once the step is saved.
                with suppress(Stopped), self.interruptible(alone):
                    held_out = score(self.task, state.ema, copies=0)
                self.started += time.time() - begun  # seconds of training are what is logged
            if ranks()[0] == 0:
                self.log(state, rows, held_out.get("exact_accuracy", ""), last)
            self.save_or_stop(state, last)

    def collect(self, state: State) -> torch.Tensor:
        """Figures (steps, METRICS) since the last time, summed over processes. Raises ValueError if
        one is not finite."""
        rows = torch.stack(self.pending)
        if ranks()[1] > 1:
            dist.all_reduce(rows)
        rows = rows.cpu().double()
        bad = (~rows.isfinite().all(1)).nonzero()
        if len(bad):
            step, good = state.step - len(rows) + int(bad[0]) + 1, checkpoints(self.args.out)
            have = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was saved"
            raise ValueError(f"the loss became {rows[int(bad[0]), 0]} at step {step}; {have}; "
                             "try a smaller --lr, or --dtype float32")
        self.pending.clear()
        return rows

    def log(self, state: State, rows: torch.Tensor, held_out: float | str, last: bool) -> None:
        """A row of metrics.csv; now and then a line on the screen."""
        config, seconds = self.config, time.time() - self.started
        count = max(1, rows[:, 3].sum().item())
        means = [*rows[:, :3].mean(0), rows[:, 3].sum(), *rows[:, 4:].sum(0) / count]
        f = dict(zip(METRICS, (m.item() for m in means)))
        lr = config.lr * tinytrm.learning_rate(config, state.step - 1)
        with open(self.args.out / "metrics.csv", "a", newline="") as file:
            row = [f"{self.before + seconds:.2f}", f"{lr:.4g}", *(f"{v:.6g}" for v in f.values())]
            csv.writer(file).writerow([state.step, *row, held_out])
        if seconds - self.logged >= self.args.log_seconds or last or held_out != "":
            speed = (state.step - self.first_step) / seconds
            left = timedelta(seconds=round((config.steps - state.step) / speed))
            print(f"step {state.step:>{len(str(config.steps))}}/{config.steps}   "
                  f"loss {f['loss']:.3f}   right {f['cell_accuracy']:4.0%} of cells "
                  f"{f['exact_accuracy']:4.0%} of puzzles, in {f['steps']:4.1f} steps   "
                  f"{speed:.1f}/s, {left} left"
                  + (f"   held out {held_out:.1%}" if held_out != "" else ""), flush=True)
            self.logged = seconds

    def save_or_stop(self, state: State, last: bool) -> None:
        """A checkpoint when one is due, at the end, and when a signal has come."""
        device, args, now = state.model.device, self.args, time.time()
        stop = agree(bool(self.stop), device)
        late = agree(ranks()[0] == 0 and now - self.saved > 60 * args.save_minutes, device)
        due = state.step // args.save_every > (state.step - self.SYNC) // args.save_every
        if last or stop or late or due:
            try:
                write_checkpoint(args.out, state)
                self.saved = time.time()
                if ranks()[0] == 0 and self.saved - now > 1:
                    print(f"checkpoint at step {state.step:,} took {self.saved - now:.1f} s")
            except OSError as e:
                if last or stop:
                    raise
                print(f"warning: {e}; training goes on", file=sys.stderr, flush=True)
        if stop and not last:
            raise Stopped(self.stop or signal.SIGTERM,
                          f"stopped at step {state.step:,}, all saved; go on with --resume")


# ------------------------------------------------------------------------------------------------
# The run


def fits_in_memory(config: Config, device: torch.device) -> None:
    """Raise ValueError when what one backward pass must remember is clearly too much for a CPU.

    Linux hands out memory that it does not have, and kills the process later without a word.
    """
    batch = min(config.micro_batch or config.batch_size, config.batch_size) // ranks()[1]
    L, D = config.length, config.dim
    mix = 3 * config.inner(L) * D if config.mixer == "mlp" else 5 * L * D
    numbers = (config.n + 1) * config.layers * batch * (mix + 3 * L * config.inner(D))
    needed = 2 * numbers / 2**30
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if device.type == "cpu" and needed > available:
        fits = max(1, int(batch * available / needed / 4))
        raise ValueError(f"{batch} puzzles at a time need over {needed:.0f} GiB of memory, this "
                         f"machine has {available:.0f}; --micro_batch {fits} computes the same")


def compile_net(model: tinytrm.TRM) -> bool:
    """Replace `model.net` by a compiled one; False, and a warning, where that is impossible.

    The network alone, not the whole step: it is compiled once without gradient and once with, and
    called T * (n + 1) times; the loops around it stay Python. The whole step takes longer to
    compile and was not faster (docs/experiments.md).
    """
    config, plain = model.config, model.net
    model.net = torch.compile(plain, dynamic=False)
    try:
        with torch.no_grad():  # compilers complain at the first call only
            weights = [[w.to(compute_dtype(config, model.device)) for w in layer.values()]
                       for layer in model.layers]
            model.net(model.start(config.micro_batch or config.batch_size // ranks()[1])[0],
                      weights)
    except Exception as e:  # torch names the reasons by a dozen classes
        model.net = plain
        reason = " ".join(str(e).split())[:100]
        print(f"warning: --compile found no working compiler, going on without: {reason}",
              file=sys.stderr, flush=True)
        return False
    return True


def show(task: Task, model: tinytrm.TRM, among: int = 200) -> None:
    """Print, step by step, the one of the first held-out puzzles that takes longest to solve, but
    no more steps than a screen holds."""
    test, device = task.test, model.device
    inputs = torch.from_numpy(test.inputs[:among].astype(np.int64)).to(device)
    ids = torch.zeros(len(inputs), dtype=torch.long, device=device)
    answers = np.stack([a.cpu().numpy() for a, _, _ in tinytrm.think(model, inputs, ids)])
    wrong = (answers != test.labels[:among]).sum(2)  # (steps, puzzles) cells
    needed = np.where((wrong[:6] == 0).any(0), (wrong == 0).argmax(0), -1)  # first step all right
    i, pictures = int(needed.argmax()), []
    for k in range(needed[i] + 1 if needed[i] >= 0 else min(4, len(answers))):
        title = f"step {k + 1}: " + (f"{wrong[k, i]} cells wrong" if wrong[k, i] else "solved")
        colour = sys.stdout.isatty()
        picture = task.render(test.inputs[i], answers[k, i], test.labels[i], colour)
        pictures.append([title, *picture.splitlines()])
    print("\nA puzzle it has never seen, thought through (x = wrong):\n")
    print(beside(pictures))


def beside(pictures: list[list[str]], columns: int = 100) -> str:
    """Pictures, lists of lines, side by side, in as many rows as the terminal's width needs."""
    def length(line):  # colours take no room
        return len(re.sub(r"\x1b\[[\d;]*m", "", line))

    width, text = 3 + max(length(line) for p in pictures for line in p), []
    per_row = max(1, columns // width)
    for start in range(0, len(pictures), per_row):
        for lines in zip(*pictures[start:start + per_row]):
            text.append("".join(t + " " * (width - length(t)) for t in lines).rstrip())
        text.append("")
    return "\n".join(text)


def start(args: argparse.Namespace, state: State) -> str:
    """Go on from a checkpoint if asked for, or if torchrun has restarted us; else clear the folder.
    Returns a line for the log."""
    found, rank, said = checkpoints(args.out), ranks()[0], ""
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if args.resume is True and not found:
        raise FileNotFoundError(f"--resume: there is no checkpoint in {args.out}")
    folder = None
    if args.resume not in (None, True, "auto"):
        folder = Path(args.resume)
    elif found and (args.resume or restarted):
        folder = found[-1]
    if folder:
        remark = read_checkpoint(folder, state)
        said = f"resumed   {folder}, step {state.step:,}{remark}\n"
    elif rank == 0:
        for old in found:
            shutil.rmtree(old)
        (args.out / "model.pt").unlink(missing_ok=True)
    if rank == 0:
        for half in args.out.glob(".checkpoint-*.tmp"):
            shutil.rmtree(half)
        start_metrics(args.out / "metrics.csv", state.step)
    return said


def seconds_before(path: Path) -> float:
    """Seconds of training that metrics.csv already tells of, from before a resumption."""
    with open(path, newline="") as file:
        last = [row for row in csv.DictReader(file)][-1:]
    return float(last[0]["seconds"]) if last else 0.0


def start_metrics(path: Path, step: int) -> None:
    """A new metrics.csv, or the old one without the rows after this step."""
    header, rows = ["step", "seconds", "lr", *METRICS, "held_out_exact"], []
    if step and path.is_file():
        with open(path, newline="") as file:
            rows = [r for r in csv.reader(file) if len(r) == len(header) and r[0].isdigit()]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *(r for r in rows if int(r[0]) <= step)])


def run(args: argparse.Namespace, config: Config) -> None:
    """Data, training, evaluation."""
    device = choose_device(args.device)
    join_processes(device)
    rank, world = ranks()
    if rank == 0:
        args.out.mkdir(parents=True, exist_ok=True)
    task = rank_0_first(open_task, args.preset, config, args.data)
    if task.test is not None:
        task.test = first(task.test, args.eval_puzzles)
    config = task.config
    fits_in_memory(config, device)
    state = State(config, device)
    resumed = start(args, state)
    if rank == 0:
        print(headline(task, state, world), flush=True)
        print(resumed, end="", flush=True)
    if args.compile:
        compile_net(state.model)

    begun, monitor = time.time(), Monitor(args, task)
    model = tinytrm.train(config, task.train, device, state, monitor)
    if rank == 0:
        tinytrm.save(args.out / "model.pt", model, about=task.about, **task.tensors())
        steps = state.step - (monitor.first_step or 0)
        print(f"trained   {steps:,} steps in {time.time() - begun:.0f} s: {args.out / 'model.pt'}",
              flush=True)
    with monitor.interruptible():
        report(args, task, state, model)


def report(args: argparse.Namespace, task: Task, state: State, model: tinytrm.TRM) -> None:
    """Evaluate the trained model, show one answer, write the record if asked."""
    rank = ranks()[0]
    result = score(task, model, copies=args.eval_copies)
    if rank == 0:
        if task.render:
            show(task, model)
        print(describe(result))
    if args.record:
        more = rollouts(task, model, 8) if task.disguise else {}
        if rank == 0:
            write_record(args, task, state, [result, more])


def write_record(args: argparse.Namespace, task: Task, state: State, results: list[dict]) -> None:
    """args.record/PRESET-seedN.md: command, hardware, time, figures, config; the log beside it."""
    config, world = task.config, ranks()[1]
    args.record.mkdir(parents=True, exist_ok=True)
    path = args.record / f"{args.preset}-seed{config.seed}.md"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip() or "unknown"
    seconds = seconds_before(args.out / "metrics.csv")
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    fields = "\n".join(f"{k} = {v}" for k, v in dataclasses.asdict(config).items())
    figures = "\n".join(describe(r) for r in results if r)
    text = f"""# {args.preset}, seed {config.seed}

    {shlex.join(words)}

{world} x {describe_device(state.model.device)}, torch {torch.__version__}, commit {commit},
{time.strftime("%Y-%m-%d")}. Trained {state.step:,} steps in {seconds / 60:.1f} minutes (compilation
included, evaluation and pauses between resumptions not). Log: {path.stem}.csv.

```
{figures}
```

```
{fields}
```
"""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    shutil.copy(args.out / "metrics.csv", path.with_suffix(".csv"))
    os.replace(temporary, path)
    print(f"record    {path}")


def headline(task: Task, state: State, world: int) -> str:
    """What is about to be trained, on what."""
    config, device = task.config, state.model.device
    parameters = sum(p.numel() for p in state.model.parameters())
    table = f" and a {config.num_puzzles:,}-row puzzle table" if config.num_puzzles > 1 else ""
    dtype = str(compute_dtype(config, device)).removeprefix("torch.")
    where = f"{dtype} on {device.type}" + (f", {world} processes" if world > 1 else "")
    held = f"{len(task.test):,} held out" if task.test else f"{len(task.corpus.asked)} tasks asked"
    return (f"model     {parameters:,} parameters{table}, {config.mixer} mixer, {where}\n"
            f"data      {len(task.train):,} training examples, {held}: {task.about['data']}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 after an error of the user's, 128 + signal when stopped."""
    config = None
    try:
        args, config = parse_args(argv)
        (dry_run if args.dry_run else bench if args.bench else run)(args, config)
    except Stopped as e:
        print(e.args[1], file=sys.stderr)
        return 128 + e.args[0]
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except RuntimeError as e:
        if "gloo" in str(e) or "NCCL" in str(e):  # torchrun will say which one, and why
            good = checkpoints(args.out)
            print(f"error: lost another process; {good[-1] if good else 'no checkpoint'} is what "
                  "--resume or torchrun --max-restarts goes on from", file=sys.stderr)
            return 1
        # Out of memory has a class of its own on GPUs only.
        if not isinstance(e, torch.OutOfMemoryError) and "can't allocate memory" not in str(e):
            raise
        fits = max(1, (config.micro_batch or config.batch_size) // 4)
        print(f"error: batch_size {config.batch_size} does not fit in memory; --micro_batch {fits} "
              "computes the same", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    leave(main())
