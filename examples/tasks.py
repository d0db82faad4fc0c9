"""Ten tasks of one's own. Each is one function: (random, count) -> inputs, labels (N, cells) and,
if there are several rules, ids (N,). Token 0 is padding in inputs and "not labelled" in labels, so
every alphabet here starts at 1. `split` makes the rows to learn from and those to be asked."""
from __future__ import annotations

import numpy as np

Data = tuple[np.ndarray, ...]


def sort(random: np.random.Generator, count: int) -> Data:
    """Twelve digits, put in order."""
    digits = random.integers(1, 11, (count, 12))
    return digits, np.sort(digits, axis=1)


def reverse(random: np.random.Generator, count: int) -> Data:
    """A word of 4 to 16 letters, backwards; what is behind its end is padding."""
    words, length = random.integers(1, 11, (count, 16)), random.integers(4, 17, (count, 1))
    place = np.arange(16)
    mirrored = np.take_along_axis(words, (length - 1 - place) % 16, axis=1)
    return np.where(place < length, words, 0), np.where(place < length, mirrored, 0)


def add(random: np.random.Generator, count: int) -> Data:
    """Two numbers of five digits; their sum has six, and the other cells are not labelled."""
    a, b = random.integers(0, 100_000, (2, count, 1))
    digits = lambda number, k: number // 10 ** np.arange(k - 1, -1, -1) % 10 + 1  # 3 -> token 4
    inputs = np.concatenate([digits(a, 5), np.full_like(a, 11), digits(b, 5)], axis=1)  # 11: "+"
    labels = np.zeros_like(inputs)
    labels[:, -6:] = digits(a + b, 6)
    return inputs, labels


def brackets(random: np.random.Generator, count: int) -> Data:
    """32 opening and closing brackets; at each, how many are open. None closes what is not open,
    none opens an eleventh."""
    inputs, labels = np.zeros((2, count, 32), int)
    depth = np.zeros(count, int)
    for i in range(32):
        opens = (random.random(count) < 0.5) & (depth < 10) | (depth == 0)
        depth += np.where(opens, 1, -1)
        inputs[:, i], labels[:, i] = np.where(opens, 1, 2), depth + 1
    return inputs, labels


def neighbours(grids: np.ndarray) -> list[np.ndarray]:
    """Grids (N, H, W) moved by one cell down, up, right, left; outside is 0."""
    wide = np.pad(grids, ((0, 0), (1, 1), (1, 1)))
    return [wide[:, :-2, 1:-1], wide[:, 2:, 1:-1], wide[:, 1:-1, :-2], wide[:, 1:-1, 2:]]


def flood(random: np.random.Generator, count: int) -> Data:
    """An 8x8 room, a third of it walls (1), with a spring (3): which cells (2) get wet (3)?"""
    cells = np.where(random.random((count, 64)) < 1 / 3, 1, 2)
    cells[np.arange(count), random.integers(0, 64, count)] = 3
    wet = (cells == 3).reshape(-1, 8, 8)
    for _ in range(63):
        wet |= np.any(neighbours(wet), axis=0) & (cells != 1).reshape(-1, 8, 8)
    return cells, np.where(wet.reshape(-1, 64), 3, cells)


def distance(random: np.random.Generator, count: int) -> Data:
    """A 6x6 room, a quarter of it walls (1), with two exits (3): how far is the nearest one? Walls
    and cells without a way out 1, exits 2, and one more for each move, 12 for ten or more."""
    cells = np.where(random.random((count, 36)) < 1 / 4, 1, 2)
    for places in random.random((count, 36)).argsort(1)[:, :2].T:
        cells[np.arange(count), places] = 3
    far = np.where(cells == 3, 2, 99).reshape(-1, 6, 6)
    for _ in range(35):
        near = np.min([np.where(n == 0, 99, n) for n in neighbours(far)], axis=0) + 1
        far = np.where(cells.reshape(-1, 6, 6) == 1, 99, np.minimum(far, near))
    far = np.where(far >= 99, 1, np.minimum(far, 12))
    return cells, far.reshape(-1, 36)


def life(random: np.random.Generator, count: int) -> Data:
    """Conway's Game of Life, 8x8 with joined edges: dead (1) and living (2) cells one step on."""
    now = random.random((count, 8, 8)) < 0.4
    ring = [np.roll(now, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    total = np.sum(ring, axis=0)  # itself included
    then = (total == 3) | (total == 4) & now
    return now.reshape(count, 64) + 1, then.reshape(count, 64) + 1


def frost(random: np.random.Generator, count: int) -> Data:
    """A crystal grows for three steps, 8x8: a free cell (1) with exactly one frozen (2) among its
    four neighbours freezes."""
    start = now = random.random((count, 8, 8)) < 0.12
    for _ in range(3):
        now = now | (np.sum(neighbours(now.astype(int)), axis=0) == 1)
    return start.reshape(count, 64) + 1, now.reshape(count, 64) + 1


def lights(random: np.random.Generator, count: int) -> Data:
    """Lights Out, 3x3: a press switches a lamp and its neighbours. Which presses (2) darken all?"""
    presses = random.integers(0, 2, (count, 3, 3))
    lamps = (presses + np.sum(neighbours(presses), axis=0)) % 2
    return lamps.reshape(count, 9) + 1, presses.reshape(count, 9) + 1


def rules(random: np.random.Generator, count: int) -> Data:
    """Eight rules for 4x4 grids of nine colours, told apart by their id alone: turns, mirrors and
    shifts, each with another rotation of the colours."""
    grids, ids = random.integers(0, 9, (count, 4, 4)), random.integers(0, 8, count)
    labels = np.empty_like(grids)
    for i, move in enumerate([lambda g: g, lambda g: np.rot90(g, 1, (1, 2)),
                              lambda g: np.rot90(g, 2, (1, 2)), lambda g: g[:, ::-1],
                              lambda g: g[:, :, ::-1], lambda g: g.transpose(0, 2, 1),
                              lambda g: np.roll(g, 1, 1), lambda g: np.roll(g, 1, 2)]):
        labels[ids == i] = (move(grids[ids == i]) + i) % 9
    return grids.reshape(count, 16) + 1, labels.reshape(count, 16) + 1, ids


TASKS = {f.__name__: f for f in (sort, reverse, add, brackets, flood, distance, life, frost,
                                 lights, rules)}
ROWS = {"lights": (400, 112)}  # to learn from and to be asked; there are only 512 boards
# How a task is written: cells in a row; characters of tokens 0, 1, ... in question and in answer
LOOKS = {
    "sort": (12, ".0123456789", ".0123456789"),
    "reverse": (16, ".abcdefghij", ".abcdefghij"),
    "add": (11, ".0123456789+", ".0123456789+"),
    "brackets": (32, ".()", ".0123456789A"),
    "flood": (8, "?#.~", "?#.~"),
    "distance": (6, "?#.E", "?#0123456789+"),
    "life": (8, "?.o", "?.o"),
    "frost": (8, "?.*", "?.*"),
    "lights": (3, "?.*", "?.P"),
    "rules": (4, "?abcdefghi", "?abcdefghi"),
}


def split(name: str, seed: int) -> tuple[Data, Data]:
    """Rows of a task to learn from, 5000, and others to be asked, 1000: no question is there twice.
    The same question under another id is another question. Raises ValueError if there are too few.
    """
    random, (learned, asked) = np.random.default_rng(seed), ROWS.get(name, (5000, 1000))
    rows, found, vain = TASKS[name](random, learned + asked), 0, 0
    while True:
        questions = np.column_stack([rows[0], *rows[2:]])
        first = np.sort(np.unique(questions, axis=0, return_index=True)[1])
        if len(first) >= learned + asked:
            break
        vain = vain + 1 if len(first) == found else 0
        if vain == 20:  # one missing board of 512 is met in a round of 512 in two of three cases
            raise ValueError(f"{name}: only {found:,} different questions were made, and "
                             f"{learned + asked:,} are wanted; say how many in ROWS")
        found = len(first)
        rows = tuple(map(np.concatenate, zip(rows, TASKS[name](random, learned + asked))))
    return tuple(r[first[:learned]] for r in rows), tuple(r[first[learned:][:asked]] for r in rows)
