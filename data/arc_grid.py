"""ARC as data: grids of colours, the tokens they become, tasks and corpora of them.

A grid has 1..30 rows and columns of colours 0..9. It lies in a square of `side` x `side` cells,
flattened to L = side * side tokens (see `data.arc`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.grid import DIHEDRAL, INVERSE

SIDE = 30  # the largest grid of ARC
TOKENS = 12  # padding, end of grid, ten colours
PLAIN = np.arange(10, dtype=np.uint8)  # the colours of a copy that leaves them as they are

# ------------------------------------------------------------------------------------------------
# Grids and tokens


def encode(grid: np.ndarray, offset: Sequence[int] = (0, 0), side: int = SIDE) -> np.ndarray:
    """Grid (h, w), top-left cell at `offset` (row, column) -> tokens (side * side,) uint8.

    Raises ValueError where it does not fit.
    """
    (h, w), (r, c) = grid.shape, offset
    if min(r, c) < 0 or r + h > side or c + w > side:
        raise ValueError(f"a {h}x{w} grid at {r},{c} does not fit a square of side {side}")
    square = np.zeros((side, side), np.uint8)
    square[r:r + h, c:c + w] = grid + 2
    square[r + h:r + h + 1, c:c + w] = 1  # an empty slice where the grid touches the edge
    square[r:r + h, c + w:c + w + 1] = 1
    return square.ravel()


def decode(tokens: np.ndarray, side: int = SIDE) -> np.ndarray:
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
    return (square[:h if w else 0, :w] - 2).astype(np.uint8)


def augment(grid: np.ndarray, dihedral: int, colours: np.ndarray) -> np.ndarray:
    """Map colour c to colours[c], then turn or mirror: the order of the authors' code."""
    return DIHEDRAL[dihedral](colours[grid])


def restore(grid: np.ndarray, dihedral: int, colours: np.ndarray) -> np.ndarray:
    """The inverse of `augment`."""
    return np.argsort(colours).astype(np.uint8)[DIHEDRAL[INVERSE[dihedral]](grid)]


# Background and text of each colour on a terminal with 256 colours.
PALETTE = ((16, 244), (27, 15), (160, 15), (34, 16), (220, 16),
           (244, 16), (163, 15), (208, 16), (117, 16), (88, 15))


def render(*grids: np.ndarray, colour: bool = True) -> str:
    """Grids side by side as text: every cell shows its digit, `colour` puts it on ARC's own."""

    def line(grid, r):
        if r >= len(grid):
            return "  " * grid.shape[1]
        if not colour:
            return "".join(f"{c} " for c in grid[r])
        cells = ("\x1b[48;5;{};38;5;{}m{} ".format(*PALETTE[c], c) for c in grid[r])
        return "".join(cells) + "\x1b[0m"

    height = max((len(grid) for grid in grids), default=0)
    return "\n".join("  ".join(line(grid, r) for grid in grids).rstrip() for r in range(height))


def pack(grid: np.ndarray) -> bytes:
    """A grid as bytes, two cells in one: rows, columns, colours. Equal grids, equal bytes."""
    grid = np.asarray(grid, np.uint8)
    cells = np.append(grid.ravel(), np.zeros(grid.size % 2, np.uint8))
    return bytes(grid.shape) + (cells[::2] << 4 | cells[1::2]).tobytes()


def unpack(packed: bytes) -> np.ndarray:
    """The inverse of `pack`."""
    h, w = packed[:2]
    cells = np.frombuffer(packed, np.uint8, offset=2)
    return np.stack([cells >> 4, cells & 15], 1).ravel()[:h * w].reshape(h, w)


# ------------------------------------------------------------------------------------------------
# Tasks and corpora


class Task(NamedTuple):
    """One task. What is asked is kept apart from what is trained on, so that it cannot leak."""

    name: str
    pairs: list  # (input, output) grids, trained on
    tests: list  # (input, output or None) grids, asked; empty for a training task


@dataclass(frozen=True)
class Corpus:
    """Tasks by name, in a fixed order. Which pairs are trained on and what is asked: see `Task`."""

    name: str
    tasks: dict[str, Task]

    @property
    def asked(self) -> list[Task]:
        """The tasks with test inputs to answer."""
        return [task for task in self.tasks.values() if task.tests]

    @property
    def num_pairs(self) -> int:
        """Pairs trained on."""
        return sum(len(task.pairs) for task in self.tasks.values())

    @property
    def num_tests(self) -> int:
        """Test inputs asked."""
        return sum(len(task.tests) for task in self.tasks.values())

    @property
    def side(self) -> int:
        """The smallest square that holds every grid."""
        pairs = [p for task in self.tasks.values() for p in task.pairs + task.tests]
        return max(max(grid.shape) for pair in pairs for grid in pair if grid is not None)

    def fitting(self, side: int) -> Corpus:
        """The tasks all of whose grids a square of this side holds. Raises ValueError for none."""
        sides = {name: Corpus(name, {name: task}).side for name, task in self.tasks.items()}
        tasks = {name: task for name, task in self.tasks.items() if sides[name] <= side}
        if not tasks:
            raise ValueError(f"corpus {self.name} has no task with grids of side {side} at most")
        return Corpus(self.name, tasks)

    def check_side(self, side: int) -> None:
        """Raise ValueError unless a square of this side holds every grid."""
        if self.side > side:
            raise ValueError(f"corpus {self.name} has grids of side {self.side}; a square of side "
                             f"{side} does not hold them")
