"""Train a Tiny Recursive Model.

    python train.py                                     # 6x6 Sudoku on a laptop: a minute
    python train.py --preset sudoku                     # the paper's model on Sudoku-Extreme
    python train.py --preset sudoku9 --data my.csv      # your own, columns question and answer
    torchrun --nproc_per_node=4 train.py --preset arc1  # four GPUs compute the same as one
    python train.py --preset sudoku --resume            # go on where it stopped
    python train.py --preset arc1 --dry-run             # parameters, FLOPs, hours, dollars
    python train.py --preset sudoku --bench             # speed of this machine, plain and compiled

The method is in tinytrm.py. Here is the story around it; support/ has its parts. A run folder holds
`model.pt` (averaged weights, for evaluate.py) once training has ended, `metrics.csv`, and
`checkpoint-STEP/` folders, from which training can go on.
"""
from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import tinytrm
from support import cost
from support.checkpoints import read_checkpoint, save_model
from support.console import (
    MOST,
    Parser,
    amount,
    count,
    count_or_none,
    guarded,
    say,
    share,
    signals,
    warn,
)
from support.folders import check_folder, entered
from support.monitor import Monitor, Schedule, start_metrics
from support.presets import PRESETS
from support.processes import choose_device, from_rank_0, join_processes, leave, rank_0_first
from support.record import check_record, write_record
from support.report import Live, page_path
from support.rollouts import rollouts, search
from support.scoring import Seen, batch_of, describe, score, thinking
from support.tasks import Task, copies, open_task, sample
from tinytrm import Config, State, rank_and_world
from tinytrm_beyond import BeyondConfig

CHOICES = dict(mixer=("mlp", "attention"), loss=("stablemax", "softmax"),
               dtype=("auto", "float32", "bfloat16"), halting=("sure", "chance"),
               keep=("last", "surest"))
LEAST = dict(vocab_size=2, micro_batch=0, warmup=0, seed=0, columns=0, two_step_phase=0)
AT_MOST = dict(ema=1, halt_exploration=1, expansion=1000, layers=100, n=1000, T=1000)
ROUNDS = 5000  # of searching for solutions; 1000 rows of Sudoku-Extreme need fewer than 2000

# ------------------------------------------------------------------------------------------------
# The command line: every field of Config is a flag


@functools.cache  # on Python 3.11 inspect reads all of tinytrm.py, each time
def field_help() -> dict[str, str]:
    """The comment behind each field of a config, which is also its help text."""
    source = inspect.getsource(Config) + inspect.getsource(BeyondConfig)
    return dict(re.findall(r"^    (\w+): .+? = .*?  # (.*)$", source, re.M))


def parser() -> Parser:
    """The flags."""
    p = Parser(description=__doc__)
    p.add_argument("--preset", default="sudoku6", choices=PRESETS,
                   help="where the settings start from")
    p.add_argument("--data", type=Path, help="a folder with train.csv and test.csv, one CSV to "
                   "split, or the folder that holds the ARC repositories")
    p.add_argument("--allow_copies", action="store_true", help="train even if held-out puzzles "
                   "are symmetric copies of training ones")
    p.add_argument("--augment_mazes", action="store_true", help="train on turned and mirrored "
                   "mazes too; their labelled paths are then seldom those of the label rule")
    p.add_argument("--hints", type=share, default=0.0, metavar="SHARE", help="Sudoku: this share "
                   "of the training copies show some empty cells, each with a chance from 0 to 0.6")
    p.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile the "
                   "network: same mathematics, faster after a minute (default: on CUDA, "
                   "where it should save more than that)")
    g = p.add_argument_group("the run folder")
    g.add_argument("--out", type=Path, help="(default: runs/PRESET; a run that is there already "
                   "moves aside)")
    g.add_argument("--resume", nargs="?", const=True, metavar="CHECKPOINT",
                   help="go on from the newest checkpoint of the run folder, or from this one; "
                   '"auto": from the newest if there is one')
    g.add_argument("--overwrite", action="store_true", help="the run in the folder goes, as soon "
                   "as this one has saved a checkpoint")
    g.add_argument("--save_every", type=count, default=2000, metavar="STEPS",
                   help="checkpoint every so many steps ...")
    g.add_argument("--save_minutes", type=amount, default=10, metavar="MIN",
                   help="... and when so many minutes have passed")
    g.add_argument("--save_last", type=count, default=2, metavar="K", help="keep the newest K "
                   "checkpoints: how far back --overwrite --resume CHECKPOINT can go")
    g.add_argument("--milestones", type=count_or_none, default=0, metavar="K", help="keep the "
                   "averaged weights K times on the way, for evaluate.py --pool")
    g = p.add_argument_group("evaluation")
    g.add_argument("--eval_every", type=count_or_none, metavar="STEPS", help="while training, on "
                   "the held-out sample (default: 20 times if the run is longer than ten minutes)")
    g.add_argument("--eval_puzzles", type=count, metavar="N",
                   help="size of that sample (default 1000)")
    g.add_argument("--eval_copies", type=count_or_none, metavar="N",
                   help="ARC: augmented copies that vote at the end (default 8)")
    g.add_argument("--record", type=Path, metavar="FOLDER",
                   help="at the end, rollouts too, and all figures as FOLDER/PRESET-seedN.md, .csv")
    g.add_argument("--html", nargs="?", const=True, metavar="FILE", help="a page to look at "
                   "(default: OUT/report.html), refreshed at each evaluation and at the end")
    g.add_argument("--log_seconds", type=amount, default=5, metavar="S",
                   help="a line of progress every so often")
    g = p.add_argument_group("instead of training")
    how = g.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="estimate FLOPs, hours and dollars")
    how.add_argument("--bench", action="store_true",
                     help="time steps on random puzzles, plain and compiled")
    g.add_argument("--gpus", type=count, metavar="N", help="--dry-run: how many (4); --bench: the "
                   "share of one of so many (1)")
    g.add_argument("--price", type=amount, default=2.5, help="dollars per GPU-hour")
    g = p.add_argument_group("configuration (defaults: the preset's)")
    help_of = dict(field_help())
    help_of["seed"] += "; here also of generated puzzles, and of the tenth of one CSV held out"
    for f in dataclasses.fields(BeyondConfig):
        kind, choices = type(f.default), CHOICES.get(f.name)
        value: dict[str, Any] = dict(type=kind, metavar=kind.__name__.upper())
        if choices:
            value = dict(choices=choices)
        if kind is bool:
            value = dict(action=argparse.BooleanOptionalAction)
        # torchrun takes --n for one of its own flags, so the authors' names work too.
        names = [f"--{f.name}", *{"n": ["--L_cycles"], "T": ["--H_cycles"]}.get(f.name, [])]
        g.add_argument(*names, dest=f.name, default=None, help=help_of[f.name], **value)
    return p


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """The flags and the Config they make: the preset's, with the given fields replaced. Exits with
    code 2 where they make no sense."""
    p = parser()
    args = p.parse_args(argv)
    fields = {f.name: getattr(args, f.name) for f in dataclasses.fields(BeyondConfig)}
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        config = PRESETS[args.preset].config
        if any(not hasattr(config, name) for name in given):  # a field that the paper does not have
            config = BeyondConfig(**dataclasses.asdict(config))
        if isinstance(config, BeyondConfig):
            if config.columns and "seq_len" in given:
                given.setdefault("columns", math.isqrt(given["seq_len"]))  # a square, another size
            if config.symbols > 1 and "vocab_size" in given:
                given.setdefault("symbols", given["vocab_size"] - 2)  # the digits of another Sudoku
            if config.two_step_phase and "steps" in given:
                part = config.two_step_phase / config.steps  # that it has of the preset's steps
                given.setdefault("two_step_phase", round(part * min(given["steps"], MOST)))
        for name, value in given.items():
            least = LEAST.get(name, 1 if isinstance(getattr(config, name), int) else 0)
            most = AT_MOST.get(name, MOST if isinstance(value, int) else 1e18)
            if isinstance(value, (int, float)) and not least <= value <= most:
                raise ValueError(f"{name} must be in {least}..{most}, not {value}")
        config = dataclasses.replace(config, **given)
        world = int(os.environ.get("WORLD_SIZE", 1))
        if config.batch_size % world:
            raise ValueError(f"batch_size must be a multiple of {world} processes")
        if not config.expansion > 0:
            raise ValueError(f"expansion must be above 0, not {config.expansion}")
    except ValueError as e:
        p.error(str(e))
    kind = PRESETS[args.preset].kind
    if kind == "arc":
        p.useless(args, "allow_copies eval_puzzles", "for ARC")
    else:
        p.useless(args, "eval_copies", f"for {kind}")
    p.useless(args, "num_puzzle_ids", "here: the data decides")
    if kind != "maze":
        p.useless(args, "augment_mazes", f"for {kind}")
    if kind != "sudoku":
        p.useless(args, "hints", f"for {kind}")
    if config.mixer == "mlp":
        p.useless(args, "heads columns", "with --mixer mlp")
    for how in ("dry_run", "bench"):
        if getattr(args, how):
            p.useless(args, "html record", f"with --{how.replace('_', '-')}")
    if not args.bench and not args.dry_run:
        p.useless(args, "gpus", "without --dry-run or --bench: torchrun says how many")
    return args, config


# ------------------------------------------------------------------------------------------------
# The run


def run(args: argparse.Namespace, config: Config) -> None:
    """Data, training, evaluation."""
    if args.dry_run:
        return cost.dry_run(config, args.gpus or 4, args.price)
    device = choose_device(args.device)
    if args.bench:
        return cost.bench(config, device, args.preset, args.gpus or 1)
    join_processes(device)
    cost.check_memory(config, device)
    out = args.out or Path("runs") / args.preset
    given = args.out is not None
    start = from_rank_0(check_folder, out, given, args.resume, args.overwrite)
    if args.record:
        check_record(args.record)
    html = page_path(args.html, out)
    task = rank_0_first(prepare, args, config)
    schedule = Schedule(args.save_every, args.save_minutes, args.save_last, args.eval_every,
                        args.milestones, args.log_seconds, args.price)
    state = State(task.config, device)
    remark = read_checkpoint(start, state, task.about) if start else ""
    if " -> " in remark and rank_and_world()[0] == 0:
        warn(f"{start} goes on with other settings{remark}; give the same flags if that is a slip")
    if rank_and_world()[0] == 0:
        say(headline(task, state))
    if cost.compiles(args.compile, device, task.config.steps):
        cost.compile_net(state.model, cost.slots_at_once(task.config))
        cost.compile_net(state.ema, batch_of(state.ema), training=False)

    with entered(out, given, start, args.overwrite) as said:
        if rank_and_world()[0] == 0:
            if start:
                said += f"resumed   {start}, step {state.step:,}{remark}\n"
            say(said, end="")
            start_metrics(out / "metrics.csv", state.step)
        page = Live(html, task, out) if html and rank_and_world()[0] == 0 else None
        begun, first, monitor = time.time(), state.step, Monitor(out, task, schedule, page)
        with signals.later(), cost.advice_on_memory(cost.slots_at_once(config), "--micro_batch"):
            tinytrm.train(task.config, task.train, state=state, on_step=monitor)
        with signals.at_once("stopped while evaluating, all saved; go on with --resume"):
            how = monitor.trained(state)
            if rank_and_world()[0] == 0:
                save_model(out / "model.pt", state.ema, **monitor.extra(state))
                say(trained(state, monitor, first, time.time() - begun, out))
            result, seen = report(args, task, state, out, how)
            if page:
                page(state.ema, result, seen, how)


def prepare(args: argparse.Namespace, config: Config) -> Task:
    """The puzzles, none held out that is trained on. Raises ValueError or OSError."""
    if args.data and not args.data.exists():
        raise FileNotFoundError(f"--data {args.data}: no such file or folder")
    task = open_task(args.preset, config, args.data, args.augment_mazes, args.hints)
    if task.test is None:
        return task
    known: list[int] = copies(task).tolist() if args.data else []  # evaluate.py asks all of them
    if known:
        said = (f"{len(known):,} of {len(task.test):,} held-out puzzles are symmetric copies of "
                "training ones")
        if not args.allow_copies:
            file = "test.csv" if task.about["split"] is None else "the file"
            raise ValueError(f"{task.about['data']}: {said}, so the score would be too good; "
                             f"remove them (the first: puzzle {known[0]} of {file}), or "
                             "--allow_copies")
        task.remarks.append(said)
        task.about["copies"] = f"{len(known):,} of {len(task.test):,}"  # for evaluate.py
    every, task.test = len(task.test), sample(task.test, args.eval_puzzles or 1000)
    if len(task.test) < every:
        task.remarks.append(f"a fixed sample of {len(task.test):,} of {every:,} held-out puzzles")
    several = 0
    if task.solutions:  # as many rounds as the hardest rows need; who needs more is not counted
        several = (task.solutions(task.test.inputs, rounds=ROUNDS) > 1).sum()
    if several:
        task.about["several"] = f"{several:,} of {len(task.test):,}"
        task.remarks.append(f"{several:,} of the held-out puzzles have several solutions; only the "
                            "labelled one counts as right")
    return task


def trained(state: State, monitor: Monitor, first: int, seconds: float, out: Path) -> str:
    """What training has come to, before the evaluation."""
    text = f"trained   {state.step - first:,} steps in {seconds:.0f} s: {out / 'model.pt'}"
    if state.step == first:
        text = f"finished  all {first:,} steps had been trained before: {out / 'model.pt'}"
    if monitor.best >= 0:
        text += (f"\nbest      {monitor.best:.1%} after step {monitor.best_step:,}: "
                 f"{out / 'best.pt'}, chosen on these very puzzles")
    return text


def report(args: argparse.Namespace, task: Task, state: State, out: Path, how: dict
           ) -> tuple[dict, Seen]:
    """Evaluate the trained model, show one answer, write the record if asked. Returns what `score`
    returned and saw. how: what `Monitor.trained` says."""
    copies = 8 if args.eval_copies is None else args.eval_copies
    seen = Seen()
    result = dict(score(task, state.ema, copies=copies, seen=seen if args.html else None),
                  remarks=[*task.remarks])
    if task.kind == "arc":
        result["remarks"].append(f"by up to {1 + copies} votes for a question; all copies vote in "
                                 f"python evaluate.py {out}")
    if rank_and_world()[0] == 0:
        if task.render:
            say(thinking(task, state.ema))
        say(describe(result))
    if args.record:
        more = [rollouts(task, state.ema, 8)] if task.disguise else []
        if task.keeps_rules:
            more.append(search(task, state.ema, 64, 2))
        if rank_and_world()[0] == 0:
            name = f"{args.preset}-seed{task.config.seed}"
            for other in more:
                say(describe(other))  # so that it is not lost if the record cannot be written
            write_record(args.record, name, out, task, [result, *more], how)
    return result, seen


def headline(task: Task, state: State) -> str:
    """What is about to be trained, on what."""
    config, device, world = task.config, state.slots.ids.device, rank_and_world()[1]
    parameters = sum(p.numel() for p in state.model.parameters())
    rows = config.num_puzzle_ids
    table = f" and a {rows:,}-row puzzle table" if rows > 1 else ""
    where = f"{cost.dtype_name(config, device)} on {device.type}"
    where += f", {world} processes" if world > 1 else ""
    held = f"{len(task.test):,} held out" if task.test else f"{len(task.corpus.asked)} tasks asked"
    lines = [f"model     {parameters:,} parameters{table}, {config.mixer} mixer, {where}",
             f"data      {len(task.train):,} training examples, {held}: {task.about['data']}"]
    if hints := task.about.get("hints"):
        lines.append(f"          {hints:.0%} of the training copies show more of the solution")
    r, c = task.about.get("box") or (0, 0)
    if r != c:
        lines.append(f"          boxes of {r} rows and {c} columns taken for granted")
    return "\n".join(lines + [f"          {remark}" for remark in task.remarks])


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: that of `guarded`."""
    return guarded(run, *parse_args(argv))


if __name__ == "__main__":
    leave(main())
