"""A dozen toy ARC tasks in ARC's own JSON format, to see the whole ARC path work in minutes.

Each task follows one simple rule on grids of at most 4x4 cells, which a square of side 4 holds, so
that only the smaller grids have room to move. Real ARC shows about three pairs per task and asks
one or two test inputs. These show 32 and ask 4: with 12 a network of 64 features learnt every pair
by heart (99 % of the training puzzles right) and answered a third of the questions.

The `arc-mini` preset (attention that sees rows and columns) answers 23 or 24 of 24 questions in
two attempts (docs/results.md). The MLP mixer before it answered 13 or 14 after 3000 steps, 19 after
8000: filling and framing were learnt early, mirrors and gravity late or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.arc import Corpus, own_corpus
from data.files import read_text, replacing

SIDE = 4  # of the square; no grid is larger

# ------------------------------------------------------------------------------------------------
# Rules: a function of (rng, colours) makes a pair. `colours` are three different colours 1..9 that
# the task keeps; `rng` goes on from pair to pair. Inputs are 4x4, 2x2 for larger outputs.


def _noise(rng, colours, side=4, density=0.5):
    """(side, side) grid: a cell is coloured with this chance, in one of `colours`."""
    return np.where(rng.random((side, side)) < density, rng.choice(colours, (side, side)), 0)


def _box(rng, low):
    """Slices of a random rectangle in a 4x4 grid, its sides at least `low`."""
    top, left = rng.integers(0, 5 - low, 2)
    return (slice(top, rng.integers(top + low, 5)), slice(left, rng.integers(left + low, 5)))


def mirror(rng, colours):
    """Left and right trade places."""
    x = _noise(rng, colours)
    return x, x[:, ::-1]


def recolour(rng, colours):
    """Two colours trade places."""
    a, b, _ = colours
    x = _noise(rng, colours)
    return x, np.select([x == a, x == b], [b, a], x)


def gravity(rng, colours):
    """Cells fall to the ground, keeping their order."""
    x = _noise(rng, colours, density=0.3)
    return x, np.take_along_axis(x, np.argsort(x > 0, 0, kind="stable"), 0)


def outline(rng, colours):
    """Of a filled rectangle only the border stays."""
    x, box = np.zeros((4, 4), int), _box(rng, 3)
    x[box] = rng.choice(np.setdiff1d(np.arange(1, 10), colours[0]))
    y = x.copy()
    y[box][1:-1, 1:-1] = 0
    return x, y


def fill(rng, colours):
    """A hollow rectangle is filled with another colour."""
    full, hollow = outline(rng, colours)
    return hollow, np.where(full > hollow, colours[0], hollow)


def count(rng, colours):
    """As many cells in a row as there are cells."""
    n = rng.integers(1, 5)
    x = np.zeros((4, 4), int)
    x.flat[rng.permutation(16)[:n]] = colours[0]
    return x, np.full((1, n), colours[0])


def crop(rng, colours):
    """The rectangle around the object."""
    x, box = np.zeros((4, 4), int), _box(rng, 2)
    x[box] = rng.choice(colours, x[box].shape)
    return x, x[box]


def tile(rng, colours):
    """The grid twice, side by side."""
    x = _noise(rng, colours, 2)
    return x, np.hstack([x, x])


def lines(rng, colours):
    """Every dot becomes a full row."""
    x = np.zeros((4, 4), int)
    rows = rng.permutation(4)[:rng.integers(1, 4)]
    x[rows, rng.integers(0, 4, len(rows))] = rng.choice(colours, len(rows))
    return x, np.broadcast_to(x.max(1, keepdims=True), x.shape)


def majority(rng, colours):
    """One cell of the colour that most cells have; of two that have eight each, of the second."""
    x = _noise(rng, colours[:2], density=1.0)
    more = (x == colours[0]).sum() > 8
    return x, np.array([[colours[0] if more else colours[1]]])


def frame(rng, colours):
    """A border drawn around the grid, over what was there."""
    x = _noise(rng, colours[1:])
    return x, np.pad(x[1:-1, 1:-1], 1, constant_values=colours[0])


def enlarge(rng, colours):
    """Every cell becomes two by two."""
    x = _noise(rng, colours, 2)
    return x, x.repeat(2, 0).repeat(2, 1)


RULES = (mirror, recolour, gravity, outline, fill, count,
         crop, tile, lines, majority, frame, enlarge)

# ------------------------------------------------------------------------------------------------


def make_task(rule: Callable, rng: np.random.Generator, demonstrations: int = 32,
              tests: int = 4) -> dict[str, list]:
    """One task in ARC's JSON format; no two of its inputs are equal.

    Raises ValueError for a rule without so many different inputs.
    """
    colours = 1 + rng.permutation(9)[:3]
    found: dict[str, dict] = {}
    wanted = demonstrations + tests
    for _ in range(100 * wanted):
        x, y = (grid.tolist() for grid in rule(rng, colours))
        found.setdefault(str(x), {"input": x, "output": y})
        if len(found) == wanted:
            break
    if len(found) < wanted:
        raise ValueError(f"rule {rule.__name__} has {len(found)} different inputs, not {wanted}")
    pairs = list(found.values())
    return {"train": pairs[:demonstrations], "test": pairs[demonstrations:]}


def mini_tasks(tasks: int = 12, seed: int = 0) -> dict[str, dict[str, dict]]:
    """{"training": {name: task}, "evaluation": {name: task}}, half each, tasks in JSON format.

    Task k follows RULES[k % 12]. The same arguments give the same tasks.
    """
    made: dict[str, dict[str, dict]] = {"training": {}, "evaluation": {}}
    for k in range(tasks):
        rule = RULES[k % len(RULES)]
        name = f"{rule.__name__}{k // len(RULES)}"
        made["training" if k % 2 else "evaluation"][name] = make_task(
            rule, np.random.default_rng((seed, k)))
    return made


def mini_corpus(tasks: int = 12, seed: int = 0) -> Corpus:
    """The corpus of `mini_tasks`, made in memory: no file is read or written."""
    made = mini_tasks(tasks, seed)
    return own_corpus([made["training"]], [made["evaluation"]], "arc-mini")


def write_tasks(folder: str | Path, tasks: int = 12, seed: int = 0) -> None:
    """Write `mini_tasks` as one JSON file each into `folder`/training and `folder`/evaluation.

    Raises ValueError, and writes nothing, if one would take the place of another file; OSError.
    """
    files = {Path(folder, role, f"{name}.json"): json.dumps(task)
             for role, made in mini_tasks(tasks, seed).items() for name, task in made.items()}
    for path, content in files.items():
        if path.exists() and read_text(path) != content:
            raise ValueError(f"{path}: is there already, with other content; name another folder")
    for path, content in files.items():
        with replacing(path) as file:
            file.write(content.encode())
