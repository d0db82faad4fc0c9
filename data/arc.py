"""ARC-AGI-1 and ARC-AGI-2: reading, augmentation, the training stream, test questions, voting.

An ARC task shows a few pairs of coloured grids, input and output, that follow one rule, and asks
for the output of one or more test inputs. A grid has 1..30 rows and columns of colours 0..9. It
lies in a square of `side` x `side` cells (30; less for toy tasks), flattened to L = side * side:

    0 padding    1 end of grid: the row just below and the column just right of it, where they fit
    c + 2 for colour c (12 tokens in all)

TRM has no few-shot input: it trains on the demonstration pairs of the very tasks it is asked about,
and an embedding per puzzle id says which rule to follow. Each task is copied about 1000 times, with
its grids turned or mirrored and its colours permuted, and every copy is a puzzle of its own.

    corpus   which pairs are trained on, which test inputs are asked (a pair is never both)
    Table    puzzle id -> (task, dihedral, colours): all that is stored of a copy
    ArcPuzzles   the training stream, grids augmented as they are drawn
    queries  every copy of every test input; `Votes` undoes the augmentation, counts and ranks

Measured on one CPU core, ARC-1 (ARC-2): read in 0.9 s (1.2); 876,401 (1,191,722) puzzle ids drawn
in 7.6 s (7.2) and held in 13 MB (18), 4 MB (6) as a file, where the authors write about 877,000
ids x 4 pairs x 1800 bytes = 6 GB; a training batch of 768 in 35 ms; a question asked and its answer
undone and counted in 85 microseconds.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

SIDE = 30  # the largest grid of ARC
TOKENS = 12  # padding, end of grid, ten colours

# The public collections: (places to look at, tasks there, are the test inputs asked?). Folders are
# as `git clone` leaves them; files are Kaggle's, of 2024 (ARC-1) or 2025 (ARC-2: the same names),
# or the authors' copies of them, where a 2 tells ARC-2's apart.
CONCEPT = (("ConceptARC/corpus", "arc-agi_concept_challenges.json"), 160, False)
PUBLIC = {
    "arc1": (
        (("ARC-AGI/data/training", "arc-agi_training_challenges.json"), 400, False),
        (("ARC-AGI/data/evaluation", "arc-agi_evaluation_challenges.json"), 400, True),
        CONCEPT,
    ),
    "arc2": (
        (("ARC-AGI-2/data/training", "arc-agi_training2_challenges.json",
          "arc-agi_training_challenges.json"), 1000, False),
        (("ARC-AGI-2/data/evaluation", "arc-agi_evaluation2_challenges.json",
          "arc-agi_evaluation_challenges.json"), 120, True),
        CONCEPT,
    ),
}
# ARC-1 asks one question whose answer its own training set gives away: task 070dd51e is task
# 40853293 once more. The published figures include it, so it stays; any other is an error.
KNOWN_LEAK = ("070dd51e", "40853293")
UNMIXED = "ARC-2's training set holds ARC-1's evaluation tasks, so the two are never mixed"

# ------------------------------------------------------------------------------------------------
# Grids and tokens


def encode(grid, offset=(0, 0), side=SIDE):
    """Grid (h, w), top-left cell at `offset` (row, column) -> tokens (side * side,) uint8."""
    (h, w), (r, c) = grid.shape, offset
    if min(r, c) < 0 or r + h > side or c + w > side:
        raise ValueError(f"a {h}x{w} grid at {r},{c} does not fit a square of side {side}")
    square = np.zeros((side, side), np.uint8)
    square[r : r + h, c : c + w] = grid + 2
    square[r + h : r + h + 1, c : c + w] = 1  # an empty slice where the grid touches the edge
    square[r : r + h, c + w : c + w + 1] = 1
    return square.ravel()


def decode(tokens, side=SIDE):
    """Tokens (side * side,) -> grid: the largest top-left rectangle made of colours only.

    Of rectangles of equal area the one with fewest rows, as in the authors' code. Without a colour
    in the corner it is empty, (0, 0).
    """
    square = np.asarray(tokens).reshape(side, side)
    free = (square >= 2) & (square < TOKENS)
    width = np.logical_and.accumulate(free, 1).sum(1)  # of each row's run of colours
    width = np.minimum.accumulate(width)  # of the rectangle down to this row
    h = int((width * np.arange(1, side + 1)).argmax()) + 1
    w = int(width[h - 1])
    return (square[: h if w else 0, :w] - 2).astype(np.uint8)


# The eight symmetries of a square, numbered as by the authors, as views of the grid.
DIHEDRAL = (
    lambda g: g,
    lambda g: g.T[::-1],  # 1, 2, 3: np.rot90 once, twice, three times
    lambda g: g[::-1, ::-1],
    lambda g: g.T[:, ::-1],
    lambda g: g[:, ::-1],  # 4: np.fliplr
    lambda g: g[::-1],  # 5: np.flipud
    lambda g: g.T,  # 6: transpose
    lambda g: g.T[::-1, ::-1],  # 7: np.fliplr(np.rot90(g))
)
INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
PLAIN = np.arange(10, dtype=np.uint8)  # the colours of a copy that leaves them as they are


def augment(grid, dihedral, colours):
    """Map colour c to colours[c], then turn or mirror: the order of the authors' code."""
    return DIHEDRAL[dihedral](colours[grid])


def restore(grid, dihedral, colours):
    """The inverse of `augment`."""
    return np.argsort(colours).astype(np.uint8)[DIHEDRAL[INVERSE[dihedral]](grid)]


# Background and text of each colour on a terminal with 256 colours.
PALETTE = ((16, 244), (27, 15), (160, 15), (34, 16), (220, 16),
           (244, 16), (163, 15), (208, 16), (117, 16), (88, 15))


def render(*grids, color=True):
    """Grids side by side as text: every cell shows its digit, with `color` on ARC's own colours."""

    def line(grid, r):
        if r >= len(grid):
            return "  " * grid.shape[1]
        if not color:
            return "".join(f"{c} " for c in grid[r])
        cells = ("\x1b[48;5;{};38;5;{}m{} ".format(*PALETTE[c], c) for c in grid[r])
        return "".join(cells) + "\x1b[0m"

    height = max((len(grid) for grid in grids), default=0)
    return "\n".join("  ".join(line(grid, r) for grid in grids).rstrip() for r in range(height))


# ------------------------------------------------------------------------------------------------
# Reading tasks


class Task(NamedTuple):
    """One task. What is asked is kept apart from what is trained on, so that it cannot leak."""

    name: str
    pairs: list  # (input, output) grids, trained on
    tests: list  # (input, output or None) grids, asked; empty for a training task


def _grid(value, where):
    """JSON value -> (h, w) uint8; ValueError if it is no rectangle of colours."""
    rows = value if isinstance(value, list) else []
    if not rows or not all(isinstance(row, list) and row for row in rows):
        raise ValueError(f"{where}: a grid is a list of rows, a row a list of colours; none empty")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"{where}: row {i} has {len(row)} cells, row 0 has {len(rows[0])}")
        wrong = [c for c in row if type(c) is not int or not 0 <= c <= 9]
        if wrong:
            raise ValueError(f"{where}: row {i} holds {wrong[0]!r}; colours are the integers 0..9")
    if max(len(rows), len(rows[0])) > SIDE:
        raise ValueError(f"{where}: {len(rows)}x{len(rows[0])} cells; at most {SIDE}x{SIDE} fit")
    return np.array(rows, np.uint8)


def _pairs(task, kind, where):
    """[(input, output or None)] of the list `kind`, "train" or "test", of a task as in JSON."""
    items = task.get(kind) if isinstance(task, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError(f"{where}: no ARC task, it lacks a list {kind!r} of input/output pairs")
    pairs = []
    for i, pair in enumerate(items):
        spot = f"{where} {kind}[{i}]"
        if not isinstance(pair, dict) or "input" not in pair:
            raise ValueError(f"{spot}: no 'input'")
        output = pair.get("output")
        pairs.append((_grid(pair["input"], f"{spot}.input"),
                      None if output is None else _grid(output, f"{spot}.output")))
    return pairs


def _task(name, task, where, asked):
    """A validated Task from JSON; only tests that are asked may lack their outputs."""
    pairs, tests = _pairs(task, "train", where), _pairs(task, "test", where)
    if not asked:
        pairs, tests = pairs + tests, []
    missing = sum(output is None for _, output in pairs)
    if missing:
        raise ValueError(f"{where}: {missing} of the pairs to train on lack an output; add it (for "
                         "Kaggle: the _solutions.json beside it) or list it as evaluation")
    return Task(name, pairs, tests)


def _unique(items):
    """json hook: a dict, refusing the same key twice (json itself keeps the last silently)."""
    result = dict(items)
    if len(result) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} appears twice")
    return result


def _json(path):
    try:
        return json.loads(Path(path).read_text("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # also wrong JSON and wrong UTF-8
        raise ValueError(f"{path}: {error}") from None


def _kaggle(path):
    """{name: task} of a `*_challenges.json`, with outputs from the `*_solutions.json` beside it."""
    tasks = _json(path)
    solved = path.with_name(path.name.replace("_challenges", "_solutions"))
    solutions = _json(solved) if solved != path and solved.exists() else {}
    if not isinstance(tasks, dict) or not isinstance(solutions, dict):
        raise ValueError(f"{path}: expected {{name: task}}, as in Kaggle's _challenges.json")
    for name, outputs in solutions.items():
        tests = _pairs(tasks.get(name), "test", f"{path} {name}")
        if not isinstance(outputs, list) or len(outputs) != len(tests):
            raise ValueError(f"{solved}: {name} needs {len(tests)} outputs, one per test input")
        for pair, output in zip(tasks[name]["test"], outputs):
            pair["output"] = output
    return tasks


def load_tasks(path, asked=False):
    """The tasks of a folder (one JSON file each, subfolders too) or of a Kaggle `_challenges.json`.

    `asked`: the test inputs are questions, and outputs may be missing; otherwise all pairs are
    trained on. Returns [Task] sorted by place; ValueError for anything that is not ARC.
    """
    path = Path(path)
    if path.is_file():
        tasks = sorted(_kaggle(path).items())
        return [_task(name, task, f"{path} {name}", asked) for name, task in tasks]
    files = sorted(path.rglob("*.json"))
    if not files:
        raise ValueError(f"{path}: no such file, or no JSON files in this folder")
    return [_task(file.stem, _json(file), file, asked) for file in files]


@dataclass(frozen=True)
class Corpus:
    """Tasks by name, in a fixed order. Which pairs are trained on and what is asked: see `Task`."""

    name: str
    tasks: dict[str, Task]

    @property
    def asked(self):
        """The tasks with test inputs to answer."""
        return [task for task in self.tasks.values() if task.tests]

    @property
    def num_pairs(self):
        return sum(len(task.pairs) for task in self.tasks.values())

    @property
    def num_tests(self):
        return sum(len(task.tests) for task in self.tasks.values())

    @property
    def side(self):
        """The smallest square that holds every grid."""
        pairs = [p for task in self.tasks.values() for p in task.pairs + task.tests]
        return max(max(grid.shape) for pair in pairs for grid in pair if grid is not None)


def _check_leaks(tasks, origin):
    """Refuse a question that is, output and all, among the pairs trained on."""
    trained = {_pack(x) + _pack(y): task.name for task in tasks.values() for x, y in task.pairs}
    for task in tasks.values():
        for i, (x, y) in enumerate(task.tests):
            other = None if y is None else trained.get(_pack(x) + _pack(y))
            if other and (task.name, other) != KNOWN_LEAK:
                raise ValueError(
                    f"test {i} of task {task.name} in {origin[task.name]} is also a pair of "
                    f"task {other} in {origin[other]}, which is trained on; remove one of them"
                )


def _gather(name, sources):
    """Corpus of [(path, asked, how many tasks it must hold or None)]."""
    tasks, origin = {}, {}
    for path, asked, count in sources:
        loaded = load_tasks(path, asked)
        if count not in (None, len(loaded)):
            raise ValueError(f"{path}: {len(loaded)} tasks, but the public collection has {count}")
        for task in loaded:
            if task.name in tasks:
                raise ValueError(f"task {task.name} is in {origin[task.name]} and again in {path}; "
                                 f"name every task once ({UNMIXED})")
            tasks[task.name], origin[task.name] = task, path
    _check_leaks(tasks, origin)
    return Corpus(name, tasks)


def corpus(name, root):
    """The public corpus "arc1" or "arc2" in the folder `root`, with ConceptARC, as in the paper.

    ARC-1: 960 tasks, 3988 pairs trained on, 400 tasks with 419 test inputs asked. ARC-2: 1280
    tasks, 120 asked.
    """
    if not isinstance(name, str) or name not in PUBLIC:
        raise ValueError(f"corpus {name!r}: one of {', '.join(PUBLIC)}; {UNMIXED}")
    sources = []
    for places, count, asked in PUBLIC[name]:
        path = next((p for p in (Path(root, place) for place in places) if p.exists()), None)
        if path is None:
            raise ValueError(f"{root}: holds no {places[0]}; `git clone` the repositories there")
        sources.append((path, asked, count))
    return _gather(name, sources)


def own_corpus(training, evaluation, name="own"):
    """A corpus of one's own tasks: lists of folders or Kaggle files.

    All pairs of `training` are trained on; of `evaluation` the "train" pairs are, and the "test"
    inputs asked. For Kaggle: training and evaluation challenges, then the test challenges.
    """
    roles = [(path, False) for path in training] + [(path, True) for path in evaluation]
    return _gather(name, [(path, asked, None) for path, asked in roles])


# ------------------------------------------------------------------------------------------------
# The table of augmented puzzles


@contextmanager
def _replace(path):
    """A binary file that takes the place of `path` once it is complete, and not before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Table:
    """Puzzle id -> (task, dihedral, colours). Row 0 is `<blank>`, the id of padding.

    A trained puzzle embedding means nothing without the table it was trained with: keep both
    together, and compare `sha256` when loading.
    """

    def __init__(self, tasks, task, dihedral, colours):
        self.tasks = list(tasks)  # names
        self.task = np.asarray(task, np.int32)  # (R,) index into `tasks`, -1 for <blank>
        self.dihedral = np.asarray(dihedral, np.uint8)  # (R,) 0..7
        self.colours = np.asarray(colours, np.uint8)  # (R, 10) colour c becomes colours[c]
        self._order = np.argsort(self.task, kind="stable")  # rows task by task
        self._start = np.searchsorted(self.task[self._order], np.arange(len(self.tasks) + 1))
        self._index = {name: i for i, name in enumerate(self.tasks)}

    def __len__(self):
        return len(self.task)

    @property
    def nbytes(self):
        return self.task.nbytes + self.dihedral.nbytes + self.colours.nbytes

    def rows(self, name):
        """Ids of a task's copies, (K,), the plain one first."""
        i = self._index.get(name)
        if i is None or self._start[i] == self._start[i + 1]:
            raise ValueError(f"task {name} has no puzzle id: the table is of another corpus")
        return self._order[self._start[i] : self._start[i + 1]]

    def augment(self, row, grid):
        return augment(grid, self.dihedral[row], self.colours[row])

    def restore(self, row, grid):
        return restore(grid, self.dihedral[row], self.colours[row])

    def names(self):
        """The authors' name of every row: `<blank>`, `task`, `task|||t{dihedral}|||{colours}`."""
        copy = (self.dihedral > 0) | (self.colours != PLAIN).any(1)
        digits = (self.colours + ord("0")).tobytes().decode()
        suffix = (f"|||t{d}|||{digits[10 * r : 10 * r + 10]}" if copy[r] else ""
                  for r, d in enumerate(self.dihedral.tolist()))
        names = [self.tasks[t] + s for t, s in zip(self.task.tolist(), suffix)]
        return ["<blank>"] + names[1:]

    def sha256(self):
        content = hashlib.sha256(json.dumps(self.tasks).encode())
        for array in (self.task.astype("<i4"), self.dihedral, self.colours):
            content.update(array.tobytes())
        return content.hexdigest()

    def save(self, path):
        """Write an .npz, complete or not at all."""
        with _replace(path) as file:
            np.savez_compressed(file, tasks=json.dumps(self.tasks), task=self.task,
                                dihedral=self.dihedral, colours=self.colours, sha256=self.sha256())

    @classmethod
    def load(cls, path, sha256=None):
        """Read a saved table; ValueError if it is damaged or is not the one with this `sha256`."""
        try:
            with np.load(path, allow_pickle=False) as file:
                tasks, stored = json.loads(str(file["tasks"])), str(file["sha256"])
                table = cls(tasks, file["task"], file["dihedral"], file["colours"])
        except Exception as error:  # of zip, npz, json or a missing key: in any case no table
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{path}: not a puzzle table ({reason})") from None
        if stored != table.sha256():
            raise ValueError(f"{path}: damaged, its content does not match its own sha256")
        if sha256 not in (None, stored):
            raise ValueError(f"{path}: is puzzle table {stored[:12]}, the checkpoint was trained "
                             f"with {sha256[:12]}; use the table that was saved with it")
        return table


def _mix(h):
    """Scramble 64-bit integers (the finalizer of SplitMix64)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


_KEYS = np.random.default_rng(0).integers(1 << 64, size=2 * SIDE * SIDE + 10, dtype=np.uint64)
_CELL_KEY, _COLOUR_KEY = _KEYS[:-10].reshape(2, SIDE, SIDE), _KEYS[-10:]


def _colour_sums(grid, keys):
    """(8, 10) uint64: per symmetry of the grid and colour, the sum of the keys under its cells."""
    h, w = grid.shape
    # Key of a cell's new place = the keys turned back: one symmetry of the small key window.
    windows = (keys[:w, :h] if d in (1, 3, 6, 7) else keys[:h, :w] for d in range(8))
    under = np.stack([DIHEDRAL[INVERSE[d]](k).ravel() for d, k in enumerate(windows)])  # (8, h * w)
    return under @ (grid.reshape(-1, 1) == PLAIN).astype(np.uint64)


def copy_hashes(pairs, dihedral, colours):
    """(N,) uint64: equal for two copies of a task if and only if they hold the same pairs.

    pairs [(input, output or None)], in any order; dihedral (N,), colours (N, 10). (Only if: but for
    64-bit collisions.) A pair's hash is the sum of key(place) * key(colour) over its cells, so all
    that is needed of a grid is the sum of place keys per colour: ten products per pair and copy.
    """
    total = np.zeros(len(dihedral), np.uint64)
    for grids in pairs:
        sums = sum(_colour_sums(g, keys) for g, keys in zip(grids, _CELL_KEY) if g is not None)
        total += _mix((sums[dihedral] * _COLOUR_KEY[colours]).sum(1))
    return total


def distinct_copies(task, copies, seed, tries=5):
    """(dihedral (K,), colours (K, 10)) of the plain copy and up to `copies` others, all different.

    Drawn at random, duplicates dropped, `tries` * `copies` times at most (the authors' rule). Each
    task has its own random stream, so that its copies do not depend on the other tasks.
    """
    random = np.random.default_rng((seed, *task.name.encode()))
    N = tries * copies
    dihedral = np.append(0, random.integers(8, size=N))  # the plain copy comes first, and so wins
    shuffled = 1 + random.random((N, 9)).argsort(1).astype(np.uint8)
    colours = np.vstack([PLAIN, np.pad(shuffled, ((0, 0), (1, 0)))])  # colour 0 stays
    # NOTE(paper): the authors' hash sees the held-out test outputs too. Here it must not: the table
    # is the same with and without them.
    seen = task.pairs + [(x, None) for x, _ in task.tests]
    _, first = np.unique(copy_hashes(seen, dihedral, colours), return_index=True)
    keep = np.sort(first)[: copies + 1]
    return dihedral[keep], colours[keep]


def build_table(corpus, copies=1000, seed=0):
    """The table of a corpus: `<blank>`, then each task's plain copy and its augmented ones."""
    drawn = [distinct_copies(task, copies, seed) for task in corpus.tasks.values()]
    task = np.repeat(np.arange(len(drawn)), [len(d) for d, _ in drawn])
    return Table(corpus.tasks, np.append(-1, task), np.concatenate([[0], *(d for d, _ in drawn)]),
                 np.vstack([PLAIN, *(c for _, c in drawn)]))


NAME = re.compile(r"((?:(?!\|\|\|).)+)(?:\|\|\|t([0-7])\|\|\|(0[1-9]{9}))?")


def _parse(name, where):
    """`task` or `task|||t{d}|||{perm}` -> (task, dihedral, digits)."""
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or (match[3] and len(set(match[3])) < 10):
        raise ValueError(f"{where}: {name!r} is not task or task|||t0..7|||ten digits, 0 first")
    return match[1], int(match[2] or 0), match[3] or "0123456789"


def table_from_identifiers(path, tasks, rows=None):
    """The table of a published checkpoint from the `identifiers.json` the authors' builder wrote.

    tasks: names that may occur (`corpus.tasks`); rows: of the checkpoint's puzzle embedding.
    """
    names = _json(path)
    if not isinstance(names, list) or not names or names[0] != "<blank>":
        raise ValueError(f"{path}: expected a list of puzzle names that begins with \"<blank>\"")
    if rows is not None and len(names) != rows:
        raise ValueError(f"{path}: {len(names)} names, but the checkpoint's puzzle embedding has "
                         f"{rows} rows; they do not belong together")
    tasks = list(tasks)
    index, seen = {name: i for i, name in enumerate(tasks)}, {}
    for row, name in enumerate(names[1:], 1):
        copy = _parse(name, f"{path} entry {row}")
        if copy[0] not in index:
            raise ValueError(f"{path} entry {row}: task {copy[0]!r} is not in this corpus")
        if seen.setdefault(copy, row) != row:
            raise ValueError(f"{path} entry {row}: {name!r} is already entry {seen[copy]}")
    task, dihedral, digits = zip((None, 0, "0123456789"), *seen)  # in order of insertion
    colours = np.frombuffer("".join(digits).encode(), np.uint8).reshape(-1, 10) - ord("0")
    return Table(tasks, [-1, *(index[name] for name in task[1:])], dihedral, colours)


# ------------------------------------------------------------------------------------------------
# Training


def _check_side(corpus, side):
    if corpus.side > side:
        raise ValueError(f"corpus {corpus.name} has grids of side {corpus.side}; a square of side "
                         f"{side} does not hold them")


class ArcPuzzles:
    """The endless training stream, with the interface of `tinytrm.Puzzles`.

    An epoch visits every task once, in shuffled order: one of its copies is picked, and that copy's
    pairs follow one another, shuffled. One pair of them stays in the corner of the square; the
    others are moved, input and output alike, to a random place where both fit.
    NOTE(paper): the authors draw the places once, when the data set is written; here every epoch.
    """

    def __init__(self, corpus, table, side=SIDE):
        _check_side(corpus, side)
        self.table, self.side = table, side
        self.tasks = list(corpus.tasks)
        counts = [len(task.pairs) for task in corpus.tasks.values()]
        self.pairs = [pair for task in corpus.tasks.values() for pair in task.pairs]
        self.task_of = np.repeat(np.arange(len(counts)), counts)  # (N,) task of each pair
        self.first = np.cumsum([0, *counts[:-1]])  # (tasks,) its first pair
        self.copies = [table.rows(name) for name in self.tasks]  # puzzle ids of each task
        # A batch goes on where the one before it stopped: keep the last few epochs.
        self._epoch = functools.lru_cache(maxsize=8)(self._epoch)

    def __len__(self):
        """Pairs in an epoch."""
        return len(self.pairs)

    @property
    def num_puzzles(self):
        """Rows of the puzzle-embedding table."""
        return len(self.table)

    def check(self, config):
        """Raise ValueError unless a model of this `tinytrm.Config` can train on these puzzles."""
        for what, mine, model in (("cells", self.side**2, config.seq_len),
                                  ("tokens", TOKENS, config.vocab_size),
                                  ("puzzle ids", len(self.table), config.num_puzzles)):
            if mine != model:
                raise ValueError(f"ARC puzzles have {mine} {what}, the model {model}")

    def _epoch(self, seed, epoch):
        """What an epoch shows, in order: pair (N,), puzzle id (N,), place (N, 2) in [0, 1)."""
        random = np.random.default_rng((seed, epoch))
        turn = random.permutation(len(self.tasks))[self.task_of]  # (N,)
        pick = random.random(len(self.tasks))
        ids = np.array([rows[int(u * len(rows))] for rows, u in zip(self.copies, pick)])
        place = random.random((len(self), 2))
        still = np.lexsort((random.random(len(self)), self.task_of))[self.first]  # one per task
        place[still] = 0
        order = np.lexsort((random.random(len(self)), turn))
        return order, ids[self.task_of[order]], place[order]

    def _tokens(self, pair, row, place):
        """A pair's copy `row`, both grids at the same place of the square: two of (L,)."""
        x, y = (self.table.augment(row, grid) for grid in self.pairs[pair])
        room = self.side + 1 - np.maximum(x.shape, y.shape)
        offset = (place * room).astype(int)
        return encode(x, offset, self.side), encode(y, offset, self.side)

    def draw(self, positions, seed):
        """Rows of the stream: inputs (B, L), labels (B, L) uint8 and puzzle ids (B,) int64.

        A pure function of (seed, position): however positions (B,) are split over batches,
        processes or restarts, the same ones give the same rows.
        """
        positions = np.asarray(positions, np.int64)
        B, L = len(positions), self.side**2
        inputs, labels = np.empty((B, L), np.uint8), np.empty((B, L), np.uint8)
        ids = np.empty(B, np.int64)
        for i, position in enumerate(positions.tolist()):
            epoch, step = divmod(position, len(self))
            pair, ids[i], place = (column[step] for column in self._epoch(seed, epoch))
            inputs[i], labels[i] = self._tokens(pair, ids[i], place)
        return inputs, labels, ids


# ------------------------------------------------------------------------------------------------
# Answering


def questions(corpus, table, copies=None):
    """Every copy of every test input: yields (task name, index of the test, puzzle id).

    copies: augmented copies per task besides the plain one, None for all.
    """
    for task in corpus.asked:
        rows = table.rows(task.name)[: None if copies is None else copies + 1].tolist()
        yield from itertools.product([task.name], range(len(task.tests)), rows)


def queries(corpus, table, batch, side=SIDE, copies=None, rank=0, world=1):
    """The test inputs in batches of at most `batch` rows, made as they are asked for.

    Yields inputs (B, L) uint8, ids (B,) int64 and meta, a list of B tuples for `Votes.add`: (task
    name, index of the test, puzzle id). Process `rank` of `world` gets every world-th row.
    Test inputs are never moved in the square.
    """
    _check_side(corpus, side)
    mine = itertools.islice(questions(corpus, table, copies), rank, None, world)
    while meta := list(itertools.islice(mine, batch)):
        grids = (table.augment(row, corpus.tasks[task].tests[i][0]) for task, i, row in meta)
        inputs = np.stack([encode(grid, side=side) for grid in grids])  # (B, L)
        yield inputs, np.array([row for _, _, row in meta]), meta


def _pack(grid):
    """A grid as bytes, two cells in one: rows, columns, colours. Equal grids, equal bytes."""
    cells = np.append(grid.ravel(), np.zeros(grid.size % 2, np.uint8))
    return bytes(grid.shape) + (cells[::2] << 4 | cells[1::2]).tobytes()


def _unpack(packed):
    h, w = packed[:2]
    cells = np.frombuffer(packed, np.uint8, offset=2)
    return np.stack([cells >> 4, cells & 15], 1).ravel()[: h * w].reshape(h, w)


class Votes:
    """Predictions of all copies, undone and counted.

    A candidate answer is ranked by the number of copies that voted for it, then by the mean of
    their sigmoid(q). What is still equal is ordered by content: fewer rows, fewer columns, lower
    colours first. Sums are kept as integers, so neither the order of the votes nor the number of
    processes they come from plays a role.

    Only candidates are kept, not predictions, and for one test input at most 2 * `keep`: beyond
    that the lowest-ranked half goes. One checkpoint with 1000 copies never gets there.
    """

    def __init__(self, corpus, table, side=SIDE, keep=2000):
        self.corpus, self.table, self.side, self.keep = corpus, table, side, keep
        # (task, index of the test) -> {packed grid: [votes, sum of sigmoid(q) in units of 2^-32]}
        self.counts = {}

    def add(self, task, index, row, tokens, q):
        """Count one prediction: tokens (L,) for copy `row` of a test input, q the halting logit.

        NOTE(paper): a prediction without any cell counts for nothing; the authors let it compete.
        """
        if not 0 < row < len(self.table) or self.table.tasks[self.table.task[row]] != task:
            raise ValueError(f"puzzle id {row} is no copy of task {task}")
        if not 0 <= index < len(self.corpus.tasks[task].tests):
            raise ValueError(f"task {task} has no test input {index}")
        if not math.isfinite(q):
            raise ValueError(f"task {task} test {index}, puzzle id {row}: q is {q}, no number; "
                             "the model has diverged")
        grid = self.table.restore(row, decode(tokens, self.side))
        if grid.size:
            sigmoid = 0.5 + 0.5 * math.tanh(0.5 * q)
            self._count(task, index, _pack(grid), 1, round(sigmoid * 2**32))

    def _count(self, task, index, packed, votes, q):
        candidates = self.counts.setdefault((task, index), {})
        entry = candidates.setdefault(packed, [0, 0])
        entry[0] += votes
        entry[1] += q
        if len(candidates) > 2 * self.keep:
            best = self._ranking(task, index)[: self.keep]
            self.counts[task, index] = {packed: candidates[packed] for packed in best}

    def merge(self, other):
        """Add the votes of another process, or of another checkpoint: then call the result pooled.

        other: Votes, or its `counts` alone, plain dicts that are cheap to send.
        """
        for (task, index), candidates in getattr(other, "counts", other).items():
            for packed, (votes, q) in candidates.items():
                self._count(task, index, packed, votes, q)

    def _ranking(self, task, index):
        """Packed candidates, best first. At equal votes the order of sums is that of means."""
        candidates = self.counts.get((task, index), {})
        return sorted(candidates, key=lambda p: (-candidates[p][0], -candidates[p][1], p))

    def ranked(self, task, index):
        """Candidate grids for a test input, best first."""
        return [_unpack(p) for p in self._ranking(task, index)]

    def score(self, ks=(1, 2, 5, 10, 100, 1000)):
        """{k: pass@k}: mean over tasks of the share of tests with the right grid in the top k."""
        passed, asked = dict.fromkeys(ks, 0.0), self.corpus.asked
        if not asked:
            raise ValueError(f"corpus {self.corpus.name} asks nothing: it has no evaluation tasks")
        for task in asked:
            for i, (_, output) in enumerate(task.tests):
                if output is None:
                    raise ValueError(f"task {task.name} test {i} has no output, so there is no "
                                     "score; a submission can be written all the same")
                ranking, answer = self._ranking(task.name, i), _pack(output)
                place = ranking.index(answer) if answer in ranking else math.inf
                for k in ks:
                    passed[k] += (place < k) / len(task.tests)
        return {k: share / len(asked) for k, share in passed.items()}

    def _attempts(self, task, index):
        """The two best grids; the best one twice if there is no second, [[0]] if there is none."""
        best = [_unpack(p).tolist() for p in self._ranking(task, index)[:2]] or [[[0]]]
        return {"attempt_1": best[0], "attempt_2": best[-1]}

    def submission(self):
        """Kaggle's format: {task: [{"attempt_1": grid, "attempt_2": grid} for each test input]}."""
        return {task.name: [self._attempts(task.name, i) for i in range(len(task.tests))]
                for task in self.corpus.asked}

    def write_submission(self, path):
        with _replace(path) as file:
            file.write(json.dumps(self.submission()).encode())
