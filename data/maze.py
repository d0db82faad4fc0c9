"""Mazes: find the shortest way from S to G. Maze-Hard is the 30x30 kind with at least 109 steps.

A maze of side s is flattened row by row into L = s * s tokens. The answer is the question with the
cells between S and G on one shortest path turned into 'o':

    0 padding    1 '#' wall    2 ' ' open    3 'S' start    4 'G' goal    5 'o' path    (6 tokens)

Many mazes have several shortest paths; the data set keeps the one that breadth-first search from S
finds with the neighbour order down, left, right, up (`label` gives 1500 of 1500 answers tried of
sapientinc/maze-30x30-hard-1k). Nothing in a question hints at that order, so `valid_paths` finds
the answers that are right in another way. Exact match and validity are two figures: name which.

Measured on one core: `generate` makes about 20 mazes a second of 30x30 with 109 steps, 1400 of
10x10 with 29 and 4600 of 8x8 with 21 (the defaults). One in 140,000 random tries (walls, S, G)
gives a 30x30 maze; trying one by one takes 11 seconds for each. 3000 generated mazes against the
1500 real ones, two-sample Kolmogorov-Smirnov distance (0.043 would be significant at 5 %): 0.023
for the share of walls (mean 0.372, real 0.371), 0.013 for the steps (mean 113.9, real 113.9).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from data.files import read_rows, write_rows
from data.grid import Random, dihedral, side_of

CHARACTERS = "# SGo"  # tokens 1..5
WALL, OPEN, START, GOAL, PATH = range(1, 6)
VOCAB_SIZE = 6

WALLS = (0.3, 0.5)  # a maze's wall probability is uniform in this range (measured on the data set)
PATIENCE = 2_000_000  # random mazes in a row that bring nothing new before `generate` gives up;
REPEAT = 100  # a copy of an earlier maze counts, and costs, as much as so many that are not kept

# ------------------------------------------------------------------------------------------------
# The label rule


@functools.cache
def _neighbours(side):
    """For every cell its neighbours, in the order that decides between equally short paths."""
    cells = np.pad(np.arange(side * side).reshape(side, side), 1, constant_values=-1)
    moves = cells[2:, 1:-1], cells[1:-1, :-2], cells[1:-1, 2:], cells[:-2, 1:-1]  # D, L, R, U
    table = np.stack(moves, -1).reshape(-1, 4).tolist()  # L lists of 4
    return [[near for near in row if near >= 0] for row in table]


def _search(open_cells, start, side):
    """Breadth-first search from cell `start` -> {cell: its parent}, {cell: steps from the start}.

    open_cells (L,) bool. Both dicts hold the reachable cells in the order of their discovery; the
    first parent to discover a cell stays.
    """
    near, is_open = _neighbours(side), open_cells.tolist()
    parent, steps, queue = {start: start}, {start: 0}, [start]
    for cell in queue:  # grows while we walk along it
        for other in near[cell]:
            if is_open[other] and other not in parent:
                parent[other], steps[other] = cell, steps[cell] + 1
                queue.append(other)
    return parent, steps


def _draw_path(maze, parent, goal):
    """The maze (L,) with the cells between the goal and the root of `parent` set to PATH."""
    answer, cell = maze.copy(), parent[goal]
    while cell != parent[cell]:
        answer[cell], cell = PATH, parent[cell]
    return answer


def label(inputs: np.ndarray) -> np.ndarray:
    """Questions (N, L) -> answers (N, L) by the data set's rule. Raises ValueError."""
    inputs = np.asarray(inputs)
    answers, side = np.empty_like(inputs), side_of(inputs.shape[1])
    for i, maze in enumerate(inputs):
        if (maze == START).sum() != 1 or (maze == GOAL).sum() != 1:
            raise ValueError(f"row {i + 1}: a maze needs exactly one S and one G")
        parent, _ = _search(maze != WALL, int((maze == START).argmax()), side)
        goal = int((maze == GOAL).argmax())
        if goal not in parent:
            raise ValueError(f"row {i + 1}: no way leads from S to G")
        answers[i] = _draw_path(maze, parent, goal)
    return answers


# ------------------------------------------------------------------------------------------------
# Flooding many mazes at once


def _flood(reach, is_open, steps):
    """Let `reach` spread by `steps` cells through the open ones, in place.

    is_open (side, side, K), reach (side + 2, side + 2, K) with a border that stays dry. The last
    axis is what makes it fast: mazes side by side, as bool or, eight to a byte, as `np.packbits`.
    """
    inner, grown = reach[1:-1, 1:-1], np.empty_like(is_open)
    for _ in range(steps):
        np.bitwise_or(reach[:-2, 1:-1], reach[2:, 1:-1], out=grown)
        grown |= reach[1:-1, :-2]
        grown |= reach[1:-1, 2:]
        grown |= inner
        np.bitwise_and(grown, is_open, out=inner)


def _drop(start, side):
    """Start cells (N,) -> reach (side + 2, side + 2, N) bool, true at the start only."""
    reach = np.zeros((side + 2, side + 2, len(start)), bool)
    reach[start // side + 1, start % side + 1, np.arange(len(start))] = True
    return reach


def _reaches_far(is_open, start, min_path):
    """Which mazes have a cell at least `min_path` >= 1 steps from their start? -> (N,) bool.

    is_open (L, N) bool, start (N,). Such a cell exists if the flood still grows in step min_path.
    """
    side, N = math.isqrt(len(is_open)), len(start)
    is_open = np.packbits(is_open.reshape(side, side, N), axis=-1)  # (side, side, N / 8)
    reach = np.packbits(_drop(start, side), axis=-1)
    _flood(reach, is_open, min_path - 1)
    before = reach.copy()
    _flood(reach, is_open, 1)
    grown = np.bitwise_or.reduce(before ^ reach, axis=(0, 1))  # (N / 8,)
    return np.unpackbits(grown, count=N).astype(bool)


def _arrival(is_open, start, goal):
    """Steps from start to goal, 0 if there is no way: is_open (N, L), start, goal (N,) -> (N,)."""
    N, side = len(start), side_of(is_open.shape[1])
    row, col, maze, arrival = goal // side + 1, goal % side + 1, np.arange(N), np.zeros(N, int)
    longest = is_open.sum(1).max(initial=0)
    is_open, reach = is_open.T.reshape(side, side, N).copy(), _drop(start, side)
    for step in range(1, longest + 1):
        _flood(reach, is_open, 1)
        arrival[(arrival == 0) & reach[row, col, maze]] = step
        if arrival.all():
            break
    return arrival


def valid_paths(inputs: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which predictions are right, be it in another way than the label? -> (N,) bool.

    Right: walls, S and G are where the question has them, and the 'o' cells form one line of open
    cells from S to G exactly as long as the label's. All arrays are (N, L); predictions may hold
    any values. A row of padding is not right.
    """
    inputs, predictions, labels = map(np.asarray, (inputs, predictions, labels))
    path = predictions == PATH
    right = (np.where(path, OPEN, predictions) == inputs).all(1)  # rejects a path over a wall, too
    right &= path.sum(1) == (labels == PATH).sum(1)
    some = np.flatnonzero(right)  # flooding the path finds shortcuts and gaps; only few need it
    ends = inputs[some] == START, inputs[some] == GOAL
    steps = _arrival(path[some] | ends[0] | ends[1], ends[0].argmax(1), ends[1].argmax(1))
    right[some] = steps == path[some].sum(1) + 1
    return right


# ------------------------------------------------------------------------------------------------
# Generator


def default_min_path(side: int) -> int:
    """109 steps for side 30, as in Maze-Hard; 29 for 10 and 21 for 8, 10 and 25 times as common."""
    return max(1, 4 * side - 11)


def _draw_mazes(rng, side, count):
    """Random walls, an open start -> is_open (L, count) bool, start (count,). 8 divides count."""
    L = side * side
    walls = (rng.uniform(*WALLS, count) * 2**16).astype(np.uint16)
    # 16 random bits a cell, taken from 64-bit numbers: four times faster than 16-bit draws.
    noise = rng.integers(2**64, size=L * count // 4, dtype=np.uint64).view(np.uint16)
    is_open = noise.reshape(L, count) >= walls
    is_open[0] |= ~is_open.any(0)  # so that the loop ends; one open cell alone is never accepted
    start = rng.integers(L, size=count)
    while len(wrong := np.flatnonzero(~is_open[start, np.arange(count)])):
        start[wrong] = rng.integers(L, size=len(wrong))
    return is_open, start


def _draw_goals(rng, steps, open_cells, L, min_path, boost):
    """Goals to keep for one start; `steps` of every reachable cell. Usually none, seldom two.

    The naive generator draws walls, then a start and a goal among all cells, and throws the maze
    away unless both are open and at least min_path steps apart. Here the start is drawn among the
    `open_cells` open ones only, and as many goals are kept as, on average,

        boost * open_cells / L * far / (L - 1)        (far: cells at least min_path steps away)

    each far cell being as likely as the others. So every (walls, start, goal) that the naive
    generator accepts comes out `boost` times as often as there, whichever it is: the distribution
    is the same. Two mazes of equal walls and start, one after the other, happen only where the
    average exceeds 1 (with the default paths: 2 of 1500 mazes of 30x30, 50 of 2000 of 8x8).
    """
    far = [cell for cell, distance in steps.items() if distance >= min_path]
    goals = int(boost * open_cells / L * len(far) / (L - 1) + rng.random())
    return rng.choice(far, min(goals, len(far)), replace=False).tolist() if goals else []


def _draw_samples(rng, side, min_path, tries):
    """Yield (question, answer), both (L,) uint8, from `tries` random mazes."""
    # Where long paths are rare, few goals are far even if there are any: boosting saves much time.
    boost = 10 if min_path > 2 * side else 2
    is_open, start = _draw_mazes(rng, side, tries)
    hits = np.flatnonzero(_reaches_far(is_open, start, min_path))
    for cells, root in zip(is_open[:, hits].T, start[hits].tolist()):
        parent, steps = _search(cells, root, side)
        for goal in _draw_goals(rng, steps, cells.sum(), side * side, min_path, boost):
            maze = np.where(cells, OPEN, WALL).astype(np.uint8)
            maze[root], maze[goal] = START, GOAL
            yield maze, _draw_path(maze, parent, goal)


def generate(count: int, side: int = 30, min_path: int | None = None, seed: int = 0,
             exclude: Iterable[bytes] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Random mazes distributed like Maze-Hard -> (inputs, labels), both (count, side * side) uint8.

    min_path  smallest number of steps from S to G (path cells + 1); None: `default_min_path(side)`
    exclude   canonical forms (see `canonical`) that may not appear, those of a training set say
    No maze is a dihedral copy of another. The result is a function of the arguments alone, and a
    smaller count gives the first rows of a larger one. Raises ValueError when PATIENCE random mazes
    in a row bring nothing new.
    """
    min_path = default_min_path(side) if min_path is None else min_path
    if side < 2 or not 1 <= min_path < side**2 or count < 0:
        raise ValueError(f"mazes need side >= 2, min_path in 1..side*side-1 and count >= 0, "
                         f"not side {side}, min_path {min_path}, count {count}")
    rng, seen, dry = np.random.default_rng(seed), set(exclude), 0
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    tries = max(8, min(2**14, 2**22 // side**2) // 8 * 8)  # in one go: they should fit the cache
    while len(kept) < count:
        if dry > PATIENCE:
            raise ValueError(f"found only {len(kept)} of {count} mazes of side {side} with paths "
                             f"of {min_path} steps or more; lower min_path or count")
        dry += tries
        for maze, answer in _draw_samples(rng, side, min_path, tries):
            form = canonical(maze[None])[0]
            if form in seen:
                dry += REPEAT
                continue
            seen.add(form)
            kept.append((maze, answer))
            dry = 0
            if len(kept) == count:
                break
    samples = np.array(kept, np.uint8).reshape(count, 2, side * side)
    return samples[:, 0].copy(), samples[:, 1].copy()


# ------------------------------------------------------------------------------------------------
# Symmetries


def augment(inputs: np.ndarray, labels: np.ndarray,
            random: Random) -> tuple[np.ndarray, np.ndarray]:
    """One of the 8 dihedral copies of each maze with its answer; all arrays (B, L).

    `random(k)` gives fresh uniform numbers (B, k), row i for maze i. A copied answer is a shortest
    path of the copied maze, but seldom the one of the label rule, which prefers some directions:
    on 1000 real mazes it differs for 87 % of the maze-copy pairs (7 % of the `fliplr` copies, at
    least 99.7 % of each of the other six), and no maze has eight copies that all agree. Exact
    match under augmentation is therefore ambiguous: look at `valid_paths` beside it.
    """
    which = (random(1)[:, 0] * 8).astype(int)  # (B,)
    cells = dihedral(side_of(inputs.shape[1]))[which]  # (B, L)
    return np.take_along_axis(inputs, cells, 1), np.take_along_axis(labels, cells, 1)


def canonical(inputs: np.ndarray) -> list[bytes]:
    """The smallest of the 8 dihedral copies of each maze (N, L), as N bytes objects of length L."""
    inputs = np.asarray(inputs, np.uint8)
    cells = dihedral(side_of(inputs.shape[1]))  # (8, L)
    return [min(copy.tobytes() for copy in maze[cells]) for maze in inputs]


# ------------------------------------------------------------------------------------------------
# Files: see `data.files`


def check(inputs: np.ndarray, labels: np.ndarray,
          where: Callable[[int], str] = "row {}".format) -> None:
    """Raise ValueError for a row that is no maze with a shortest path from S to G.

    inputs, labels (N, L) tokens; `where(row)` names a row, counted from 1.
    """
    starts, goals = ((inputs == token).sum(1) for token in (START, GOAL))  # (N,)
    changed = np.where(labels == PATH, OPEN, labels) != inputs  # (N, L)
    bad = (starts != 1) | (goals != 1) | changed.any(1) | ~valid_paths(inputs, labels, labels)
    if not bad.any():
        ends = ((inputs == token).argmax(1) for token in (START, GOAL))
        steps, shortest = (labels == PATH).sum(1) + 1, _arrival(inputs != WALL, *ends)
        for row in np.flatnonzero(steps > shortest)[:1]:
            raise ValueError(f"{where(row + 1)}: the 'o' cells of the answer go from S to G in "
                             f"{steps[row]} steps, the shortest way has {shortest[row]}; correct "
                             "or remove the row")
        return
    row = int(bad.argmax())
    for name, count in (("S", starts[row]), ("G", goals[row])):
        if count != 1:
            raise ValueError(f"{where(row + 1)}: the question has {count} cells {name}; it must "
                             f"have exactly one")
    if changed[row].any():
        r, c = divmod(int(changed[row].argmax()), side_of(inputs.shape[1]))
        raise ValueError(f"{where(row + 1)}: the answer changes line {r + 1}, column {c + 1} of "
                         f"the maze; it may only turn open cells into 'o'")
    raise ValueError(f"{where(row + 1)}: the 'o' cells of the answer are not one line from S to G; "
                     f"correct or remove the row")


def read_csv(path: str | Path) -> tuple[np.ndarray, np.ndarray, int]:
    """CSV file -> inputs, labels, both (N, L) uint8, and the side.

    Raises ValueError, naming the place, for a row that `check` refuses or that is of another size.
    """
    rows = read_rows(path)
    side, alphabet = rows.side, dict(zip(CHARACTERS, range(1, VOCAB_SIZE)))
    inputs = rows.tokens("question", dict(zip(CHARACTERS[:-1], range(1, PATH))))
    labels = rows.tokens("answer", alphabet)
    check(inputs, labels, rows.where)
    return inputs, labels, side


def write_csv(path: str | Path, inputs: np.ndarray, labels: np.ndarray,
              source: str = "generated") -> None:
    """Write mazes (N, L) as `read_csv` reads them; rating = cells of the path, both ends included.

    The file appears complete or not at all. Raises ValueError for values that are no tokens of a
    maze, OSError.
    """
    inputs, labels = np.asarray(inputs), np.asarray(labels)
    if not np.isin([inputs, labels], range(1, VOCAB_SIZE)).all():
        raise ValueError(f"{path}: not written; mazes consist of tokens 1 to {VOCAB_SIZE - 1}")
    ratings = ((labels == PATH).sum(1) + 2).tolist()
    # Lines end as in the public set.
    write_rows(path, inputs, labels, f"?{CHARACTERS}", source, ratings, ending="\r\n")


# ------------------------------------------------------------------------------------------------
# Terminal

LEGEND = "• path   × not on the right path   ○ missed   ! other mistake"
# Two characters, so that cells are about square, and an ANSI colour: six tokens, three mistakes.
LOOKS = (("  ", 0), ("██", 90), ("  ", 0), ("S ", 1), ("G ", 1), ("• ", 32),
         ("× ", 31), ("○ ", 33), ("! ", 35))


def render(inputs: np.ndarray, answer: np.ndarray, labels: np.ndarray | None = None,
           colour: bool = True) -> str:
    """Draw an answer (L,) as text. LEGEND says what the marks mean.

    Without labels a cell is wrong only where the answer breaks the question (L,).
    """
    question, answer = np.asarray(inputs), np.asarray(answer)
    if labels is None:
        labels = np.where((answer == PATH) & (question == OPEN), PATH, question)
    mistake = np.where(answer == PATH, 6, np.where(np.equal(labels, PATH), 7, 8))
    looks = np.where(answer == labels, labels, mistake).reshape(side_of(len(question)), -1)
    return "\n".join("".join(_cell(*LOOKS[look], colour) for look in row) for row in looks)


def _cell(text, shade, colour):
    return f"\x1b[{shade}m{text}\x1b[0m" if colour and shade else text
