"""How good a model is, in numbers and in words."""
from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

import tinytrm
from data import arc
from support.processes import device_of
from support.tasks import Task
from tinytrm import TRM, Puzzles, rank_and_world

MOST = 200_000_000  # numbers that may be kept of what was thought


@dataclass
class Seen:
    """What `score` saw on the way, so that nobody has to think about it again."""

    votes: arc.Votes | None = None  # ARC's
    answers: np.ndarray | None = None  # (steps, N, cells) after each step, and q (steps, N): of all
    q: np.ndarray | None = None  # held-out puzzles, where one process saw them all


def score(task: Task, model: TRM, steps: int | None = None, halt: bool = False,
          copies: int | None = None, batch_size: int | None = None, seen: Seen | None = None
          ) -> dict:
    """What `tinytrm.evaluate` returns, plus what belongs to the task; fills `seen`. Processes share
    the work, and each puzzle counts once.

    Mazes: valid_path_accuracy, shortest paths that need not be the labelled ones. ARC: pass@k by
    voting over `copies` augmented copies of each test input (None: all), as `pass_at`.
    batch_size: None is `batch_of`.
    """
    batch_size = batch_size or batch_of(model)
    if task.kind == "arc":
        votes, count = vote(task, model, steps, halt, copies, batch_size)
        if seen:
            seen.votes = votes
        return arc_result(task, votes, count)
    rank, world = rank_and_world()
    steps = steps or model.config.eval_steps
    test = task.test
    mine = part_of(test, slice(rank, None, world))
    by_step = np.zeros((steps, 3))  # puzzles exactly right, shares of right cells, steps used
    judged = np.zeros(len(task.judges))
    kept = []
    done = 0
    batches = thoughts(model, mine, steps, halt, batch_size) if len(mine) else ()
    for answers, q, steps_used in batches:
        part = slice(done, done + answers.shape[1])
        inputs, labels = mine.inputs[part], mine.labels[part]
        done = part.stop
        labelled = labels > 0
        right = (answers == labels) & labelled  # (steps, B, cells)
        by_step[:, 0] += (right == labelled).all(2).sum(1)
        by_step[:, 1] += (right.sum(2) / labelled.sum(1)).sum(1)
        by_step[:, 2] += steps_used.sum(1)
        judged += [judge(inputs, answers[-1], labels).sum() for judge in task.judges.values()]
        if seen and world == 1 and not halt and steps * test.inputs.size <= MOST:
            kept.append((answers, q))
    if kept:
        seen.answers, seen.q = (np.concatenate(parts, axis=1) for parts in zip(*kept))
    sums = total(np.concatenate([by_step.ravel(), judged]), model) / len(test)
    exact, cells, used = sums[:3 * steps].reshape(steps, 3).T.tolist()
    judgements = dict(zip(task.judges, sums[3 * steps:].tolist()))
    return dict(exact_accuracy=exact[-1], cell_accuracy=cells[-1], puzzles=len(test),
                by_step=exact, mean_steps=used[-1], **judgements)


def thoughts(model: TRM, puzzles: Puzzles, steps: int, halt: bool = False,
             batch_size: int | None = None) -> Iterator[tuple[np.ndarray, ...]]:
    """What the model thinks, batch by batch: answers (steps, B, cells), q (steps, B), steps used
    (steps, B)."""
    small = np.uint8 if model.config.vocab_size <= 256 else np.int32
    size = batch_size or batch_of(model)
    for _, after_each in tinytrm.batches(model, puzzles, steps, halt, size):
        answers, q, used = (torch.stack(parts).cpu().numpy() for parts in zip(*after_each))
        yield answers.astype(small), q, used


def part_of(puzzles: Puzzles, rows: slice) -> Puzzles:
    """Some rows of them."""
    return Puzzles(puzzles.inputs[rows], puzzles.labels[rows], puzzles.ids[rows])


def batch_of(model: TRM) -> int:
    """Puzzles at a time in an evaluation: 256, but on a CPU no more than its caches have room for,
    y being 1 MB per thread (docs/experiments.md). --micro_batch says that memory is short; but
    without gradient a puzzle needs a fraction of what it needs in training."""
    most = 256
    y, _ = model.start(1)
    if y.device.type == "cpu":
        most = max(8, 2**20 * torch.get_num_threads() // y.nbytes)
    if model.config.micro_batch:
        most = min(most, 4 * model.config.micro_batch)
    return min(256, most)


def total(numbers: np.ndarray, model: TRM) -> np.ndarray:
    """The sum of every process's numbers."""
    if rank_and_world()[1] == 1:
        return numbers
    tensor = torch.from_numpy(numbers).float().to(device_of(model))
    dist.all_reduce(tensor)
    return tensor.double().cpu().numpy()


# ------------------------------------------------------------------------------------------------
# ARC: every augmented copy of a test input is answered, turned back, and has one vote


def vote(task: Task, model: TRM, steps: int | None = None, halt: bool = False,
         copies: int | None = None, batch_size: int = 256) -> tuple[arc.Votes, int]:
    """All votes, complete in process 0, and the number of predictions."""
    side, (rank, world) = math.isqrt(model.config.seq_len), rank_and_world()
    votes, seen = arc.Votes(task.corpus, task.table, side), 0
    for inputs, ids, meta in arc.queries(task.corpus, task.table, batch_size, side, copies, rank,
                                         world):
        solution = tinytrm.solve(model, inputs, ids, steps, halt, batch_size)
        for (name, index, row), answer, q in zip(meta, solution.answers, solution.q):
            votes.add(name, index, row, answer, float(q))
        seen += len(meta)
    if world > 1:
        collect(votes)
    return votes, int(total(np.array([seen]), model)[0])


def collect(votes: arc.Votes, chunk: int = 20) -> None:
    """Bring all votes to process 0, a few tasks at a time to keep messages small."""
    rank, world = rank_and_world()
    asked = [task.name for task in votes.corpus.asked]
    for start in range(0, len(asked), chunk):
        names = set(asked[start:start + chunk])
        mine = {key: c for key, c in votes.counts.items() if key[0] in names}
        everyone: list = [None] * world
        dist.all_gather_object(everyone, mine)
        for other, counts in enumerate(everyone):
            if rank == 0 and other != 0:
                votes.merge(counts)


def arc_result(task: Task, votes: arc.Votes, seen: int) -> dict:
    """pass@k, with pass@2, the score of ARC-AGI, as exact_accuracy; neither if an answer to score
    against is missing."""
    missing = sum(out is None for t in task.corpus.asked for _, out in t.tests)
    scored = votes.score() if not missing and rank_and_world()[0] == 0 else {}
    return dict(exact_accuracy=scored.get(2, ""), pass_at=scored, puzzles=len(task.corpus.asked),
                predictions=seen, missing=missing)


# ------------------------------------------------------------------------------------------------
# In words


def describe(result: dict) -> str:
    """The result in words, a few lines."""
    if "pass_at" in result:
        lines = describe_arc(result)
    elif "rollouts" in result:
        lines = describe_rollouts(result)
    else:
        lines = describe_puzzles(result)
    return "\n".join(lines + [f"          {remark}" for remark in result.get("remarks", ())])


def describe_arc(result: dict) -> list[str]:
    """pass@k, or that there is nothing to score against."""
    if not result["pass_at"]:
        return [f"answered  {result['puzzles']:,} tasks by {result['predictions']:,} predictions; "
                f"no score, for answers to score against are missing: {result['missing']:,}"]
    shares = ", ".join(f"pass@{k} {v:.1%}" for k, v in result["pass_at"].items())
    return [f"held out  {result['puzzles']:,} tasks, {result['predictions']:,} predictions",
            f"          {shares}"]


def describe_rollouts(result: dict) -> list[str]:
    """A table: ways to choose against numbers of rollouts."""
    table = result["rollouts"]
    lines = ["rollouts  " + "".join(f"{k:>8}" for k in next(iter(table.values())))]
    for name, points in table.items():
        lines.append(f"by {name:7}" + "".join(f"{v:8.1%}" for v in points.values()))
    lines.append(f"          of {result['puzzles']:,} puzzles exactly right, "
                 f"{result['steps']} steps each")
    if "guesses" in result:
        lines.append(f"          with up to {result['guesses']} cells of the answer before, until "
                     f"one keeps the rules: {result['mean_rollouts']:.1f} rollouts in the mean")
    return lines


def describe_puzzles(result: dict) -> list[str]:
    """Exact accuracy, and how it grows over the steps."""
    steps = result["by_step"]
    some = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < len(steps)} | {len(steps)})
    lines = [f"held out  {result['exact_accuracy']:.1%} of {result['puzzles']:,} puzzles exactly "
             f"right, {result['cell_accuracy']:.1%} of the cells, in {result['mean_steps']:.1f} "
             "steps"]
    if "valid_path_accuracy" in result:
        lines.append(f"          {result['valid_path_accuracy']:.1%} show a shortest path, the "
                     "labelled one or another")
    return [*lines, "          after step " + ", ".join(f"{k}: {steps[k - 1]:.1%}" for k in some)]


# ------------------------------------------------------------------------------------------------
# In pictures


def thinking(task: Task, model: TRM, among: int = 200) -> str:
    """A picture, step by step, of the one of the first held-out puzzles that takes longest to
    solve, but of no more steps than a screen holds."""
    test, size, parts = task.test, batch_of(model), []
    assert task.render
    for i in range(0, min(among, len(test)), size):
        inputs, ids = (torch.from_numpy(t[i:min(i + size, among)].astype(np.int64))
                       for t in (test.inputs, test.ids))
        steps = model.think(inputs, ids)
        parts.append(np.stack([a.cpu().numpy() for a, *_ in steps]))
    answers = np.concatenate(parts, 1)
    wrong = (answers != test.labels[:among]).sum(2)  # (steps, puzzles) cells
    needed = np.where((wrong[:6] == 0).any(0), (wrong == 0).argmax(0), -1)  # first step all right
    i, pictures = int(needed.argmax()), []
    for k in range(needed[i] + 1 if needed[i] >= 0 else min(4, len(answers))):
        title = f"step {k + 1}: " + (f"{wrong[k, i]} cells wrong" if wrong[k, i] else "solved")
        picture = task.render(test.inputs[i], answers[k, i], test.labels[i], sys.stdout.isatty())
        pictures.append([title, *picture.splitlines()])
    return "\nA puzzle it has never seen, thought through (x = wrong):\n\n" + beside(pictures)


def beside(pictures: list[list[str]], columns: int = 100) -> str:
    """Pictures, lists of lines, side by side, in as many rows as so many columns need."""
    def length(line: str) -> int:  # colours take no room
        return len(re.sub(r"\x1b\[[\d;]*m", "", line))

    width, text = 3 + max(length(line) for p in pictures for line in p), []
    per_row = max(1, columns // width)
    for start in range(0, len(pictures), per_row):
        for lines in zip(*pictures[start:start + per_row]):
            text.append("".join(t + " " * (width - length(t)) for t in lines).rstrip())
        text.append("")
    return "\n".join(text)
