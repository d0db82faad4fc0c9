"""Sudoku of any size: generator, solver, symmetries, CSV files, and the Sudoku-Extreme download.

A grid of side S = r * c is cut into boxes of r rows and c columns: box (2, 2) makes 4x4, (2, 3)
6x6, (3, 3) the usual 9x9. Every row, column and box holds each digit once. A puzzle shows some of
the digits (its clues); it is proper if just one grid agrees with them, and minimal if besides no
clue can go. Grids are flattened row by row into L = S * S tokens, S + 2 of them:

    0 padding    1 blank    d + 1 for digit d

The rules stand in `data.sudoku_rules`, the symmetries in `data.sudoku_symmetry`; what others need
of both is offered here too.

Measured on one CPU core: 2000 minimal 6x6 puzzles (10.1 clues on average) take 0.8 s, 1000 minimal
9x9 puzzles (24.3 clues) 3.5 s, the canonical forms of 11,000 Sudoku-Extreme rows 0.6 s, reading
10,000 rows 0.1 s. No row of that test set is a copy of another or of a training row. There are
about two million minimal 6x6 puzzles up to symmetry (an estimate from repeats among 20,000), but
few 4x4 puzzles: 36 minimal ones (13, 22 and 1 with 4, 5 and 6 clues), and among all proper ones 13,
96, 376, 711, 1040 and 980 with 4 to 9 clues (4710 in all). `generate` fails with one clear line
where there are no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files import fetch, read_rows, replacing, sha256, write_rows
from data.sudoku_rules import (
    DIGITS,
    Box,
    Geometry,
    check,
    default_box,
    geometry,
    is_valid,
    keeps_rules,
    masks,
    tally,
)
from data.sudoku_symmetry import augment, augmenter, canonical, disguise

__all__ = [
    "DIGITS", "Box", "Extreme", "Geometry", "alphabet", "augment", "augmenter", "canonical",
    "check", "count_solutions", "default_box", "disguise", "download", "generate", "geometry",
    "is_valid", "keeps_rules", "read_csv", "render", "solve", "write_csv",
]

BATCH = 1024  # grids the solver works on at once: hides numpy's overhead, still fits the cache
PATIENCE = 4096  # puzzles in a row that bring nothing new before `generate` gives up
HUB = "https://huggingface.co/datasets/sapientinc/sudoku-extreme/resolve/main"
CHECKSUMS = {  # sha256 of the public files, as pinned by a third party
    "train.csv": "64b46674db0148e0d73a16346dadeb2b1c00824d3fca3f85b2ae7037f6b4b38e",
    "test.csv": "a2fd52aea23d331d5b4ee723c856236e838a9fb9a70e66f4e0e0cf26c338c6a8",
}

# ------------------------------------------------------------------------------------------------
# Solver


def _sweep(x, geo):
    """One round of naked and hidden singles on x (L, M); a contradictory grid becomes all 0."""
    row, col, box = geo.of_cell
    single = np.where(x & (x - 1), 0, x)  # cells with one candidate
    fixed = np.bitwise_or.reduce(single[geo.units], axis=1)
    once, twice = tally(x, geo.units)
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


def _search(x, box, limit, rounds=None):
    """Depth-first search from masks x (L, N), a batch from the top of the stack at each round.

    Returns the number of solutions (N,), counted up to `limit`, -1 where so many rounds were too
    few to know, and one of them (L, N) or 0.
    """
    geo, N = geometry(box), x.shape[1]
    found, first, owner = np.zeros(N, int), np.zeros_like(x), np.arange(N)
    size = min(max(N, 64), BATCH)  # for few puzzles, go deep rather than wide
    while owner.size and rounds != 0:
        rounds = rounds and rounds - 1
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
    found = np.minimum(found, limit)
    found[owner] = -1
    return found, first


def _tokens(x):
    """Solved masks (L, N) -> tokens (N, L) uint8; 0 stays 0."""
    return np.where(x, np.rint(np.log2(np.maximum(x, 1))) + 2, 0).astype(np.uint8).T


def _candidates(puzzles, box):
    """Tokens (..., L) -> masks (L, N) for the solver: a cell without a digit may hold any."""
    x = masks(puzzles, box)
    return np.where(x, x, geometry(box).full).astype(x.dtype)


def solve(puzzles: np.ndarray, box: Box = (2, 3)) -> np.ndarray:
    """puzzles (..., L) tokens -> a solution of each (..., L) uint8, all 0 if there is none."""
    return _tokens(_search(_candidates(puzzles, box), box, 1)[1]).reshape(np.shape(puzzles))


def count_solutions(puzzles: np.ndarray, box: Box = (2, 3), limit: int = 2,
                    rounds: int | None = None) -> np.ndarray:
    """puzzles (..., L) tokens -> solutions (...) int, counted up to `limit`: 1 means proper.

    rounds: of the search at most, -1 where these do not tell; None: all that it needs, which is a
    minute for a vicious 9x9 puzzle without a solution. 10,000 generated 9x9 puzzles take 0.4 s on
    one core; as many of Sudoku-Extreme, chosen to make solvers guess, take 10 s: `read_csv` leaves
    this check to its callers.
    """
    found = _search(_candidates(puzzles, box), box, limit, rounds)[0]
    return found.reshape(np.shape(puzzles)[:-1])


# ------------------------------------------------------------------------------------------------
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


def generate(count: int, box: Box = (2, 3), clues: int | None = None, seed: int = 0,
             exclude: Iterable[bytes] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Proper puzzles, none a symmetric copy of another -> inputs, labels, both (count, L) uint8.

    clues: None for minimal puzzles, or the exact number of clues. exclude: canonical forms that may
    not appear either, those of a training set say. The result depends on the arguments alone.
    Raises ValueError if PATIENCE puzzles in a row are copies of earlier ones or need more clues.
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
        raise ValueError(f"found only {total} of {count} different {side}x{side} puzzles with "
                         f"{clues or 'minimal'} clues: the last {dry} tries were copies or needed "
                         f"more clues; ask for fewer puzzles, another number of clues or a larger "
                         f"box")
    inputs, labels = np.concatenate(kept, 1)[:, :count]
    return inputs, labels


# ------------------------------------------------------------------------------------------------
# Files: see `data.files`; `.` or `0` is a blank, A is digit 10


def alphabet(side: int) -> dict[str, int]:
    """The token of each character that a question of S = side may be written in."""
    digits = {digit: token for token, digit in enumerate(DIGITS[:side], 2)}
    return {".": 1, "0": 1, **digits, **{digit.lower(): token for digit, token in digits.items()}}


def read_csv(path: str | Path, box: Box | None = None) -> tuple[np.ndarray, np.ndarray, Box]:
    """CSV file -> inputs, labels, both (N, L) uint8, and the box, `default_box` unless given.

    Raises ValueError, naming the place, for a row that is not right. Whether the answer is the only
    one is not checked: see `count_solutions`.
    """
    rows = read_rows(path)
    side = rows.side
    try:
        r, c = box = box or default_box(side)
        if geometry(box).side != side:
            raise ValueError(f"a question of {side**2} characters does not fit box {r}x{c}")
    except ValueError as e:
        raise ValueError(f"{rows.where(1)}: {e}") from None
    letters = alphabet(side)
    inputs = rows.tokens("question", letters)
    labels = rows.tokens("answer", {c: token for c, token in letters.items() if token > 1})
    check(inputs, labels, box, rows.where)
    return inputs, labels, (r, c)


def write_csv(path: str | Path, inputs: np.ndarray, labels: np.ndarray, box: Box,
              source: str = "tinytrm") -> None:
    """Write puzzles (N, L) so that `read_csv(path, box)` gives them back; no rating is given.

    The file appears complete or not at all. Raises ValueError for what is no puzzle with a solution
    of it, OSError.
    """
    check(inputs, labels, box)
    write_rows(path, inputs, labels, ".." + DIGITS, source)


def render(inputs: np.ndarray, answer: np.ndarray, labels: np.ndarray | None = None,
           colour: bool = True, box: Box = (2, 3)) -> str:
    """One answer (L,) as text for the terminal, S lines and the rules between boxes.

    Clues are bold, filled cells plain, blanks `.`; a digit that differs from labels (L,), where
    that is labelled, has an `x` behind it (and is underlined and red).
    """
    (r, c), S, cells = box, geometry(box).side, []
    labels = np.zeros(S * S, int) if labels is None else labels
    for clue, token, label in zip(inputs, answer, labels):
        wrong = label > 0 and token > 1 and token != label
        style = "31;4" if wrong else "1" if clue > 1 else "0"
        shown = (".." + DIGITS)[token]
        cells.append(f" \033[{style}m{shown}\033[0m" if colour else f" {shown}")
        cells[-1] += "x" if wrong else " "
    lines = ["|".join("".join(cells[i:i + c]) for i in range(k, k + S, c))
             for k in range(0, S * S, S)]
    rule = "\n" + "+".join(["-" * 3 * c] * r) + "\n"
    return rule.join("\n".join(lines[i:i + r]) for i in range(0, S, r))


# ------------------------------------------------------------------------------------------------
# Sudoku-Extreme from the public hub


class Extreme(NamedTuple):
    """Where Sudoku-Extreme lies."""

    folder: Path
    train: Path  # the rows chosen for training
    test: Path


def download(folder: str | Path, base_url: str | None = None, rows: int = 1000, seed: int = 0,
             checksums: dict[str, str] | None = CHECKSUMS) -> Extreme:
    """Fetch train.csv and test.csv of Sudoku-Extreme into `folder`, unless there.

    base_url defaults to the environment's TINYTRM_HUB, then HUB; checksums None skips that check.
    Then writes train-{rows}-seed{seed}.csv, a seeded choice of training rows, and a .json of the
    same name with the sha256 of the choice and of its source. Once both are there, and the
    checksums say of which source, train.csv (0.7 GB) is neither read nor needed any more.
    Raises ValueError, with nothing left behind, if a file cannot be had whole.
    """
    folder, sums = Path(folder), checksums or {}
    base_url = (base_url or os.environ.get("TINYTRM_HUB") or HUB).rstrip("/")
    choice = folder / f"train-{rows}-seed{seed}.csv"
    chosen = _is_choice(choice, rows, seed, sums.get("train.csv"))
    for name in ("test.csv",) if chosen else ("train.csv", "test.csv"):
        path, wanted = folder / name, sums.get(name)
        if not path.exists():
            fetch(f"{base_url}/{name}", path, wanted)
        elif wanted and sha256(path) != wanted:
            raise ValueError(f"{path}: sha256 is not the published one; delete it to get it anew")
    if not chosen:
        _choose_rows(folder / "train.csv", rows, seed, choice)
    return Extreme(folder, choice, folder / "test.csv")


def _is_choice(choice, rows, seed, source_sha256):
    """Whether this file is, by the record beside it, what `_choose_rows` would write; without the
    sha256 of the source nobody can know."""
    try:
        record = json.loads(choice.with_suffix(".json").read_bytes())
        said = [record[key] for key in ("rows", "seed", "source_sha256", "sha256")]
        return said == [rows, seed, source_sha256, sha256(choice)]
    except (OSError, ValueError, KeyError, TypeError):  # not there, torn, or not a record
        return False


def _choose_rows(source, rows, seed, choice):
    """Write a seeded choice of the rows of a CSV file, in their order, and a record beside it."""
    with open(source, "rb") as file:
        total = sum(1 for line in file if line.strip()) - 1
    if not 0 < rows <= total:
        raise ValueError(f"{source}: {rows} rows asked for, it has {total}; ask for 1..{total}")
    # NOTE(paper): the authors draw their 1000 rows without a seed; nobody can have the same ones.
    chosen = set((np.random.default_rng(seed).permutation(total)[:rows] + 1).tolist())
    with open(source, "rb") as file, replacing(choice) as out:
        for i, line in enumerate(line for line in file if line.strip()):
            if i == 0 or i in chosen:
                out.write(line.rstrip(b"\r\n") + b"\n")
    record = {"seed": seed, "rows": rows, "of": total, "source": source.name,
              "source_sha256": sha256(source), "sha256": sha256(choice)}
    with replacing(choice.with_suffix(".json")) as out:
        out.write((json.dumps(record, indent=2) + "\n").encode())
