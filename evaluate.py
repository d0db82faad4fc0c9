"""Evaluate a trained model on puzzles it has not seen.

    python evaluate.py runs/sudoku6                      # the held-out puzzles of the run
    python evaluate.py runs/sudoku6 --steps 64 --halt    # think longer; stop when sure
    python evaluate.py runs/sudoku6 --rollouts 8         # think 8 times; the surest answer counts
    python evaluate.py runs/sudoku9 --data more.csv --json
    python evaluate.py runs/arc1 --submission submission.json
    python evaluate.py --official CKPT --task arc1 --n 4 --T 3 --data PATH --identifiers FILE

Under torchrun the processes share the work; every puzzle counts once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Callable

import numpy as np
import torch
import torch.distributed as dist

import tinytrm
from data import arc
from data.tasks import Task, first, official_task, reopen
from tinytrm import TRM, ranks


def score(
    task: Task,
    model: TRM,
    steps: int | None = None,
    halt: bool = False,
    copies: int | None = None,
    batch_size: int = 256,
) -> dict:
    """What `tinytrm.evaluate` returns, plus what belongs to the task.

    Mazes: valid_path_accuracy, shortest paths that need not be the labelled ones. ARC: pass@k by
    voting over `copies` augmented copies of each test input (None: all), as `pass_at`.
    """
    if task.kind == "arc":
        votes, seen = vote(task, model, steps, halt, copies, batch_size)
        return arc_result(task, votes, seen)
    result = tinytrm.evaluate(model, task.test, steps, halt, batch_size)
    for name, judge in task.judges.items():
        rows = np.arange(ranks()[0], len(task.test), ranks()[1])
        test = task.test
        answers = tinytrm.solve(
            model, test.inputs[rows], test.ids[rows], steps, halt, batch_size
        ).answers
        right = torch.tensor(
            float(judge(test.inputs[rows], answers, test.labels[rows]).sum()), device=model.device
        )
        if ranks()[1] > 1:
            dist.all_reduce(right)
        result[name] = right.item() / len(test)
    return result


# ------------------------------------------------------------------------------------------------
# Test-time compute: think about each puzzle several times, then choose one of the answers

SELECTIONS = {
    "q": "the last answer with the highest q",
    "first": "the answer of the first rollout that was sure (q > 0)",
    "vote": "the most frequent last answer",
}


def rollouts(
    task: Task,
    model: TRM,
    count: int,
    noise: float = 0,
    copies: bool = True,
    steps: int | None = None,
    batch_size: int = 256,
) -> dict:
    """Exact accuracy of `count` rollouts per puzzle, and of fewer, under each of SELECTIONS.

    Rollout 0 is the plain one. The others add noise to y and z before each step (arXiv 2605.19943)
    and, with `copies` and where the puzzles have exact symmetries, see a symmetric copy of the
    puzzle (2601.19085). Returns {selection: {number of rollouts: accuracy}} as `rollouts`.
    """
    (rank, world), total = ranks(), len(task.test)
    numbers = sorted({2**k for k in range(count.bit_length()) if 2**k <= count} | {count})
    right = torch.zeros(len(SELECTIONS), len(numbers), device=model.device)
    rows = np.arange(rank, total, world)
    for part in np.array_split(rows, max(1, math.ceil(len(rows) / batch_size))):
        if not len(part):
            continue
        inputs, labels = task.test.inputs[part], task.test.labels[part]
        runs = []
        for k in range(count):
            seen, restore = inputs, lambda answers: answers
            if k and copies and task.disguise:
                seen, restore = task.disguise(inputs, tinytrm.random_rows(k, part))
            torch.manual_seed(k * total + int(part[0]))
            runs.append(rollout(model, seen, task.test.ids[part], steps, noise if k else 0))
            runs[-1][:2] = restore(runs[-1][0]), restore(runs[-1][1])
        for j, number in enumerate(numbers):
            for i, selection in enumerate(SELECTIONS):
                chosen = choose(selection, *(np.stack(c) for c in zip(*runs[:number])))
                right[i, j] += float(((chosen == labels) | (labels == 0)).all(1).sum())
    if world > 1:
        dist.all_reduce(right)
    table = {
        selection: dict(zip(numbers, (row / total).tolist()))
        for selection, row in zip(SELECTIONS, right.cpu().double())
    }
    return dict(rollouts=table, puzzles=total, steps=steps or model.config.eval_steps)


def rollout(model: TRM, inputs, ids, steps: int | None, noise: float) -> list:
    """[last answers (B, cells), first sure answers (B, cells), last q (B,), steps until it was
    sure (B,), infinite where it never was]."""
    x, i = (torch.from_numpy(t.astype(np.int64)).to(model.device) for t in (inputs, ids))
    first, when = torch.zeros_like(x), torch.full((len(x),), math.inf, device=x.device)
    for step, (answers, q, _) in enumerate(tinytrm.think(model, x, i, steps, noise=noise)):
        now = (q > 0) & when.isinf()
        first[now], when[now] = answers[now], step + 1
    return [t.cpu().numpy() for t in (answers, first, q, when)]


def choose(selection: str, last, first, q, when) -> np.ndarray:
    """One answer per puzzle, (B, cells), out of K rollouts.

    last, first: (K, B, cells); q, when: (K, B); as `rollout` returns them. Who is equal otherwise
    is ordered by q; "first" is "q" where no rollout was ever sure.
    """
    B = np.arange(last.shape[1])
    surest = last[q.argmax(0), B]
    if selection == "q":
        return surest
    if selection == "first":
        fastest = np.lexsort((-q, when), axis=0)[0]
        return np.where(np.isinf(when).all(0)[:, None], surest, first[fastest, B])
    votes = (last[:, None] == last[None]).all(3).sum(1)  # (K, B) how many agree with each
    return last[np.lexsort((-q, -votes), axis=0)[0], B]


def plot_rollouts(result: dict, path: Path) -> None:
    """Accuracy against compute as a picture; needs matplotlib. Raises ValueError without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install -r requirements.txt") from None
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for (selection, points), marker in zip(result["rollouts"].items(), "osd"):
        label = f"{selection}: {SELECTIONS[selection]}"
        values = [100 * v for v in points.values()]
        ax.plot([*points], values, marker=marker, label=label, alpha=0.7)
    ax.set_xscale("log", base=2)
    ax.set_xticks([*points], [str(k) for k in points])
    ax.set_xlabel(f"rollouts of {result['steps']} steps each")
    ax.set_ylabel(f"exact, % of {result['puzzles']:,} puzzles")
    figure.legend(loc="outside lower left", frameon=False)
    figure.savefig(path, dpi=120)


# ------------------------------------------------------------------------------------------------
# ARC: every augmented copy of a test input is answered, turned back, and has one vote


def vote(
    task: Task,
    model: TRM,
    steps: int | None = None,
    halt: bool = False,
    copies: int | None = None,
    batch_size: int = 256,
) -> tuple[arc.Votes, int]:
    """All votes, complete in process 0, and the number of predictions."""
    side, (rank, world) = math.isqrt(model.config.seq_len), ranks()
    votes, seen = arc.Votes(task.corpus, task.table, side), 0
    for inputs, ids, meta in arc.queries(
        task.corpus, task.table, batch_size, side, copies, rank, world
    ):
        solution = tinytrm.solve(model, inputs, ids, steps, halt, batch_size)
        for (name, index, row), answer, q in zip(meta, solution.answers, solution.q):
            votes.add(name, index, row, answer, float(q))
        seen += len(meta)
    if world > 1:
        collect(votes)
        total = torch.tensor(seen, device=model.device)
        dist.all_reduce(total)
        seen = int(total)
    return votes, seen


def collect(votes: arc.Votes, chunk: int = 20) -> None:
    """Bring all votes to process 0, a few tasks at a time to keep messages small."""
    rank, world = ranks()
    asked = [task.name for task in votes.corpus.asked]
    for start in range(0, len(asked), chunk):
        names = set(asked[start : start + chunk])
        mine = {key: c for key, c in votes.counts.items() if key[0] in names}
        everyone = [None] * world
        dist.all_gather_object(everyone, mine)
        for other, counts in enumerate(everyone):
            if rank == 0 and other != 0:
                votes.merge(counts)


def arc_result(task: Task, votes: arc.Votes, seen: int) -> dict:
    """pass@k, with pass@2, the score of ARC-AGI, as exact_accuracy."""
    scored = {}
    if ranks()[0] == 0 and all(out is not None for t in task.corpus.asked for _, out in t.tests):
        scored = votes.score()
    return dict(
        exact_accuracy=scored.get(2, ""),
        pass_at=scored,
        puzzles=len(task.corpus.asked),
        predictions=seen,
    )


# ------------------------------------------------------------------------------------------------
# Reporting


def describe(result: dict) -> str:
    """The result in words, a few lines."""
    if "pass_at" in result:
        if not result["pass_at"]:
            return (
                f"answered  {result['puzzles']:,} tasks by {result['predictions']:,} predictions; "
                "there are no answers to score against"
            )
        shares = ", ".join(f"pass@{k} {v:.1%}" for k, v in result["pass_at"].items())
        return (
            f"held out  {result['puzzles']:,} tasks, {result['predictions']:,} predictions\n"
            f"          {shares}"
        )
    if "rollouts" in result:
        table = result["rollouts"]
        lines = ["rollouts  " + "".join(f"{k:>8}" for k in table["q"])]
        for name, points in table.items():
            lines.append(f"by {name:7}" + "".join(f"{v:8.1%}" for v in points.values()))
        lines.append(f"          of {result['puzzles']:,} puzzles exactly right, "
                     f"{result['steps']} steps each")
        return "\n".join(lines)
    steps = result["by_step"]
    some = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < len(steps)} | {len(steps)})
    lines = [
        f"held out  {result['exact_accuracy']:.1%} of {result['puzzles']:,} puzzles exactly right, "
        f"{result['cell_accuracy']:.1%} of the cells, in {result['mean_steps']:.1f} steps"
    ]
    if "valid_path_accuracy" in result:
        lines.append(
            f"          {result['valid_path_accuracy']:.1%} show a shortest path, "
            "the labelled one or another"
        )
    lines.append("          after step " + ", ".join(f"{k}: {steps[k - 1]:.1%}" for k in some))
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------
# The command line


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        self.exit(2, f"error: {message} (try {self.prog} -h)\n")


def choose_device(name: str | None) -> torch.device:
    """The device asked for, or the best there is; under torchrun each process its own GPU."""
    if name is None:
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise ValueError(f"--device {name}: not available on this machine") from None
    return torch.device(name)


def join_processes(device: torch.device) -> None:
    """Under torchrun, meet the other processes; alone, do nothing."""
    if "LOCAL_RANK" not in os.environ:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    how, env = dict(timeout=timedelta(minutes=10)), os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun keeps one store over its restarts: without a prefix of its own a restarted
        # process may find the address of one that has died ("Connection refused").
        store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)
        store = dist.PrefixStore(f"attempt-{env.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        how.update(store=store, rank=int(env["RANK"]), world_size=int(env["WORLD_SIZE"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **how)


def rank_0_first(function: Callable, *args):
    """What the function returns, called in process 0 before the others: it may have to make the
    files that they then find."""
    rank, world = ranks()
    if rank == 0:
        result = function(*args)
    if world > 1:
        dist.barrier()
    return result if rank == 0 else function(*args)


def leave(code: int) -> None:
    """End this process, under torchrun without the interpreter's clearing up: after an error the
    other processes are not waited for, and gloo's threads may abort an interpreter that ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        os._exit(code)
    sys.exit(code)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", nargs="?", type=Path, help="a run folder, or a file made by tinytrm.save")
    p.add_argument("--data", type=Path, help="a CSV, a folder with test.csv, or the root of the "
                   "ARC folders (default: the run's)")
    p.add_argument("--steps", type=int,
                   help="supervision steps (default: the model's eval_steps, 16 in the paper)")
    p.add_argument("--halt", action="store_true", help="let each puzzle stop as soon as its q > 0")
    p.add_argument("--puzzles", type=int, help="only the first so many")
    p.add_argument("--batch_size", type=int, default=256, help="puzzles at a time")
    p.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    p.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    g = p.add_argument_group("test-time compute (Sudoku and mazes)")
    g.add_argument("--rollouts", type=int, metavar="K", help="think K times about each puzzle; "
                   "choose an answer by q, by who is sure first, and by vote; all but the first "
                   "time about a symmetric copy, where there are any")
    g.add_argument("--noise", type=float, default=0, metavar="S", help="of this standard "
                   "deviation, added to y and z before each step of these")
    g.add_argument("--symmetry", action=argparse.BooleanOptionalAction, default=True,
                   help="--no-symmetry: no copies, noise only")
    g.add_argument("--plot", type=Path, metavar="PNG", help="accuracy against the rollouts")
    g = p.add_argument_group("ARC")
    g.add_argument("--copies", type=int,
                   help="augmented copies of each test input that vote (default: all)")
    g.add_argument("--submission", type=Path, metavar="FILE", help="write Kaggle's submission.json")
    g.add_argument("--pool", type=Path, nargs="+", default=[], metavar="RUN",
                   help="further checkpoints of the same run that vote too")
    g = p.add_argument_group("the authors' checkpoints")
    g.add_argument("--official", type=Path, metavar="FILE",
                   help="a state dict of the authors' code, instead of a run")
    g.add_argument("--task", choices=("sudoku", "maze", "arc1", "arc2"),
                   help="what it was trained for")
    g.add_argument("--n", type=int, help="its L_cycles")
    g.add_argument("--T", type=int, help="its H_cycles")
    g.add_argument("--heads", type=int, default=8)
    g.add_argument("--puzzle_tokens", type=int, default=16, help="its puzzle_emb_len")
    g.add_argument("--identifiers", type=Path, metavar="FILE",
                   help="ARC: the identifiers.json written beside its data set")
    args = p.parse_args(argv)
    check(p, args)
    return args


def check(p: Parser, args: argparse.Namespace) -> None:
    """Exit with code 2 and one line where the flags make no sense together."""
    if (args.run is None) == (args.official is None):
        p.error("give either a run folder or --official FILE")
    for name in ("task", "n", "T"):
        if args.official and getattr(args, name) is None:
            p.error(f"--official needs --{name}, which the file does not tell")
    if args.batch_size < 1 or (args.steps is not None and args.steps < 1):
        p.error("--steps and --batch_size must be at least 1")
    if args.rollouts is not None and args.rollouts < 1:
        p.error("--rollouts must be at least 1")
    if not 0 <= args.noise < math.inf:
        p.error(f"--noise must be a number >= 0, not {args.noise}")
    if args.rollouts is None and (args.noise or args.plot):
        p.error("--noise and --plot need --rollouts K")
    if args.rollouts and args.halt:
        p.error('--rollouts takes all steps; see its line "by first" for halting')


def run(args: argparse.Namespace) -> dict:
    """Load, evaluate, write the submission if asked for. Raises ValueError, OSError."""
    device = choose_device(args.device)
    join_processes(device)
    if args.official:
        model, task = official_task(args)
        model.to(device)
    else:
        model = tinytrm.load(args.run, device)
        task = rank_0_first(reopen, model, args.data)
    if task.test is not None and args.puzzles:
        task.test = first(task.test, args.puzzles)
    if args.rollouts:
        if task.kind == "arc":
            raise ValueError("ARC has votes over --copies, not --rollouts")
        if not args.noise and not (args.symmetry and task.disguise):
            raise ValueError("without symmetric copies all rollouts are the same: add --noise 0.1")
        result = rollouts(
            task, model, args.rollouts, args.noise, args.symmetry, args.steps, args.batch_size
        )
        if args.plot and ranks()[0] == 0:
            plot_rollouts(result, args.plot)
        return result
    if task.kind != "arc":
        return score(task, model, args.steps, args.halt, batch_size=args.batch_size)
    votes, seen = vote(task, model, args.steps, args.halt, args.copies, args.batch_size)
    for path in args.pool:
        other = tinytrm.load(path, device)
        if getattr(other, "extra", {}).get("about", {}).get("sha256") != task.about["sha256"]:
            raise ValueError(f"--pool {path}: its puzzle ids are not those of {args.run}")
        more, count = vote(task, other, args.steps, args.halt, args.copies, args.batch_size)
        votes.merge(more)
        seen += count
    if args.submission and ranks()[0] == 0:
        votes.write_submission(args.submission)
    return dict(arc_result(task, votes, seen), checkpoints=1 + len(args.pool))


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after an error of the user's."""
    try:
        args = parse_args(argv)
        result = run(args)
        if ranks()[0] == 0:
            print(json.dumps(result) if args.json else describe(result))
            if result.get("checkpoints", 1) > 1 and not args.json:
                print(
                    f"          pooled votes of {result['checkpoints']} checkpoints, "
                    "not comparable with one alone"
                )
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    leave(main())
