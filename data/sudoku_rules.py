"""The rules of Sudoku of any size: boxes, units, and which grids and puzzles keep them.

Outside, a grid is a row of L = S * S tokens (see `data.sudoku`). Inside, a cell is a mask of
candidates (bit d - 1 for digit d) and the batch axis comes last, (L, N), so that numpy's inner
loops are long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

DIGITS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Box = tuple[int, int]  # (r, c): r rows and c columns


class Geometry(NamedTuple):
    """Index tables of one box shape: which cells see each other, and digits as bits."""

    side: int  # S
    units: np.ndarray  # (3S, S) the cells of every row, column and box
    of_cell: np.ndarray  # (3, L) the row, column and box of every cell, as indices into `units`
    bits: np.ndarray  # (S + 2,) mask of a token: 0 for padding and blank, one bit for a digit
    full: int  # the mask of all digits


@functools.cache
def _geometry(r, c):
    S = r * c
    if min(r, c) < 2 or S > len(DIGITS):
        raise ValueError(f"box {r}x{c} makes no Sudoku: both sides must be 2 or more (a thinner "
                         f"box repeats the row or the column rule) and it can hold at most "
                         f"{len(DIGITS)} digits")
    row, col = np.divmod(np.arange(S * S), S)
    of_cell = np.stack([row, S + col, 2 * S + row // r * r + col // c])
    units = np.stack([np.flatnonzero((of_cell == unit).any(0)) for unit in range(3 * S)])
    bits = np.array([0, 0] + [1 << d for d in range(S)], np.uint16 if S <= 16 else np.uint64)
    return Geometry(S, units, of_cell, bits, (1 << S) - 1)


def geometry(box: Box) -> Geometry:
    """Index tables of boxes (r, c). Raises ValueError for a box that makes no Sudoku."""
    r, c = box
    return _geometry(int(r), int(c))


def default_box(side: int) -> Box:
    """The most square box with r <= c: 4 -> (2, 2), 6 -> (2, 3), 8 -> (2, 4), 9 -> (3, 3).

    Raises ValueError where there is none: 7, say.
    """
    r = max((r for r in range(1, math.isqrt(side) + 1) if side % r == 0), default=1)
    geometry((r, side // r))
    return r, side // r


def masks(tokens: np.ndarray, box: Box) -> np.ndarray:
    """Tokens (..., L) -> masks (L, N), 0 where no digit stands. Raises ValueError."""
    geo, tokens = geometry(box), np.asarray(tokens)
    L = geo.side**2
    fits = tokens.ndim and tokens.shape[-1] == L and tokens.dtype.kind in "iu"
    if not fits or tokens.size and not 0 <= tokens.min() <= tokens.max() <= geo.side + 1:
        raise ValueError(f"box {box[0]}x{box[1]} needs rows of {L} tokens in 0..{geo.side + 1}")
    return np.ascontiguousarray(geo.bits[tokens.reshape(-1, L)].T)


def tally(x: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks (L, N) -> digits in every unit (at least once, at least twice), both (3S, N)."""
    once = np.zeros((len(units), x.shape[1]), x.dtype)
    twice = once.copy()
    for cells in units.T:
        here = x[cells]  # (3S, N) the k-th cell of every unit
        twice |= once & here
        once |= here
    return once, twice


def is_valid(grids: np.ndarray, box: Box) -> np.ndarray:
    """grids (N, L) tokens -> (N,) bool: every row, column and box holds every digit."""
    geo = geometry(box)
    return (tally(masks(grids, box), geo.units)[0] == geo.full).all(0)


def keeps_rules(inputs: np.ndarray, answers: np.ndarray, box: Box) -> np.ndarray:
    """Puzzles and answers (N, L) tokens -> (N,) bool: a valid grid that agrees with every clue.

    Of a puzzle with one solution such an answer is that solution, and no label is needed to see it.
    """
    clues, answer = masks(inputs, box), masks(answers, box)
    return is_valid(answers, box) & ~(clues & ~answer).any(0)


def check(inputs: np.ndarray, labels: np.ndarray, box: Box,
          where: Callable[[int], str] = "row {}".format) -> None:
    """Raise ValueError for the first row that is no puzzle with a solution of it.

    inputs, labels (N, L) tokens; `where(row)` names a row, counted from 1. Whether there are other
    solutions is not checked here: `data.sudoku.count_solutions` does.
    """
    clues, answer = masks(inputs, box), masks(labels, box)  # (L, N)
    if clues.shape != answer.shape:
        raise ValueError(f"{clues.shape[1]} questions, but {answer.shape[1]} answers")
    units = f"a row, column or {box[0]}x{box[1]} box"
    problems = {
        f"the question is contradictory: {units} holds a digit twice":
            tally(clues, geometry(box).units)[1].any(0),
        "the answer contradicts a clue of the question": (clues & ~answer).any(0),
        f"the answer is no valid grid: {units} lacks a digit": ~is_valid(labels, box),
    }
    bad = np.stack(list(problems.values()))  # (3, N)
    if bad.any():
        row = int(bad.any(0).argmax())
        problem = list(problems)[int(bad[:, row].argmax())]
        raise ValueError(f"{where(row + 1)}: {problem}; correct or remove this row")
