"""Test-time compute: think about each puzzle several times, then choose one of the answers."""
from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data.files import replacing
from data.grid import Random
from support.processes import device_of
from support.scoring import batch_of, keep_best
from support.tasks import Task
from tinytrm import TRM, rank_and_world

SELECTIONS = {
    "q": "the last answer with the highest q",
    "first": "the answer of the first rollout that was sure (q > 0)",
    "vote": "the most frequent last answer",
    "rules": "the last answer that keeps the rules, with the highest q; else as q",
}
NOISE = 1  # other random numbers than those of `draws`; 0 would give the same ones
GUESS = "guesses, until the last answer keeps the rules"  # see `search`


def rollouts(task: Task, model: TRM, count: int, noise: float = 0, copies: bool = True,
             steps: int | None = None, batch_size: int | None = None) -> dict:
    """Exact accuracy of `count` rollouts per puzzle, and of fewer, under each of SELECTIONS.

    Rollout 0 is the plain one. The others add noise to y and z before each step (arXiv 2605.19943)
    and, with `copies` and where the puzzles have exact symmetries, see a symmetric copy of the
    puzzle (2601.19085). Returns {selection: {number of rollouts: accuracy}} as `rollouts`;
    "rules", which alone knows more than the model, only where the task says what they are.
    """
    (rank, world), test, numbers = rank_and_world(), task.test, shown(count)
    selections = [s for s in SELECTIONS if s != "rules" or task.keeps_rules]
    right = torch.zeros(len(selections), len(numbers), device=device_of(model))
    steps, batch_size = steps or model.config.eval_steps, batch_size or batch_of(model)
    rows = np.arange(rank, len(test), world)
    for part in (rows[i:i + batch_size] for i in range(0, len(rows), batch_size)):
        inputs, labels, runs = test.inputs[part], test.labels[part], []
        for k in range(count):
            seen, restore = inputs, lambda answers: answers
            if k and copies and task.disguise:
                seen, restore = task.disguise(inputs, draws(k, part))
            run = rollout(model, seen, test.ids[part], steps, noise if k else 0,
                          seeded(k, part, NOISE))
            last, kept = restore(run.last), run.kept
            if task.keeps_rules:
                kept = task.keeps_rules(inputs, last)
            runs.append(run._replace(last=last, first=restore(run.first), kept=kept))
        for j, number in enumerate(numbers):
            for i, selection in enumerate(selections):
                chosen = choose(selection, *(np.stack(c) for c in zip(*runs[:number])))
                right[i, j] += float(((chosen == labels) | (labels == 0)).all(1).sum())
    if world > 1:
        dist.all_reduce(right)
    shares = (right.cpu().double() / len(test)).tolist()
    return dict(rollouts={name: dict(zip(numbers, row)) for name, row in zip(selections, shares)},
                puzzles=len(test), steps=steps)


def search(task: Task, model: TRM, count: int, guesses: int, steps: int | None = None,
           batch_size: int | None = None) -> dict:
    """Exact accuracy if puzzles are thought about until an answer keeps the rules, `count` times at
    most. From the second time on, the question is a symmetric copy in which 1 to `guesses` cells of
    the last answer stand as if they were given: a walk from answer to answer, in which a guess
    that was wrong is forgotten at the next. NOTE(paper): not in it, and it needs a task that says
    what its rules are. Returns what `rollouts` does, and `mean_rollouts`.
    """
    (rank, world), test, steps = rank_and_world(), task.test, steps or model.config.eval_steps
    if not task.keeps_rules or not task.disguise:
        raise ValueError("guesses are for Sudoku alone, where an answer can be checked")
    right, used = torch.zeros(count, device=device_of(model)), 0
    batch_size = batch_size or batch_of(model)
    rows = np.arange(rank, len(test), world)
    for part in (rows[i:i + batch_size] for i in range(0, len(rows), batch_size)):
        inputs, labels = test.inputs[part], test.labels[part]
        answers, left = inputs.copy(), np.arange(len(part))  # whose answers break the rules
        for k in range(count):
            if len(left):
                seen, restore, random = inputs[left], lambda a: a, draws(k, part[left])
                if k:
                    seen, restore = task.disguise(guess(seen, answers[left], guesses, random),
                                                  random)
                answers[left] = restore(rollout(model, seen, test.ids[part[left]], steps).last)
                used += len(left)
                left = left[~task.keeps_rules(inputs[left], answers[left])]
            right[k] += int(((answers == labels) | (labels == 0)).all(1).sum())
    total = torch.cat([right, right.new_tensor([used])])
    if world > 1:
        dist.all_reduce(total)
    *shares, mean = (total.cpu().double() / len(test)).tolist()
    return dict(rollouts={"guess": {k: shares[k - 1] for k in shown(count)}}, puzzles=len(test),
                steps=steps, guesses=guesses, mean_rollouts=mean)


def guess(inputs: np.ndarray, answers: np.ndarray, most: int, random: Random) -> np.ndarray:
    """Questions (B, L) with 1 to `most` of their empty cells (token 1) as in the answers."""
    cells, number = random(inputs.shape[1]), (random(1) * most).astype(int) + 1
    cells[(inputs != 1) | (answers < 2)] = 2  # those that are taken last, and then not at all
    chosen = (cells.argsort(1).argsort(1) < number) & (cells < 2)
    return np.where(chosen, answers, inputs)


def shown(count: int) -> list[int]:
    """The numbers of rollouts of which a figure is shown: powers of two, and all."""
    return sorted({2**k for k in range(count.bit_length()) if 2**k <= count} | {count})


def seeded(k: int, rows: np.ndarray, *what: int) -> list[np.random.Generator]:
    """One for each puzzle, so that it meets the same numbers in whatever batch; `what` they are
    for tells streams apart."""
    return [np.random.default_rng((k, int(row), *what)) for row in rows]


def draws(k: int, rows: np.ndarray) -> Random:
    """random(m) -> (len(rows), m) uniform numbers."""
    generators = seeded(k, rows)
    return lambda m: np.stack([generator.random(m) for generator in generators])


class Rollout(NamedTuple):
    """What thinking once about B puzzles has brought."""

    last: np.ndarray  # (B, cells) answers after all steps, those that `TRM.think` keeps
    first: np.ndarray  # (B, cells) answers when it was first sure, q > 0
    q: np.ndarray  # (B,) of `last`
    when: np.ndarray  # (B,) steps until it was sure, infinite where it never was
    kept: np.ndarray  # (B,) bool: the last answer is known to keep the rules


@torch.no_grad()
def rollout(model: TRM, inputs: np.ndarray, ids: np.ndarray, steps: int, noise: float = 0,
            random: Sequence[np.random.Generator] = ()) -> Rollout:
    """Think about puzzles (B, cells) with ids (B,); random: B generators of the noise."""
    x, i = (torch.from_numpy(t.astype(np.int64)).to(device_of(model)) for t in (inputs, ids))
    rows, (y, z) = model.get_buffer("puzzle_table")[i], model.start(len(x))
    first, when = torch.zeros_like(x), torch.full((len(x),), math.inf, device=x.device)
    best = None
    for step in range(steps):
        if noise:  # y and z have root-mean-square 1
            y, z = (t + noise * normal(random, t) for t in (y, z))
        y, z, logits, q = model(x, rows, y, z)
        answers, now = logits.argmax(-1), (q > 0) & when.isinf()
        first[now], when[now] = answers[now], step + 1
        last, last_q = best = keep_best(model, best, answers, q)
    return Rollout(*(t.cpu().numpy() for t in (last, first, last_q, when, torch.zeros_like(now))))


def normal(random: Sequence[np.random.Generator], like: Tensor) -> Tensor:
    """Normal numbers in the shape of (B, ...), each puzzle's from its own generator."""
    numbers = [one.standard_normal(like.shape[1:], np.float32) for one in random]
    return torch.from_numpy(np.stack(numbers)).to(like)


def choose(selection: str, last: np.ndarray, first: np.ndarray, q: np.ndarray, when: np.ndarray,
           kept: np.ndarray) -> np.ndarray:
    """One answer per puzzle, (B, cells), out of K rollouts, each array with K in front.

    Who is equal otherwise is ordered by q; "first" is "q" where no rollout was ever sure.
    """
    B = np.arange(last.shape[1])
    surest = last[q.argmax(0), B]
    if selection == "q":
        return surest
    if selection == "rules":
        return last[np.lexsort((-q, ~kept), axis=0)[0], B]
    if selection == "first":
        fastest = np.lexsort((-q, when), axis=0)[0]
        return np.where(np.isinf(when).all(0)[:, None], surest, first[fastest, B])
    votes = np.stack([(one == last).all(2).sum(0) for one in last])  # (K, B) who agree with each
    return last[np.lexsort((-q, -votes), axis=0)[0], B]


def plot_rollouts(result: dict, path: Path) -> None:
    """Accuracy against compute as a picture, after `console.check_picture`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    for (selection, points), marker in zip(result["rollouts"].items(), "osd^"):
        label = f"{selection}: {SELECTIONS.get(selection, GUESS)}"
        values = [100 * v for v in points.values()]
        ax.plot([*points], values, marker=marker, label=label, alpha=0.7)
    ax.set_xscale("log", base=2)
    ax.set_xticks([*points], [str(k) for k in points])
    ax.set_xlabel(f"rollouts of {result['steps']} steps each")
    ax.set_ylabel(f"exact, % of {result['puzzles']:,} puzzles")
    figure.legend(loc="outside lower left", frameon=False)
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=120)
