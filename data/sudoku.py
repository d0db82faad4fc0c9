"""Sudoku of any size: generator, solver, symmetries, CSV files, and the Sudoku-Extreme download.

A grid of side S = r * c is cut into boxes of r rows and c columns: box (2, 2) makes 4x4, (2, 3)
6x6, (3, 3) the usual 9x9. Every row, column and box holds each digit once. A puzzle shows some of
the digits (its clues); it is proper if just one grid agrees with them, and minimal if besides no
clue can go. Grids are flattened row by row into L = S * S tokens, S + 2 of them:

    0 padding    1 blank    d + 1 for digit d

Two puzzles are symmetric copies if one becomes the other by relabelling digits, exchanging bands
(groups of r rows), rows in a band, stacks (groups of c columns), columns in a stack and, if r == c,
transposing. `augment` draws from exactly this group; `canonical` gives copies, and only copies, the
same bytes, so that no held-out puzzle is a training puzzle in disguise.

Measured on one CPU core: 2000 minimal 6x6 puzzles (10.1 clues on average) take 0.8 s, 1000 minimal
9x9 puzzles (24.3 clues) 3.5 s, the canonical forms of 11,000 Sudoku-Extreme rows 0.6 s, reading
10,000 rows 0.1 s. No row of that test set is a copy of another or of a training row. There are
about two million minimal 6x6 puzzles up to symmetry (an estimate from repeats among 20,000), but
few 4x4 puzzles: 36 minimal ones (13, 22 and 1 with 4, 5 and 6 clues), and among all proper ones 13,
96, 376, 711, 1040 and 980 with 4 to 9 clues (4710 in all). `generate` fails with one clear line
where there are no more.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import http.client
import io
import json
import math
import os
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BATCH = 1024  # grids the solver works on at once: hides numpy's overhead, still fits the cache
PATIENCE = 4096  # puzzles in a row that bring nothing new before `generate` gives up
MAX_IMAGES = 4096  # images of a puzzle `canonical` may compare; one or two is usual
HUB = "https://huggingface.co/datasets/sapientinc/sudoku-extreme/resolve/main"
CHECKSUMS = {  # sha256 of the public files, as pinned by a third party
    "train.csv": "64b46674db0148e0d73a16346dadeb2b1c00824d3fca3f85b2ae7037f6b4b38e",
    "test.csv": "a2fd52aea23d331d5b4ee723c856236e838a9fb9a70e66f4e0e0cf26c338c6a8",
}

# --------------------------------------------------------------------------------------------------
# Grids. Inside, a cell is a mask of candidates (bit d - 1 for digit d) and the batch axis comes
# last, (L, N), so that numpy's inner loops are long.


class Geometry(NamedTuple):
    """Index tables of one box shape: which cells see each other, and digits as bits."""

    side: int  # S
    units: np.ndarray  # (3S, S) the cells of every row, column and box
    of_cell: np.ndarray  # (3, L) the row, column and box of every cell, as indices into `units`
    bits: np.ndarray  # (S + 2,) mask of a token: 0 for padding and blank, one bit for a digit
    full: int  # the mask of all digits


@functools.lru_cache(maxsize=None)
def _geometry(r, c):
    S = r * c
    if min(r, c) < 2 or S > len(DIGITS):
        raise ValueError(
            f"box {r}x{c} makes no Sudoku: both sides must be 2 or more (a thinner box repeats the "
            f"row or the column rule) and it can hold at most {len(DIGITS)} digits"
        )
    row, col = np.divmod(np.arange(S * S), S)
    of_cell = np.stack([row, S + col, 2 * S + row // r * r + col // c])
    units = np.stack([np.flatnonzero((of_cell == unit).any(0)) for unit in range(3 * S)])
    bits = np.array([0, 0] + [1 << d for d in range(S)], np.uint16 if S <= 16 else np.uint64)
    return Geometry(S, units, of_cell, bits, (1 << S) - 1)


def geometry(box):
    """Index tables of boxes (r, c); ValueError for a box that makes no Sudoku."""
    r, c = box
    return _geometry(int(r), int(c))


def default_box(side):
    """The most square box with r <= c: 4 -> (2, 2), 6 -> (2, 3), 8 -> (2, 4), 9 -> (3, 3)."""
    r = max((r for r in range(1, math.isqrt(side) + 1) if side % r == 0), default=1)
    geometry((r, side // r))
    return r, side // r


def _masks(tokens, box):
    """Tokens (..., L) -> masks (L, N), 0 where no digit stands; ValueError for other tokens."""
    geo, tokens = geometry(box), np.asarray(tokens)
    L = geo.side**2
    fits = tokens.ndim and tokens.shape[-1] == L and tokens.dtype.kind in "iu"
    if not fits or tokens.size and not 0 <= tokens.min() <= tokens.max() <= geo.side + 1:
        raise ValueError(f"box {box[0]}x{box[1]} needs rows of {L} tokens in 0..{geo.side + 1}")
    return np.ascontiguousarray(geo.bits[tokens.reshape(-1, L)].T)


def _tally(masks, units):
    """Masks (L, N) -> digits in every unit (at least once, at least twice), both (3S, N)."""
    once = np.zeros((len(units), masks.shape[1]), masks.dtype)
    twice = once.copy()
    for cells in units.T:
        here = masks[cells]  # (3S, N) the k-th cell of every unit
        twice |= once & here
        once |= here
    return once, twice


def is_valid(grids, box):
    """grids (N, L) tokens -> (N,) bool: every row, column and box holds every digit."""
    geo = geometry(box)
    return (_tally(_masks(grids, box), geo.units)[0] == geo.full).all(0)


def check(inputs, labels, box, where="row {}".format):
    """Raise ValueError for the first row that is no puzzle with a solution of it.

    inputs, labels (N, L) tokens; `where(row)` names a row, counted from 1. Whether there are other
    solutions is not checked here: `count_solutions` does.
    """
    clues, answer = _masks(inputs, box), _masks(labels, box)  # (L, N)
    if clues.shape != answer.shape:
        raise ValueError(f"{clues.shape[1]} questions, but {answer.shape[1]} answers")
    problems = {
        "the question is contradictory: a row, column or box holds a digit twice":
            _tally(clues, geometry(box).units)[1].any(0),
        "the answer contradicts a clue of the question": (clues & ~answer).any(0),
        "the answer is no valid grid: a row, column or box lacks a digit": ~is_valid(labels, box),
    }
    bad = np.stack(list(problems.values()))  # (3, N)
    if bad.any():
        row = int(bad.any(0).argmax())
        problem = list(problems)[int(bad[:, row].argmax())]
        raise ValueError(f"{where(row + 1)}: {problem}; correct or remove this row")


# --------------------------------------------------------------------------------------------------
# Solver


def _sweep(x, geo):
    """One round of naked and hidden singles on x (L, M); a contradictory grid becomes all 0."""
    row, col, box = geo.of_cell
    single = np.where(x & (x - 1), 0, x)  # cells with one candidate
    fixed = np.bitwise_or.reduce(single[geo.units], axis=1)
    once, twice = _tally(x, geo.units)
    alone = once & ~twice  # digits with one place left in the unit
    hidden = x & (alone[row] | alone[col] | alone[box])
    y = np.where(hidden, hidden, x & ~(fixed[row] | fixed[col] | fixed[box]) | single)
    y[:, (once != geo.full).any(0) | (x == 0).any(0)] = 0
    return y


def _split(x, geo, rng=None):
    """Halve the search: x (L, M), none solved -> (x with a guess made, x with that guess excluded).

    The guess is the lowest digit, or a random one, of a cell with the fewest candidates.
    """
    candidates = sum((x >> d & 1).astype(np.int8) for d in range(geo.side))
    cell = np.where(candidates > 1, candidates, 99).argmin(0)
    at = cell, np.arange(x.shape[1])
    lots = 1 if rng is None else 1 - rng.random((geo.side, x.shape[1]))
    digit = ((x[at] & geo.bits[2:, None] != 0) * lots).argmax(0)
    guessed, excluded = x.copy(), x.copy()
    guessed[at] = geo.bits[2:][digit]
    excluded[at] &= ~guessed[at]
    return guessed, excluded


def _search(x, box, limit):
    """Depth-first search from masks x (L, N), a batch from the top of the stack at each step.

    Returns the number of solutions (N,), counted up to `limit`, and one of them (L, N) or 0.
    """
    geo, N = geometry(box), x.shape[1]
    found, first, owner = np.zeros(N, int), np.zeros_like(x), np.arange(N)
    size = min(max(N, 64), BATCH)  # for few puzzles, go deep rather than wide
    while owner.size:
        x, top, owner, who = x[:, :-size], x[:, -size:], owner[:-size], owner[-size:]
        new = _sweep(top, geo)
        open_, still = (new & (new - 1)).any(0), (new == top).all(0)
        solved, stuck, moved = still & ~open_, still & open_, ~still & new.any(0)
        np.add.at(found, who[solved], 1)
        first[:, who[solved]] = new[:, solved]
        guessed, excluded = _split(new[:, stuck], geo)
        x = np.concatenate([x, excluded, new[:, moved], guessed], 1)
        owner = np.concatenate([owner, who[stuck], who[moved], who[stuck]])
        wanted = found[owner] < limit
        if not wanted.all():
            x, owner = x[:, wanted], owner[wanted]
    return np.minimum(found, limit), first


def _tokens(x):
    """Solved masks (L, N) -> tokens (N, L) uint8; 0 stays 0."""
    return np.where(x, np.log2(np.maximum(x, 1)) + 2, 0).astype(np.uint8).T


def _candidates(puzzles, box):
    """Tokens (..., L) -> masks (L, N) for the solver: a cell without a digit may hold any."""
    x = _masks(puzzles, box)
    return np.where(x, x, geometry(box).full).astype(x.dtype)


def solve(puzzles, box=(2, 3)):
    """puzzles (..., L) tokens -> a solution of each (..., L) uint8, all 0 if there is none."""
    return _tokens(_search(_candidates(puzzles, box), box, 1)[1]).reshape(np.shape(puzzles))


def count_solutions(puzzles, box=(2, 3), limit=2):
    """puzzles (..., L) tokens -> solutions (...) int, counted up to `limit`: 1 means proper."""
    return _search(_candidates(puzzles, box), box, limit)[0].reshape(np.shape(puzzles)[:-1])


# --------------------------------------------------------------------------------------------------
# Generator


def _random_grids(count, box, rng):
    """Random complete grids (count, L): random guesses, starting over at a contradiction."""
    geo = geometry(box)
    empty = np.full((geo.side**2, 1), geo.full, geo.bits.dtype)
    x, done = empty.repeat(count, 1), []
    while x.shape[1]:
        new = _sweep(x, geo)
        open_, still = (new & (new - 1)).any(0), (new == x).all(0)
        done.append(new[:, still & ~open_])
        new[:, still & open_] = _split(new[:, still & open_], geo, rng)[0]
        new[:, ~new.any(0)] = empty
        x = new[:, ~still | open_]
    return _tokens(np.concatenate(done, 1))


def _remove_clues(labels, clues, box, rng):
    """labels (N, L) -> inputs (N, L): clues go in random order as long as the puzzle stays proper.

    A clue may go unless the other clues admit a grid with another digit in its cell. One pass is
    enough: with fewer clues around, a clue that had to stay still has to. Stops at `clues` clues.
    """
    geo, given = geometry(box), np.ones(labels.shape, bool)
    bits = geo.bits[labels]  # (N, L)
    for cell in rng.random(labels.shape).argsort(1).T:  # (N,) the next cell of every puzzle
        rows = np.flatnonzero(given.sum(1) > clues)
        cell = cell[rows]
        x = np.where(given[rows], bits[rows], geo.full).astype(bits.dtype).T
        x[cell, np.arange(len(rows))] = geo.full & ~bits[rows, cell]
        given[rows, cell] = _search(np.ascontiguousarray(x), box, 1)[0] > 0
    return np.where(given, labels, 1).astype(np.uint8)


def generate(count, box=(2, 3), clues=None, seed=0, exclude=()):
    """Proper puzzles, none a symmetric copy of another -> inputs, labels, both (count, L) uint8.

    clues: None for minimal puzzles, or the exact number of clues. exclude: canonical forms that may
    not appear either, those of a training set say. The result depends on the arguments alone.
    ValueError if PATIENCE puzzles in a row are copies of earlier ones or need more clues.
    """
    side, rng, seen = geometry(box).side, np.random.default_rng(seed), set(exclude)
    if clues is not None and not side - 1 <= clues <= side**2:  # two absent digits could be swapped
        raise ValueError(f"clues must lie in {side - 1}..{side**2} for {side}x{side}, not {clues}")
    kept, total, dry = [np.zeros((2, 0, side**2), np.uint8)], 0, 0
    while total < count and dry < PATIENCE:
        labels = _random_grids(min(max(count - total, dry, 64), BATCH), box, rng)
        inputs = _remove_clues(labels, clues or 0, box, rng)
        fits = np.flatnonzero((inputs > 1).sum(1) == clues) if clues else np.arange(len(inputs))
        forms = dict(zip(canonical(inputs[fits], box), fits))  # one puzzle of each form
        new = [i for form, i in forms.items() if form not in seen]
        seen.update(forms)
        kept.append(np.stack([inputs[new], labels[new]]))
        total, dry = total + len(new), 0 if new else dry + len(inputs)
    if total < count:
        raise ValueError(
            f"found only {total} of {count} different {side}x{side} puzzles with "
            f"{clues or 'minimal'} clues: the last {dry} tries were copies or needed more clues; "
            f"ask for fewer puzzles, another number of clues or a larger box"
        )
    inputs, labels = np.concatenate(kept, 1)[:, :count]
    return inputs, labels


# --------------------------------------------------------------------------------------------------
# Symmetries


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


def _symmetries(count, random, box):
    """Random symmetries, all equally likely: where each cell comes from (count, L), and the new
    name of each token (count, S + 2)."""
    (r, c), S = box, geometry(box).side
    rows = _arrange(random(c), random(S).reshape(count, c, r))
    cols = _arrange(random(r), random(S).reshape(count, r, c))
    cells, keys = _cells(rows, cols), random(S)
    if r == c:
        cells = np.where(random(1) < 0.5, _transpose(cells, S), cells)
    return cells, _renaming(keys)


def _moved(grids, cells, names):
    """Grids (M, L) with cells moved and tokens renamed."""
    return np.take_along_axis(names, np.take_along_axis(grids, cells, 1), 1)


def augment(inputs, labels, random, box=(2, 3)):
    """A random symmetric copy of every puzzle: inputs, labels (B, L) -> the same shapes, uint8.

    `random(k)` gives fresh numbers (B, k), uniform in [0, 1), row i for puzzle i. Every symmetry is
    equally likely.
    """
    cells, names = _symmetries(len(inputs), random, box)
    return _moved(inputs, cells, names), _moved(labels, cells, names)


def disguise(inputs, random, box=(2, 3)):
    """Random symmetric copies of the puzzles (B, L), and a function that turns answers to them
    (B, L) into answers to the puzzles themselves."""
    cells, names = _symmetries(len(inputs), random, box)

    def restore(answers):
        return _moved(answers, cells.argsort(1), names.argsort(1))  # an inverse is an argsort

    return _moved(inputs, cells, names), restore


def augmenter(box):
    """The `augment` argument of `tinytrm.Puzzles` for this box; picklable."""
    geometry(box)
    return functools.partial(augment, box=tuple(box))


def canonical(inputs, box=(2, 3)):
    """inputs (N, L) -> list of N bytes, equal if and only if the puzzles are symmetric copies.

    The method of graph isomorphism programs. Colour rows and columns by what they hold; where
    colours tie, set one of the tied lines apart, each in turn, and colour again. When no two lines
    share a colour, sorting by colour gives one image of the puzzle, whose digits are then numbered
    by first appearance. The least image is the form. Exact even where hashes collide: every image
    is a copy of the puzzle, and no step depends on which copy was given.
    """
    _masks(inputs, box)
    inputs = np.maximum(inputs, 1).astype(np.uint8)  # padding is as blank as a blank
    step = max(1, 2000 // geometry(box).side ** 2)
    parts = (inputs[i : i + step] for i in range(0, len(inputs), step))
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
        least = _least(_mix(lines).sum(1), owner)  # drop branches that already differ
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


def _mix(x):
    """The finisher of SplitMix64, uint64 -> uint64: close inputs give unrelated outputs."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


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
        cell = _mix(cell + lines[:, :S, None] + 3 * lines[:, None, S:])
        lines = _mix(3 * lines + np.concatenate([cell.sum(2), cell.sum(1)], 1))
        band = lines[:, :S].reshape(M, c, r).sum(2).repeat(r, 1)
        stack = lines[:, S:].reshape(M, r, c).sum(2).repeat(c, 1)
        lines = _mix(3 * lines + np.concatenate([band, stack], 1))
        # bincount adds in float64: with 40 bits of each hash the sum is exact in every order
        meets = np.bincount(slot.ravel(), (cell >> 24).ravel().astype(float), M * (S + 2))
        digits = _mix(3 * digits + meets.reshape(M, S + 2).astype(np.uint64))
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


# --------------------------------------------------------------------------------------------------
# Files: CSV with columns source,question,answer,rating; `.` or `0` is a blank, A is digit 10


def read_csv(path, box=None):
    """CSV file -> inputs, labels, both (N, L) uint8, and the box (default: see `default_box`).

    Only the columns question and answer are needed, in any order. ValueError, one line with the row
    (counted from 1, header apart) and the line of the file, for the first row that is not right.
    """
    rows, lines = _read_rows(Path(path))

    def where(row):
        return _place(path, row, lines[row - 1])

    L = len(rows[0][0])
    try:
        if not L or math.isqrt(L) ** 2 != L:
            raise ValueError(f"a question of {L} characters is no square grid")
        box = tuple(box) if box else default_box(math.isqrt(L))
        if geometry(box).side ** 2 != L:
            raise ValueError(f"a question of {L} characters does not fit box {box[0]}x{box[1]}")
    except ValueError as error:
        raise ValueError(f"{where(1)}: {error}") from None
    inputs, labels = (_parse(rows, column, box, where) for column in (0, 1))
    check(inputs, labels, box, where)
    return inputs, labels, box


def _place(path, row, line):
    """How an error message names a row of the file, counted from 1, and its line."""
    return f"{path}, row {row} (line {line})" if row else f"{path}, header"


def _read_text(path):
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        where = _place(path, line - 1, line)
        raise ValueError(f"{where}: not UTF-8 text; save the file as UTF-8") from None


def _read_rows(path):
    """CSV file -> list of N (question, answer) strings, and the line each of them ends on."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""))
    rows, lines = [], []
    try:
        header = [name.strip() for name in next(filter(None, reader), ["question", "answer"])]
        missing = [name for name in ("question", "answer") if name not in header]
        if missing:
            raise csv.Error(f"no column {missing[0]}; it must name source,question,answer,rating")
        q, a = header.index("question"), header.index("answer")
        for row in filter(None, reader):  # an empty line is no row
            if len(row) <= max(q, a):
                raise csv.Error(f"{len(row)} columns, not {len(header)} as in the header")
            rows.append((row[q], row[a]))
            lines.append(reader.line_num)
    except csv.Error as error:
        row = len(rows) + (reader.line_num > 1)
        raise ValueError(f"{_place(path, row, reader.line_num)}: {error}") from None
    if not rows:
        raise ValueError(f"{path}: empty; it needs a header and at least one puzzle")
    return rows, lines


def _parse(rows, column, box, where):
    """One column of the rows, 0 question or 1 answer -> tokens (N, L) uint8."""
    side, name = geometry(box).side, ("question", "answer")[column]
    texts = [row[column] for row in rows]
    for i, text in enumerate(texts):
        if len(text) != side**2:
            raise ValueError(
                f"{where(i + 1)}: the {name} has {len(text)} characters, not {side**2} as the "
                f"first question; a file holds puzzles of one size"
            )
    table = np.zeros(256, np.uint8)  # 0: not in the alphabet
    alphabet = DIGITS[:side] if column else ".0" + DIGITS[:side]
    for character in alphabet:
        token = DIGITS.find(character) + 2 if character in DIGITS else 1
        table[[ord(character), ord(character.lower())]] = token
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).reshape(-1, side**2)
    tokens = table[np.minimum(codes, 255)]
    if not tokens.all():
        i, j = np.argwhere(tokens == 0)[0]
        raise ValueError(
            f"{where(i + 1)}: character {j + 1} of the {name} is {texts[i][j]!r}; "
            f"a {side}x{side} {name} is written in {alphabet}"
        )
    return tokens


@contextmanager
def _replacing(path):
    """A binary file that takes the place of `path` when complete, and vanishes if it never is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_csv(path, inputs, labels, box, source="tinytrm"):
    """Write puzzles (N, L) so that `read_csv(path, box)` gives them back; no rating is given."""
    check(inputs, labels, box)
    characters = np.array(list(".." + DIGITS))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "question", "answer", "rating"])
    for question, answer in zip(characters[inputs], characters[labels]):
        writer.writerow([source, "".join(question), "".join(answer), ""])
    with _replacing(Path(path)) as file:
        file.write(text.getvalue().encode())


def render(inputs_row, answer_row, box, labels_row=None, color=True):
    """One answer (L,) as text for the terminal, S lines and the rules between boxes.

    Clues are bold, filled cells plain, blanks `.`; a digit that differs from labels_row (L,), where
    that is labelled, has an `x` behind it (and is underlined and red).
    """
    (r, c), S, cells = box, geometry(box).side, []
    labels_row = np.zeros(S * S, int) if labels_row is None else labels_row
    for clue, token, label in zip(inputs_row, answer_row, labels_row):
        wrong = label > 0 and token > 1 and token != label
        style = "31;4" if wrong else "1" if clue > 1 else "0"
        shown = (".." + DIGITS)[token]
        cells.append(f" \033[{style}m{shown}\033[0m" if color else f" {shown}")
        cells[-1] += "x" if wrong else " "
    lines = ["|".join("".join(cells[i : i + c]) for i in range(k, k + S, c))
             for k in range(0, S * S, S)]
    rule = "\n" + "+".join(["-" * 3 * c] * r) + "\n"
    return rule.join("\n".join(lines[i : i + r]) for i in range(0, S, r))


# --------------------------------------------------------------------------------------------------
# Sudoku-Extreme from the public hub


def download(folder, base_url=None, rows=1000, seed=0, checksums=CHECKSUMS):
    """Fetch train.csv and test.csv of Sudoku-Extreme into `folder`, unless there; return it.

    base_url defaults to the environment's TINYTRM_HUB, then HUB; checksums None skips that check.
    Then writes train-{rows}-seed{seed}.csv, a seeded choice of training rows, and a .json of the
    same name with the sha256 of the choice and of its source.
    ValueError, with nothing left behind, if a file cannot be had whole.
    """
    folder = Path(folder)
    base_url = base_url or os.environ.get("TINYTRM_HUB") or HUB
    for name in ("train.csv", "test.csv"):
        path, wanted = folder / name, (checksums or {}).get(name)
        if not path.exists():
            _fetch(f"{base_url.rstrip('/')}/{name}", path, wanted)
        elif wanted and _sha256(path) != wanted:
            raise ValueError(f"{path}: sha256 is not the published one; delete it to get it anew")
    _choose_rows(folder / "train.csv", rows, seed)
    return folder


def _fetch(url, path, wanted):
    """Stream a URL into a file; ValueError if it fails, is cut short or has another sha256."""
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=60) as reply, _replacing(path) as file:
            total = int(reply.headers.get("Content-Length") or 0)
            while chunk := reply.read(2**20):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                print(f"{path.name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB",
                      end="\r", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            if done < total:
                raise OSError(f"cut off after {done} of {total} bytes")
            if wanted and digest.hexdigest() != wanted:
                raise ValueError(f"{url}: sha256 is {digest.hexdigest()}, not {wanted}; "
                                 f"file removed, try again or with another base URL (TINYTRM_HUB)")
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{url}: download failed: {error}; check the network and the base URL "
                         f"(TINYTRM_HUB), or put the file into {path.parent}") from None


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _choose_rows(source, rows, seed):
    """Write a seeded choice of the rows of a CSV file, in their order, and a record beside it."""
    with open(source, "rb") as file:
        total = sum(1 for line in file if line.strip()) - 1
    if not 0 < rows <= total:
        raise ValueError(f"{source}: {rows} rows asked for, it has {total}; ask for 1..{total}")
    # NOTE(paper): the authors draw their 1000 rows without a seed; nobody can have the same ones.
    chosen = set((np.random.default_rng(seed).permutation(total)[:rows] + 1).tolist())
    choice = source.with_name(f"{source.stem}-{rows}-seed{seed}.csv")
    with open(source, "rb") as file, _replacing(choice) as out:
        for i, line in enumerate(line for line in file if line.strip()):
            if i == 0 or i in chosen:
                out.write(line.rstrip(b"\r\n") + b"\n")
    record = {"seed": seed, "rows": rows, "of": total, "source": source.name,
              "source_sha256": _sha256(source), "sha256": _sha256(choice)}
    with _replacing(choice.with_suffix(".json")) as out:
        out.write((json.dumps(record, indent=2) + "\n").encode())
