"""What the tasks share about square grids: their side, their eight symmetries, a 64-bit hash step,
and the question whether held-out puzzles are training puzzles in disguise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

# random(k) -> (B, k) fresh numbers, uniform in [0, 1), row i for puzzle i of a batch
Random = Callable[[int], np.ndarray]
# augment(inputs, labels, random) -> a symmetric copy of every puzzle; all arrays (B, L)
Augment = Callable[[np.ndarray, np.ndarray, Random], tuple[np.ndarray, np.ndarray]]

# The symmetries of a square as views of a grid (h, w, ...), numbered as by the authors of TRM.
DIHEDRAL: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda g: g,
    lambda g: g.swapaxes(0, 1)[::-1],  # 1, 2, 3: np.rot90 once, twice, three times
    lambda g: g[::-1, ::-1],
    lambda g: g.swapaxes(0, 1)[:, ::-1],
    lambda g: g[:, ::-1],  # 4: np.fliplr
    lambda g: g[::-1],  # 5: np.flipud
    lambda g: g.swapaxes(0, 1),  # 6: transpose
    lambda g: g.swapaxes(0, 1)[::-1, ::-1],  # 7: np.fliplr(np.rot90(g))
)
INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)  # DIHEDRAL[INVERSE[k]] undoes DIHEDRAL[k]


def side_of(cells: int) -> int:
    """Side of a square of so many cells, 2 or more. Raises ValueError."""
    side = math.isqrt(max(cells, 0))
    if side * side != cells or side < 2:
        raise ValueError(f"{cells} cells are no square grid; expected 4, 9, 16, ... (81 for 9x9)")
    return side


def columns_of(cells: int) -> int:
    """Columns in which to show so many cells, whatever they mean: a square, else 20 at most."""
    side = math.isqrt(cells)
    return side if side * side == cells else min(cells, 20)


@functools.cache
def dihedral(side: int) -> np.ndarray:
    """(8, L) cell numbers: `grid[dihedral(side)[k]]` is copy k of a flattened square grid."""
    cells = np.arange(side * side).reshape(side, side)
    return np.stack([turned(cells).ravel() for turned in DIHEDRAL])


def mix(x: np.ndarray) -> np.ndarray:
    """The finisher of SplitMix64, uint64 -> uint64: close inputs give unrelated outputs."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def overlap(train: np.ndarray, test: np.ndarray,
            canonical: Callable[[np.ndarray], Sequence[bytes]]) -> np.ndarray:
    """Which held-out puzzles are symmetric copies of a training puzzle? -> (M,) bool.

    train (N, L), test (M, L) questions; `canonical` of `data.maze`, or of `data.sudoku` with its
    box. 10,000 and 10,000 take 0.5 s for 9x9 Sudoku and 0.1 s for 30x30 mazes on one core. Raises
    ValueError where `canonical` does.
    """
    known = set(canonical(train))
    return np.array([form in known for form in canonical(test)], bool)
