"""ARC's puzzle ids: the table of augmented copies, and the training stream drawn from it.

A row of the table is a puzzle of its own: a task, turned or mirrored, its colours permuted. Only
that is stored; grids are augmented as they are drawn.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from data.arc_grid import PLAIN, SIDE, TOKENS, Corpus, Task, augment, encode, restore
from data.files import read_json
from data.grid import DIHEDRAL, INVERSE, Random, mix

# ------------------------------------------------------------------------------------------------
# The table


class Table:
    """Puzzle id -> (task, dihedral, colours). Row 0 is `<blank>`, the id of padding.

    A trained puzzle embedding means nothing without the table it was trained with: a model keeps
    both (`support.tasks`), and `sha256` tells whether they belong together.
    """

    def __init__(self, tasks: Iterable[str], task: ArrayLike, dihedral: ArrayLike,
                 colours: ArrayLike):
        self.tasks = list(tasks)  # names
        self.task = np.asarray(task, np.int32)  # (R,) index into `tasks`, -1 for <blank>
        self.dihedral = np.asarray(dihedral, np.uint8)  # (R,) 0..7
        self.colours = np.asarray(colours, np.uint8)  # (R, 10) colour c becomes colours[c]
        self._order = np.argsort(self.task, kind="stable")  # rows task by task
        self._start = np.searchsorted(self.task[self._order], np.arange(len(self.tasks) + 1))
        self._index = {name: i for i, name in enumerate(self.tasks)}

    def __len__(self) -> int:
        return len(self.task)

    def rows(self, name: str) -> np.ndarray:
        """Ids of a task's copies, (K,), the plain one first. Raises ValueError if it has none."""
        i = self._index.get(name)
        if i is None or self._start[i] == self._start[i + 1]:
            raise ValueError(f"task {name} has no puzzle id: the table is of another corpus")
        return self._order[self._start[i]:self._start[i + 1]]

    def augment(self, row: int, grid: np.ndarray) -> np.ndarray:
        """A grid of a task as copy `row` of the task has it."""
        return augment(grid, self.dihedral[row], self.colours[row])

    def restore(self, row: int, grid: np.ndarray) -> np.ndarray:
        """The inverse of `augment`."""
        return restore(grid, self.dihedral[row], self.colours[row])

    def names(self) -> list[str]:
        """The authors' name of every row: `<blank>`, `task`, `task|||t{dihedral}|||{colours}`."""
        copy = (self.dihedral > 0) | (self.colours != PLAIN).any(1)
        digits = (self.colours + ord("0")).tobytes().decode()
        suffix = (f"|||t{d}|||{digits[10 * r:10 * r + 10]}" if copy[r] else ""
                  for r, d in enumerate(self.dihedral.tolist()))
        names = [self.tasks[t] + s for t, s in zip(self.task.tolist(), suffix)]
        return ["<blank>"] + names[1:]

    def sha256(self) -> str:
        """Of all that the table says, as hex digits."""
        content = hashlib.sha256(json.dumps(self.tasks).encode())
        for array in (self.task.astype("<i4"), self.dihedral, self.colours):
            content.update(array.tobytes())
        return content.hexdigest()


# ------------------------------------------------------------------------------------------------
# Drawing copies that differ

_KEYS = np.random.default_rng(0).integers(1 << 64, size=2 * SIDE * SIDE + 10, dtype=np.uint64)
_CELL_KEY, _COLOUR_KEY = _KEYS[:-10].reshape(2, SIDE, SIDE), _KEYS[-10:]


def _colour_sums(grid, keys):
    """(8, 10) uint64: per symmetry of the grid and colour, the sum of the keys under its cells."""
    h, w = grid.shape
    # Key of a cell's new place = the keys turned back: one symmetry of the small key window.
    windows = (keys[:w, :h] if d in (1, 3, 6, 7) else keys[:h, :w] for d in range(8))
    under = np.stack([DIHEDRAL[INVERSE[d]](k).ravel() for d, k in enumerate(windows)])  # (8, h * w)
    return under @ (grid.reshape(-1, 1) == PLAIN).astype(np.uint64)


def copy_hashes(pairs: Sequence[tuple], dihedral: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(N,) uint64: equal for two copies of a task if and only if they hold the same pairs.

    pairs [(input, output or None)], in any order; dihedral (N,), colours (N, 10). (Only if: but for
    64-bit collisions.) A pair's hash is the sum of key(place) * key(colour) over its cells, so all
    that is needed of a grid is the sum of place keys per colour: ten products per pair and copy.
    """
    total = np.zeros(len(dihedral), np.uint64)
    for grids in pairs:
        sums = sum(_colour_sums(g, keys) for g, keys in zip(grids, _CELL_KEY) if g is not None)
        total += mix((sums[dihedral] * _COLOUR_KEY[colours]).sum(1))
    return total


def distinct_copies(task: Task, copies: int, seed: int,
                    tries: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(dihedral (K,), colours (K, 10)) of the plain copy and up to `copies` others, all different.

    Drawn at random, duplicates dropped, `tries` * `copies` times at most (the authors' rule). Each
    task has its own random stream, so that its copies do not depend on the other tasks.
    """
    rng = np.random.default_rng((seed, *task.name.encode()))
    N = tries * copies
    dihedral = np.append(0, rng.integers(8, size=N))  # the plain copy comes first, and so wins
    shuffled = 1 + rng.random((N, 9)).argsort(1).astype(np.uint8)
    colours = np.vstack([PLAIN, np.pad(shuffled, ((0, 0), (1, 0)))])  # colour 0 stays
    # NOTE(paper): the authors' hash sees the held-out test outputs too. Here it must not: the table
    # is the same with and without them.
    seen = task.pairs + [(x, None) for x, _ in task.tests]
    _, first = np.unique(copy_hashes(seen, dihedral, colours), return_index=True)
    keep = np.sort(first)[:copies + 1]
    return dihedral[keep], colours[keep]


def build_table(corpus: Corpus, copies: int = 1000, seed: int = 0) -> Table:
    """The table of a corpus: `<blank>`, then each task's plain copy and its augmented ones."""
    drawn = [distinct_copies(task, copies, seed) for task in corpus.tasks.values()]
    task = np.repeat(np.arange(len(drawn)), [len(d) for d, _ in drawn])
    return Table(corpus.tasks, np.append(-1, task), np.concatenate([[0], *(d for d, _ in drawn)]),
                 np.vstack([PLAIN, *(c for _, c in drawn)]))


# ------------------------------------------------------------------------------------------------
# The authors' tables

NAME = re.compile(r"((?:(?!\|\|\|).)+)(?:\|\|\|t([0-7])\|\|\|(0[1-9]{9}))?")


def _parse(name, where):
    """`task` or `task|||t{d}|||{perm}` -> (task, dihedral, digits)."""
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or (match[3] and len(set(match[3])) < 10):
        shown = f"{name!r:.80}" if isinstance(name, str) else reprlib.repr(name)
        raise ValueError(f"{where}: {shown} is not task or task|||t0..7|||ten digits, 0 first")
    return match[1], int(match[2] or 0), match[3] or "0123456789"


def table_from_identifiers(path: str | Path, tasks: Iterable[str],
                           rows: int | None = None) -> Table:
    """The table of a published checkpoint from the `identifiers.json` the authors' builder wrote.

    tasks: names that may occur (`corpus.tasks`); rows: of the checkpoint's puzzle embedding.
    Raises ValueError.
    """
    names = read_json(path)
    if not isinstance(names, list) or not names or names[0] != "<blank>":
        raise ValueError(f"{path}: expected a list of puzzle names that begins with \"<blank>\"")
    if rows is not None and len(names) != rows:
        raise ValueError(f"{path}: {len(names)} names, but the checkpoint's puzzle embedding has "
                         f"{rows} rows; they do not belong together")
    tasks = list(tasks)
    index = {name: i for i, name in enumerate(tasks)}
    seen: dict[tuple, int] = {}
    for row, name in enumerate(names[1:], 1):
        copy = _parse(name, f"{path} entry {row}")
        if copy[0] not in index:
            raise ValueError(f"{path} entry {row}: task {copy[0]!r:.80} is not in this corpus")
        if seen.setdefault(copy, row) != row:
            raise ValueError(f"{path} entry {row}: {name!r:.80} is already entry {seen[copy]}")
    task, dihedral, digits = zip((None, 0, "0123456789"), *seen)  # in order of insertion
    colours = np.frombuffer("".join(digits).encode(), np.uint8).reshape(-1, 10) - ord("0")
    return Table(tasks, [-1, *(index[name] for name in task[1:])], dihedral, colours)


# ------------------------------------------------------------------------------------------------
# Training


class ArcPuzzles:
    """The endless training stream, with the interface of `tinytrm.Puzzles`.

    An epoch visits every task once, in shuffled order: one of its copies is picked, and that copy's
    pairs follow one another, shuffled. One pair of them stays in the corner of the square; the
    others are moved, input and output alike, to a random place where both fit.
    NOTE(paper): the authors draw the places once, when the data set is written; here every epoch.
    """

    def __init__(self, corpus: Corpus, table: Table, side: int = SIDE):
        corpus.check_side(side)
        self.table, self.side = table, side
        self.tasks = list(corpus.tasks)
        counts = [len(task.pairs) for task in corpus.tasks.values()]
        self.pairs = [pair for task in corpus.tasks.values() for pair in task.pairs]
        self.task_of = np.repeat(np.arange(len(counts)), counts)  # (N,) task of each pair
        self.first = np.cumsum([0, *counts[:-1]])  # (tasks,) its first pair
        self.copies = [table.rows(name) for name in self.tasks]  # puzzle ids of each task
        # A batch goes on where the one before it stopped: keep the last few epochs.
        self._epoch = functools.lru_cache(maxsize=8)(self._plan_epoch)

    def __len__(self) -> int:
        """Pairs in an epoch."""
        return len(self.pairs)

    def check(self, config: Any) -> None:
        """Raise ValueError unless a model of this `tinytrm.Config` can train on these puzzles."""
        for what, mine, model in (("cells", self.side**2, config.seq_len),
                                  ("tokens", TOKENS, config.vocab_size),
                                  ("puzzle ids", len(self.table), config.num_puzzle_ids)):
            if mine != model:
                raise ValueError(f"ARC puzzles have {mine} {what}, the model {model}")

    def _plan_epoch(self, seed, epoch):
        """What an epoch shows, in order: pair (N,), puzzle id (N,), place (N, 2) in [0, 1)."""
        rng = np.random.default_rng((seed, epoch))
        turn = rng.permutation(len(self.tasks))[self.task_of]  # (N,)
        pick = rng.random(len(self.tasks))
        ids = np.array([rows[int(u * len(rows))] for rows, u in zip(self.copies, pick)])
        place = rng.random((len(self), 2))
        still = np.lexsort((rng.random(len(self)), self.task_of))[self.first]  # one per task
        place[still] = 0
        order = np.lexsort((rng.random(len(self)), turn))
        return order, ids[self.task_of[order]], place[order]

    def _tokens(self, pair, row, place):
        """A pair's copy `row`, both grids at the same place of the square: two of (L,)."""
        x, y = (self.table.augment(row, grid) for grid in self.pairs[pair])
        room = self.side + 1 - np.maximum(x.shape, y.shape)
        offset = (place * room).astype(int)
        return encode(x, offset, self.side), encode(y, offset, self.side)

    def draw(self, positions: np.ndarray, seed: int,
             random: Random | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the stream: inputs (B, L), labels (B, L) uint8 and puzzle ids (B,) int64.

        A pure function of (seed, position): however positions (B,) are split over batches,
        processes or restarts, the same ones give the same rows. `random`, from which other puzzles
        are augmented, is not needed: the copies stand in the table.
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
