"""A dozen toy ARC tasks in ARC's own JSON format, to see the whole ARC path work in minutes.

Each task follows one simple rule on grids of at most 4x4 cells, which a square of side 4 holds, so
that only the smaller grids have room to move. Real ARC shows about three pairs per task and asks
one or two test inputs. These show 32 and ask 4: with 12 a network of 64 features learnt every pair
by heart (99 % of the training puzzles right) and answered a third of the questions.

The `arc-mini` preset answers over half of the 24 questions (README); after 2200 of its 3000 steps,
64 % of the training puzzles right, filling and framing were learnt, mirrors and gravity not at all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from data.arc import own_corpus

SIDE = 4  # of the square; no grid is larger

# ------------------------------------------------------------------------------------------------
# Rules: a function of (random, colours) makes a pair. `colours` are three different colours 1..9
# that the task keeps; `random` goes on from pair to pair. Inputs are 4x4, 2x2 for larger outputs.


def _noise(random, colours, side=4, density=0.5):
    """(side, side) grid: a cell is coloured with this chance, in one of `colours`."""
    return np.where(random.random((side, side)) < density, random.choice(colours, (side, side)), 0)


def _box(random, low):
    """Slices of a random rectangle in a 4x4 grid, its sides at least `low`."""
    top, left = random.integers(0, 5 - low, 2)
    return (slice(top, random.integers(top + low, 5)), slice(left, random.integers(left + low, 5)))


def mirror(random, colours):
    """Left and right trade places."""
    x = _noise(random, colours)
    return x, x[:, ::-1]


def recolour(random, colours):
    """Two colours trade places."""
    a, b, _ = colours
    x = _noise(random, colours)
    return x, np.select([x == a, x == b], [b, a], x)


def gravity(random, colours):
    """Cells fall to the ground, keeping their order."""
    x = _noise(random, colours, density=0.3)
    return x, np.take_along_axis(x, np.argsort(x > 0, 0, kind="stable"), 0)


def outline(random, colours):
    """Of a filled rectangle only the border stays."""
    x, box = np.zeros((4, 4), int), _box(random, 3)
    x[box] = random.choice(np.setdiff1d(np.arange(1, 10), colours[0]))
    y = x.copy()
    y[box][1:-1, 1:-1] = 0
    return x, y


def fill(random, colours):
    """A hollow rectangle is filled with another colour."""
    full, hollow = outline(random, colours)
    return hollow, np.where(full > hollow, colours[0], hollow)


def count(random, colours):
    """As many cells in a row as there are cells."""
    n = random.integers(1, 5)
    x = np.zeros((4, 4), int)
    x.flat[random.permutation(16)[:n]] = colours[0]
    return x, np.full((1, n), colours[0])


def crop(random, colours):
    """The rectangle around the object."""
    x, box = np.zeros((4, 4), int), _box(random, 2)
    x[box] = random.choice(colours, x[box].shape)
    return x, x[box]


def tile(random, colours):
    """The grid twice, side by side."""
    x = _noise(random, colours, 2)
    return x, np.hstack([x, x])


def lines(random, colours):
    """Every dot becomes a full row."""
    x = np.zeros((4, 4), int)
    rows = random.permutation(4)[: random.integers(1, 4)]
    x[rows, random.integers(0, 4, len(rows))] = random.choice(colours, len(rows))
    return x, np.broadcast_to(x.max(1, keepdims=True), x.shape)


def majority(random, colours):
    """One cell of the colour that most cells have."""
    x = _noise(random, colours[:2], density=1.0)
    more = (x == colours[0]).sum() > 8
    return x, np.array([[colours[0] if more else colours[1]]])


def frame(random, colours):
    """A border drawn around the grid, over what was there."""
    x = _noise(random, colours[1:])
    return x, np.pad(x[1:-1, 1:-1], 1, constant_values=colours[0])


def enlarge(random, colours):
    """Every cell becomes two by two."""
    x = _noise(random, colours, 2)
    return x, x.repeat(2, 0).repeat(2, 1)


RULES = (mirror, recolour, gravity, outline, fill, count,
         crop, tile, lines, majority, frame, enlarge)

# ------------------------------------------------------------------------------------------------


def make_task(rule, random, demonstrations=32, tests=4):
    """One task in ARC's JSON format; no two of its inputs are equal."""
    colours = 1 + random.permutation(9)[:3]
    pairs, wanted = {}, demonstrations + tests
    for _ in range(100 * wanted):
        x, y = (grid.tolist() for grid in rule(random, colours))
        pairs.setdefault(str(x), {"input": x, "output": y})
        if len(pairs) == wanted:
            break
    if len(pairs) < wanted:
        raise ValueError(f"rule {rule.__name__} has {len(pairs)} different inputs, not {wanted}")
    pairs = list(pairs.values())
    return {"train": pairs[:demonstrations], "test": pairs[demonstrations:]}


def mini_corpus(folder, tasks=12, seed=0):
    """Write `tasks` tasks into `folder`/training and `folder`/evaluation, half each, and read them.

    Task k follows RULES[k % 12]. The same seed gives the same files; returns their `Corpus`.
    """
    folder = Path(folder)
    for name in ("training", "evaluation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k in range(tasks):
        rule = RULES[k % len(RULES)]
        task = make_task(rule, np.random.default_rng((seed, k)))
        role = ("evaluation", "training")[k % 2]
        path = folder / role / f"{rule.__name__}{k // len(RULES)}.json"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # several may write at once
        temporary.write_text(json.dumps(task))
        os.replace(temporary, path)
    return own_corpus([folder / "training"], [folder / "evaluation"], "arc-mini")
