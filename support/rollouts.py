"""Test-time compute: think about each puzzle several times, then choose one of the answers.

All but the first time the model sees a symmetric copy of the puzzle (arXiv 2601.19085).
"""
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from data.grid import Random
from support.scoring import batch_of, thoughts, total
from support.tasks import Task
from tinytrm import TRM, Puzzles, rank_and_world

SELECTIONS = {
    "q": "the last answer with the highest q",
    "first": "the answer of the first rollout that was sure (q > 0)",
    "vote": "the most frequent last answer",
    "rules": "the last answer that keeps the rules, with the highest q; else as q",
}
GUESS = "guesses, until the last answer keeps the rules"  # see `search`


class Rollout(NamedTuple):
    """What thinking once about B puzzles has brought."""

    last: np.ndarray  # (B, cells) answers after all steps, those that `TRM.think` keeps
    first: np.ndarray  # (B, cells) answers when it was first sure, q > 0
    q: np.ndarray  # (B,) of `last`
    when: np.ndarray  # (B,) steps until it was sure, infinite where it never was
    kept: np.ndarray  # (B,) bool: the last answer is known to keep the rules


def rollout(model: TRM, inputs: np.ndarray, ids: np.ndarray, steps: int) -> Rollout:
    """Think once about puzzles (B, cells) with ids (B,)."""
    puzzles = Puzzles(inputs, np.ones_like(inputs), ids)
    ((answers, q, _),) = thoughts(model, puzzles, steps, batch_size=len(inputs))
    sure = q > 0  # (steps, B)
    step = np.where(sure.any(0), sure.argmax(0), 0)
    first = answers[step, np.arange(len(inputs))]
    when = np.where(sure.any(0), step + 1.0, math.inf)
    return Rollout(answers[-1], first, q[-1], when, np.zeros(len(inputs), bool))


def rollouts(task: Task, model: TRM, count: int, steps: int | None = None,
             batch_size: int | None = None) -> dict:
    """Exact accuracy of `count` rollouts per puzzle, and of fewer, under each of SELECTIONS.

    Returns {selection: {number of rollouts: accuracy}} as `rollouts`; "rules", which alone knows
    more than the model, only where the task says what they are. Raises ValueError if these puzzles
    have no symmetric copies.
    """
    if not task.disguise:
        raise ValueError("--rollouts needs symmetric copies, which these puzzles do not have")
    rank, world = rank_and_world()
    test, numbers = task.test, shown(count)
    selections = [s for s in SELECTIONS if s != "rules" or task.keeps_rules]
    right = np.zeros((len(selections), len(numbers)))
    steps, batch_size = steps or model.config.eval_steps, batch_size or batch_of(model)
    rows = np.arange(rank, len(test), world)
    for part in (rows[i:i + batch_size] for i in range(0, len(rows), batch_size)):
        inputs, labels, runs = test.inputs[part], test.labels[part], []
        for k in range(count):
            seen, restore = inputs, lambda answers: answers
            if k:
                seen, restore = task.disguise(inputs, draws(k, part))
            run = rollout(model, seen, test.ids[part], steps)
            last, kept = restore(run.last), run.kept
            if task.keeps_rules:
                kept = task.keeps_rules(inputs, last)
            runs.append(run._replace(last=last, first=restore(run.first), kept=kept))
        for j, number in enumerate(numbers):
            for i, selection in enumerate(selections):
                chosen = choose(selection, *(np.stack(c) for c in zip(*runs[:number])))
                right[i, j] += ((chosen == labels) | (labels == 0)).all(1).sum()
    shares = (total(right, model) / len(test)).tolist()
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
    right, used = np.zeros(count), 0
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
    *shares, mean = (total(np.append(right, used), model) / len(test)).tolist()
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


def draws(k: int, rows: np.ndarray) -> Random:
    """random(m) -> (len(rows), m) uniform numbers; those of a puzzle depend on k and its row."""
    generators = [np.random.default_rng((k, int(row))) for row in rows]
    return lambda m: np.stack([generator.random(m) for generator in generators])
