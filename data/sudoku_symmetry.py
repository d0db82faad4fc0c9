"""The symmetries of Sudoku: random copies of puzzles, and what all copies of a puzzle share.

Two puzzles are symmetric copies if one becomes the other by relabelling digits, exchanging bands
(groups of r rows), rows in a band, stacks (groups of c columns), columns in a stack and, if r == c,
transposing. `augment` draws from exactly this group; `canonical` gives copies, and only copies, the
same bytes, so that no held-out puzzle is a training puzzle in disguise (`data.grid.overlap`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from data.grid import Augment, Random, mix
from data.sudoku_rules import Box, geometry, masks

MOST_SHOWN = 0.6  # of the empty cells, in a copy with hints
MAX_IMAGES = 4096  # images of a puzzle `canonical` may compare; one or two is usual

# ------------------------------------------------------------------------------------------------
# Random copies


def _arrange(groups, members):
    """Sort keys of groups (M, g) and of their members (M, g, k) -> order (M, g * k)."""
    M, g, k = members.shape
    order = groups.argsort(1)[:, :, None]
    return (order * k + np.take_along_axis(members.argsort(2), order, 1)).reshape(M, g * k)


def _cells(rows, cols):
    """Orders of rows and of columns, both (M, S) -> the cells in that order, (M, L)."""
    M, S = rows.shape
    return (rows[:, :, None] * S + cols[:, None, :]).reshape(M, S * S)


def _transpose(grids, S):
    """Flattened grids (M, L) -> their transposes (M, L)."""
    return grids.reshape(-1, S, S).transpose(0, 2, 1).reshape(-1, S * S)


def _renaming(keys):
    """Sort keys of the digits (M, S) -> the new name of every token (M, S + 2): digit k is renamed
    to its rank, padding and blank stay."""
    rank = keys.argsort(1).argsort(1) + 2
    fixed = np.broadcast_to([0, 1], (len(keys), 2))
    return np.concatenate([fixed, rank], 1).astype(np.uint8)


def _symmetries(shape, random, box):
    """Random symmetries, all equally likely, of grids (count, L): where each cell comes from
    (count, L), and the new name of each token (count, S + 2)."""
    (count, length), (r, c), S = shape, box, geometry(box).side
    if length != S * S:
        raise ValueError(f"a Sudoku with boxes of {r}x{c} has {S * S} cells, and these have "
                         f"{length}; give their box")
    rows = _arrange(random(c), random(S).reshape(count, c, r))
    cols = _arrange(random(r), random(S).reshape(count, r, c))
    cells, keys = _cells(rows, cols), random(S)
    if r == c:
        cells = np.where(random(1) < 0.5, _transpose(cells, S), cells)
    return cells, _renaming(keys)


def _moved(grids, cells, names):
    """Grids (M, L) with cells moved and tokens renamed."""
    return np.take_along_axis(names, np.take_along_axis(grids, cells, 1), 1)


def augment(inputs: np.ndarray, labels: np.ndarray, random: Random, box: Box = (2, 3),
            hints: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A random symmetric copy of every puzzle: inputs, labels (B, L) -> the same shapes, uint8.

    `random(k)` gives fresh numbers (B, k), uniform in [0, 1), row i for puzzle i. Every symmetry is
    equally likely. hints: the share of the copies, 0 to 1, that show more of the solution: each
    empty cell with a chance of the copy's own, up to MOST_SHOWN. The solution stays the only one,
    and such copies hardly ever ask the same question twice.
    """
    cells, names = _symmetries(inputs.shape, random, box)
    inputs, labels = _moved(inputs, cells, names), _moved(labels, cells, names)
    if hints:  # NOTE(paper): not in it, and in no preset; docs/experiments.md
        chance = np.where(random(1) < hints, MOST_SHOWN * random(1), 0)
        shown = random(inputs.shape[1]) < chance
        inputs = np.where((inputs == 1) & (labels > 0) & shown, labels, inputs)
    return inputs, labels


def disguise(inputs: np.ndarray, random: Random, box: Box = (2, 3)
             ) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Random symmetric copies of the puzzles (B, L), and a function that turns answers to them
    (B, L) into answers to the puzzles themselves."""
    cells, names = _symmetries(inputs.shape, random, box)

    def restore(answers):
        return _moved(answers, cells.argsort(1), names.argsort(1))  # an inverse is an argsort

    return _moved(inputs, cells, names), restore


def augmenter(box: Box, hints: float = 0.0) -> Augment:
    """The `augment` argument of `tinytrm.Puzzles` for this box; picklable."""
    r, c = box
    geometry(box)
    return functools.partial(augment, box=(r, c), hints=hints)


# ------------------------------------------------------------------------------------------------
# The form that all copies share


def canonical(inputs: np.ndarray, box: Box = (2, 3)) -> list[bytes]:
    """inputs (N, L) -> list of N bytes, equal if and only if the puzzles are symmetric copies.

    The method of graph isomorphism programs. Colour rows and columns by what they hold; where
    colours tie, set one of the tied lines apart, each in turn, and colour again. When no two lines
    share a colour, sorting by colour gives one image of the puzzle, whose digits are then numbered
    by first appearance. The least image is the form. Exact even where hashes collide: every image
    is a copy of the puzzle, and no step depends on which copy was given. Raises ValueError for
    puzzles with too many symmetries, which proper ones hardly have.
    """
    masks(inputs, box)
    inputs = np.maximum(inputs, 1).astype(np.uint8)  # padding is as blank as a blank
    step = max(1, 2000 // geometry(box).side ** 2)
    parts = (inputs[i:i + step] for i in range(0, len(inputs), step))
    return [form for part in parts for form in _canonical(part, box)]


def _canonical(inputs, box):
    """`canonical` for a few puzzles (N, L): all their branches (M, ...) side by side."""
    S, forms, owner, grids = geometry(box).side, {}, np.arange(len(inputs)), inputs
    if box[0] == box[1]:
        grids, owner = np.concatenate([grids, _transpose(grids, S)]), np.tile(owner, 2)
    lines, digits = _first_colours(grids, box)
    while owner.size:
        lines, digits = _refine(grids, lines, digits, box)
        tied = (lines[:, :, None] == lines[:, None, :]).sum(2)  # (M, 2S) lines of the same colour
        most = tied.max(1, keepdims=True)
        least = _least(mix(lines).sum(1), owner)  # drop branches that already differ
        done = least & (most[:, 0] == 1)
        for o, image in zip(owner[done], _image(grids[done], lines[done], box)):
            forms[o] = min(forms.get(o, image.tobytes()), image.tobytes())
        target = np.where(tied == most, lines, 2**64 - 1).min(1, keepdims=True)
        node, line = np.nonzero((lines == target) & (least & ~done)[:, None])
        if len(node) > MAX_IMAGES * len(inputs):
            raise ValueError("a puzzle has too many symmetries for a canonical form; is it proper?")
        grids, owner, lines, digits = grids[node], owner[node], lines[node], digits[node]
        lines[np.arange(len(node)), line] += 1
    return [forms[o] for o in range(len(inputs))]


def _least(trace, owner):
    """Traces (M,) -> (M,) bool: is it the least trace of its owner?"""
    least = np.full(owner.max() + 1, 2**64 - 1, np.uint64)
    np.minimum.at(least, owner, trace)
    return trace == least[owner]


def _first_colours(grids, box):
    """Grids (M, L) -> colours of lines (M, 2S), rows then columns, and of tokens (M, S + 2).

    Lines of a kind are alike, but empty lines of one band or stack are numbered: they can be
    exchanged freely, and an almost empty grid would otherwise have millions of equal images.
    """
    (r, c), S, M = box, geometry(box).side, len(grids)
    digit = grids.reshape(M, S, S) > 1
    rows, cols = ~digit.any(2).reshape(M, c, r), ~digit.any(1).reshape(M, r, c)
    number = [(empty.cumsum(2) * empty).reshape(M, S) for empty in (rows, cols)]
    lines = np.concatenate([number[0], number[1] + 100], 1).astype(np.uint64)
    return lines, np.minimum(np.arange(S + 2, dtype=np.uint64), 2).repeat(M).reshape(S + 2, M).T


def _refine(grids, lines, digits, box, rounds=3):
    """Colour again by contents: alike stays alike, different becomes different. Shapes as above.

    A colour is a hash of what a line or digit meets, never of where it stands. More rounds would
    tell more lines apart; three settle nearly every puzzle.
    """
    (r, c), M, S = box, len(grids), geometry(box).side
    slot = grids + np.arange(M)[:, None] * (S + 2)  # (M, L)
    for _ in range(rounds):
        cell = 5 * np.take_along_axis(digits, grids, 1).reshape(M, S, S)
        cell = mix(cell + lines[:, :S, None] + 3 * lines[:, None, S:])
        lines = mix(3 * lines + np.concatenate([cell.sum(2), cell.sum(1)], 1))
        band = lines[:, :S].reshape(M, c, r).sum(2).repeat(r, 1)
        stack = lines[:, S:].reshape(M, r, c).sum(2).repeat(c, 1)
        lines = mix(3 * lines + np.concatenate([band, stack], 1))
        # bincount adds in float64: with 40 bits of each hash the sum is exact in every order
        meets = np.bincount(slot.ravel(), (cell >> 24).ravel().astype(float), M * (S + 2))
        digits = mix(3 * digits + meets.reshape(M, S + 2).astype(np.uint64))
    return lines, digits


def _image(grids, lines, box):
    """Grids (M, L) with all line colours different -> lines sorted, digits by first appearance."""
    (r, c), M, S = box, len(grids), geometry(box).side
    rows, cols = lines[:, :S].reshape(M, c, r), lines[:, S:].reshape(M, r, c)
    cells = _cells(_arrange(rows.min(2), rows), _arrange(cols.min(2), cols))
    image = np.take_along_axis(grids, cells, 1)
    is_digit = [image == token for token in range(2, S + 2)]
    first = [np.where(here.any(1), here.argmax(1), S * S) for here in is_digit]
    return np.take_along_axis(_renaming(np.stack(first, 1)), image, 1)
