"""ARC's answers: every copy of every test input is asked, and the answers vote."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.arc_grid import SIDE, Corpus, decode, encode, pack, unpack
from data.arc_table import Table
from data.files import replacing


def questions(corpus: Corpus, table: Table,
              copies: int | None = None) -> Iterator[tuple[str, int, int]]:
    """Every copy of every test input: yields (task name, index of the test, puzzle id).

    copies: augmented copies per task besides the plain one, None for all.
    """
    for task in corpus.asked:
        rows = table.rows(task.name)[:None if copies is None else copies + 1].tolist()
        yield from itertools.product([task.name], range(len(task.tests)), rows)


def queries(corpus: Corpus, table: Table, batch: int, side: int = SIDE, copies: int | None = None,
            rank: int = 0, world: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray, list]]:
    """The test inputs in batches of at most `batch` rows, made as they are asked for.

    Yields inputs (B, L) uint8, ids (B,) int64 and meta, a list of B tuples for `Votes.add`: (task
    name, index of the test, puzzle id). Process `rank` of `world` gets every world-th row.
    Test inputs are never moved in the square.
    """
    corpus.check_side(side)
    mine = itertools.islice(questions(corpus, table, copies), rank, None, world)
    while meta := list(itertools.islice(mine, batch)):
        grids = (table.augment(row, corpus.tasks[task].tests[i][0]) for task, i, row in meta)
        inputs = np.stack([encode(grid, side=side) for grid in grids])  # (B, L)
        yield inputs, np.array([row for _, _, row in meta]), meta


class Votes:
    """Predictions of all copies, undone and counted.

    A candidate answer is ranked by the number of copies that voted for it, then by the mean of
    their sigmoid(q). What is still equal is ordered by content: fewer rows, fewer columns, lower
    colours first. Sums are kept as integers, so neither the order of the votes nor the number of
    processes they come from plays a role.

    Only candidates are kept, not predictions, and for one test input at most 2 * `keep`: beyond
    that the lowest-ranked half goes. One checkpoint with 1000 copies never gets there.
    """

    def __init__(self, corpus: Corpus, table: Table, side: int = SIDE, keep: int = 2000):
        self.corpus, self.table, self.side, self.keep = corpus, table, side, keep
        # (task, index of the test) -> {packed grid: [votes, sum of sigmoid(q) in units of 2^-32]}
        self.counts: dict[tuple[str, int], dict[bytes, list[int]]] = {}

    def add(self, task: str, index: int, row: int, tokens: np.ndarray, q: float) -> None:
        """Count one prediction: tokens (L,) for copy `row` of a test input, q the halting logit.

        NOTE(paper): a prediction without any cell counts for nothing; the authors let it compete.
        Raises ValueError for what belongs to another corpus or is no number.
        """
        if not 0 < row < len(self.table) or self.table.tasks[self.table.task[row]] != task:
            raise ValueError(f"puzzle id {row} is no copy of task {task}")
        if task not in self.corpus.tasks or not 0 <= index < len(self.corpus.tasks[task].tests):
            raise ValueError(f"task {task} has no test input {index}")
        if not math.isfinite(q):
            raise ValueError(f"task {task} test {index}, puzzle id {row}: q is {q}, no number; "
                             "the model has diverged")
        grid = self.table.restore(row, decode(tokens, self.side))
        if grid.size:
            sigmoid = 0.5 + 0.5 * math.tanh(0.5 * q)
            self._count(task, index, pack(grid), 1, round(sigmoid * 2**32))

    def _count(self, task, index, packed, votes, q):
        candidates = self.counts.setdefault((task, index), {})
        entry = candidates.setdefault(packed, [0, 0])
        entry[0] += votes
        entry[1] += q
        if len(candidates) > 2 * self.keep:
            best = self._ranking(task, index)[:self.keep]
            self.counts[task, index] = {packed: candidates[packed] for packed in best}

    def merge(self, other: Votes | dict) -> None:
        """Add the votes of another process, or of another checkpoint: then call the result pooled.

        NOTE(paper): the authors pool all checkpoints of a training so far; `evaluate.py --pool`
        does so, and nothing else: one checkpoint votes.

        other: Votes, or its `counts` alone, plain dicts that are cheap to send.
        """
        counts = other.counts if isinstance(other, Votes) else other
        for (task, index), candidates in counts.items():
            for packed, (votes, q) in candidates.items():
                self._count(task, index, packed, votes, q)

    def _ranking(self, task, index):
        """Packed candidates, best first. At equal votes the order of sums is that of means."""
        candidates = self.counts.get((task, index), {})
        return sorted(candidates, key=lambda p: (-candidates[p][0], -candidates[p][1], p))

    def ranked(self, task: str, index: int) -> list[np.ndarray]:
        """Candidate grids for a test input, best first."""
        return [unpack(p) for p in self._ranking(task, index)]

    def score(self, ks: Sequence[int] = (1, 2, 5, 10, 100, 1000)) -> dict[int, float]:
        """{k: pass@k}: mean over tasks of the share of tests with the right grid in the top k.

        Raises ValueError where answers to compare with are missing.
        """
        passed, asked = dict.fromkeys(ks, 0.0), self.corpus.asked
        if not asked:
            raise ValueError(f"corpus {self.corpus.name} asks nothing: it has no evaluation tasks")
        for task in asked:
            for i, (_, output) in enumerate(task.tests):
                if output is None:
                    raise ValueError(f"task {task.name} test {i} has no output, so there is no "
                                     "score; a submission can be written all the same")
                ranking, answer = self._ranking(task.name, i), pack(output)
                place = ranking.index(answer) if answer in ranking else math.inf
                for k in ks:
                    passed[k] += (place < k) / len(task.tests)
        return {k: share / len(asked) for k, share in passed.items()}

    def _attempts(self, task, index):
        """The two best grids; the best one twice if there is no second, [[0]] if there is none."""
        best = [unpack(p).tolist() for p in self._ranking(task, index)[:2]] or [[[0]]]
        return {"attempt_1": best[0], "attempt_2": best[-1]}

    def submission(self) -> dict[str, list]:
        """Kaggle's format: {task: [{"attempt_1": grid, "attempt_2": grid} for each test input]}."""
        return {task.name: [self._attempts(task.name, i) for i in range(len(task.tests))]
                for task in self.corpus.asked}

    def write_submission(self, path: str | Path) -> None:
        """Write `submission` as JSON, complete or not at all. Raises OSError."""
        with replacing(path) as file:
            file.write(json.dumps(self.submission()).encode())
