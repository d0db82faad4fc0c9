"""data/sudoku.py against brute force: a plain backtracking solver and the whole symmetry group."""

import csv
import functools
import hashlib
import http.server
import itertools
import json
import os
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from data import files, grid, sudoku, sudoku_symmetry
from data.files import replacing

BOXES = [(2, 2), (2, 3), (3, 2), (3, 3), (2, 4)]
DATA = Path(os.environ.get("TINYTRM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
EXTREME = DATA / "sudoku-extreme-1k"
real_data = pytest.mark.skipif(not EXTREME.is_dir(), reason="Sudoku-Extreme is not here")


# ------------------------------------------------------------------------------------------------
# Oracles


def peers(cell, box):
    """The cells that share a row, column or box with a cell, by the definition."""
    (r, c), S = box, box[0] * box[1]
    i, j = divmod(cell, S)
    same = lambda a, b: a == i or b == j or (a // r == i // r and b // c == j // c)
    return [k for k in range(S * S) if k != cell and same(*divmod(k, S))]


def brute_solutions(puzzle, box, limit):
    """Plain backtracking on tokens, the cell with the fewest choices first."""
    S, grid, found = box[0] * box[1], list(map(int, puzzle)), []
    near = [peers(k, box) for k in range(S * S)]
    if any(grid[k] > 1 and grid[k] in (grid[p] for p in near[k]) for k in range(S * S)):
        return []

    def search():
        cell, choices = None, range(S + 1)
        for k in range(S * S):
            if grid[k] <= 1 and len(choices) > 1:
                free = set(range(2, S + 2)).difference([grid[p] for p in near[k]])
                if len(free) < len(choices):
                    cell, choices = k, free
        if cell is None:
            found.append(list(grid))
            return
        for token in choices:
            grid[cell] = token
            search()
            if len(found) >= limit:
                return
        grid[cell] = 1

    search()
    return found


def group(box):
    """Every position symmetry as an order of the cells (G, L): product of permutations."""
    (r, c), S = box, box[0] * box[1]

    def orders(groups, k):
        for outer in itertools.permutations(range(groups)):
            for inner in itertools.product(itertools.permutations(range(k)), repeat=groups):
                yield [g * k + i for g, inside in zip(outer, inner) for i in inside]

    rows, cols = np.array(list(orders(c, r))), np.array(list(orders(r, c)))
    cells = (rows[:, None, :, None] * S + cols[None, :, None, :]).reshape(-1, S, S)
    if r == c:
        cells = np.concatenate([cells, cells.transpose(0, 2, 1)])
    return cells.reshape(-1, S * S)


def brute_form(puzzle, cells):
    """The least image under the whole group; digits numbered as they appear, one by one."""
    best = None
    for image in puzzle[cells].tolist():
        names = {0: 0, 1: 1}
        image = [names.setdefault(token, len(names)) for token in image]
        best = image if best is None else min(best, image)
    return bytes(best)


def draws(rows, seed):
    rng = np.random.default_rng(seed)
    return lambda k: rng.random((rows, k))


def copies(puzzles, box, seed):
    """One random symmetric copy of each puzzle, without `augment`."""
    rng, (r, c), S = np.random.default_rng(seed), box, box[0] * box[1]
    out = np.empty_like(puzzles)
    for n, puzzle in enumerate(puzzles):
        rows = [b * r + i for b in rng.permutation(c) for i in rng.permutation(r)]
        cols = [s * c + i for s in rng.permutation(r) for i in rng.permutation(c)]
        grid = puzzle.reshape(S, S)[rows][:, cols]
        grid = grid.T if r == c and rng.random() < 0.5 else grid
        out[n] = np.concatenate([[0, 1], rng.permutation(S) + 2])[grid].ravel()
    return out


def thinned(grids, clues, seed):
    """Grids with `clues` random cells kept: proper or not."""
    rank = np.random.default_rng(seed).random(grids.shape).argsort(1).argsort(1)
    return np.where(rank < clues, grids, 1).astype(np.uint8)


@pytest.fixture(scope="module")
def minimal():
    """Minimal puzzles of every box, (inputs, labels)."""
    return {box: sudoku.generate(30, box, seed=5) for box in BOXES}


# ------------------------------------------------------------------------------------------------
# Grids and solver


@pytest.mark.parametrize("box", BOXES + [(3, 4), (4, 5)])
def test_units_are_rows_columns_and_boxes(box):
    geo, S = sudoku.geometry(box), box[0] * box[1]
    assert geo.units.shape == (3 * S, S)
    for cell in range(S * S):
        near = set(geo.units[geo.of_cell[:, cell]].ravel()) - {cell}
        assert near == set(peers(cell, box))


@pytest.mark.parametrize("box", [(1, 4), (4, 1), (0, 3), (-2, -3), (6, 6)])
def test_senseless_boxes_are_refused(box):
    with pytest.raises(ValueError, match=f"box {box[0]}x{box[1]} makes no Sudoku"):
        sudoku.generate(1, box)


def test_default_box():
    assert [sudoku.default_box(side) for side in (4, 6, 8, 9, 10, 12, 16)] == [
        (2, 2), (2, 3), (2, 4), (3, 3), (2, 5), (3, 4), (4, 4)]
    for side in (0, 1, 2, 3, 5, 7):
        with pytest.raises(ValueError):
            sudoku.default_box(side)


@pytest.mark.parametrize("box, clues", [((2, 2), (3, 4, 6)), ((2, 3), (9, 12)), ((3, 2), (12, 16)),
                                        ((3, 3), (30, 40))])
def test_count_solutions_matches_brute_force(minimal, box, clues):
    labels = minimal[box][1][:12]
    puzzles = np.concatenate([thinned(labels, k, seed=k) for k in clues])
    expected = [len(brute_solutions(puzzle, box, 5)) for puzzle in puzzles]
    assert sudoku.count_solutions(puzzles, box, limit=5).tolist() == expected
    assert len(set(expected)) > 1
    assert sudoku.count_solutions(puzzles, box).tolist() == np.minimum(expected, 2).tolist()


def test_a_search_of_few_rounds_knows_or_says_that_it_does_not(minimal):
    box = (3, 3)
    puzzles = np.concatenate([minimal[box][0][:20], np.ones((3, 81), np.uint8)])
    known = sudoku.count_solutions(puzzles, box)
    for rounds in (0, 1, 2, 5, 10, 20, 1000):
        found = sudoku.count_solutions(puzzles, box, rounds=rounds)
        assert ((found == known) | (found == -1)).all()
        assert rounds or (found == -1).all()
    assert (found == known).all()


def test_count_solutions_of_contradictory_puzzles(minimal):
    """A random wrong digit in a proper puzzle: mostly no solution, which brute force confirms."""
    rng, box, (inputs, labels) = np.random.default_rng(0), (2, 3), minimal[2, 3]
    wrong = inputs.copy()
    cell = [rng.choice(np.flatnonzero(row == 1)) for row in inputs]
    wrong[np.arange(len(wrong)), cell] = (labels[np.arange(len(wrong)), cell] - 1) % 6 + 2
    expected = [len(brute_solutions(puzzle, box, 2)) for puzzle in wrong]
    assert sudoku.count_solutions(wrong, box).tolist() == expected == [0] * len(wrong)
    assert not sudoku.solve(wrong, box).any()


def test_all_grids_4x4():
    assert sudoku.count_solutions(np.ones(16, np.uint8), (2, 2), limit=1000) == 288
    assert sudoku.count_solutions(np.zeros((1, 16), np.uint8), (2, 2), limit=100).tolist() == [100]


@pytest.mark.parametrize("box", BOXES + [(3, 4)])
def test_solve_completes_and_keeps_the_clues(box):
    puzzle = np.ones((2, (box[0] * box[1]) ** 2), np.uint8)
    puzzle[:, :2] = [[2, 3], [3, 2]]
    grids = sudoku.solve(puzzle, box)
    assert sudoku.is_valid(grids, box).all() and (grids[:, :2] == puzzle[:, :2]).all()
    assert sudoku.solve(puzzle[0], box).shape == puzzle[0].shape


def test_is_valid_matches_the_definition(minimal):
    box, labels, rng = (2, 3), minimal[2, 3][1], np.random.default_rng(0)
    broken = labels.copy()
    broken[np.arange(30), rng.integers(36, size=30)] = rng.integers(0, 8, 30)
    swapped = labels.copy()
    swapped[:, [0, 7]] = swapped[:, [7, 0]]  # every digit six times, but misplaced
    for grids in (labels, broken, swapped):
        expected = [min(g) > 1 and all(g[k] != g[p] for k in range(36) for p in peers(k, box))
                    for g in grids.tolist()]
        assert sudoku.is_valid(grids, box).tolist() == expected


def test_an_answer_keeps_the_rules_if_valid_and_true_to_the_clues(minimal):
    """Minimal puzzles have one solution: of any two answers, only the puzzle's own one passes."""
    (inputs, labels), box = minimal[2, 3], (2, 3)
    for shift in range(3):
        answers = np.roll(labels, shift, axis=0)
        same = (answers == labels).all(1)
        assert sudoku.keeps_rules(inputs, answers, box).tolist() == same.tolist()
    assert not sudoku.keeps_rules(inputs, inputs, box).any(), "blanks are no answer"


def test_tokens_outside_the_vocabulary_are_refused():
    for bad in (np.full((1, 16), 6), np.full((1, 16), -1), np.ones((1, 15), int), np.ones((1, 16))):
        with pytest.raises(ValueError, match="16 tokens in 0..5"):
            sudoku.count_solutions(bad, (2, 2))


# ------------------------------------------------------------------------------------------------
# Generator


@pytest.mark.parametrize("box", BOXES)
def test_generated_puzzles_are_proper_and_minimal(minimal, box):
    inputs, labels = minimal[box]
    assert inputs.shape == labels.shape == (30, (box[0] * box[1]) ** 2)
    assert inputs.dtype == labels.dtype == np.uint8
    for puzzle, label in list(zip(inputs, labels))[:1 if box[0] * box[1] > 6 else 4]:
        assert brute_solutions(puzzle, box, 2) == [label.tolist()]
        for cell in np.flatnonzero(puzzle > 1)[:None if len(puzzle) <= 36 else 6]:
            fewer = puzzle.copy()
            fewer[cell] = 1
            assert len(brute_solutions(fewer, box, 2)) == 2
    assert len(set(sudoku.canonical(inputs, box))) == 30


@pytest.mark.parametrize("box, clues", [((2, 2), 5), ((2, 2), 16), ((2, 3), 9), ((3, 3), 24),
                                        ((3, 3), 40), ((3, 4), 100), ((3, 6), 300)])
def test_generate_with_a_number_of_clues(box, clues):
    inputs, labels = sudoku.generate(2, box, clues=clues, seed=1)
    assert ((inputs > 1).sum(1) == clues).all() and sudoku.is_valid(labels, box).all()
    assert (labels[inputs > 1] == inputs[inputs > 1]).all()
    for puzzle, label in zip(inputs, labels):
        assert brute_solutions(puzzle, box, 2) == [label.tolist()]


def test_generate_depends_on_the_seed_alone():
    a, b, other = (sudoku.generate(20, seed=seed) for seed in (3, 3, 4))
    assert all((x == y).all() for x, y in zip(a, b)) and (a[0] != other[0]).any()
    assert sudoku.generate(0)[0].shape == (0, 36)


def test_generate_leaves_out_what_is_excluded():
    """There are 36 minimal 4x4 puzzles: excluding 20 leaves exactly the other 16."""
    box = (2, 2)
    first = sudoku.canonical(sudoku.generate(20, box, seed=1)[0], box)
    rest = sudoku.canonical(sudoku.generate(16, box, seed=2, exclude=first)[0], box)
    assert len(set(first) | set(rest)) == 36
    with pytest.raises(ValueError, match="found only 0 of 1 different 4x4 puzzles"):
        sudoku.generate(1, box, exclude=first + rest)


def test_generate_refuses_what_does_not_exist(monkeypatch):
    for clues, box in ((2, (2, 2)), (17, (2, 2)), (7, (3, 3))):
        with pytest.raises(ValueError, match="clues must lie in"):
            sudoku.generate(1, box, clues=clues)
    with pytest.raises(ValueError, match="found only 36 of 37") as error:
        sudoku.generate(37, (2, 2))
    assert "\n" not in str(error.value)
    monkeypatch.setattr(sudoku, "PATIENCE", 100)
    with pytest.raises(ValueError, match="found only 0 of 1 different 6x6 puzzles with 6 clues"):
        sudoku.generate(1, (2, 3), clues=6)


def test_census_of_4x4():
    """The published number of essentially different 4x4 puzzles, by exhaustion: which sets of
    cells tell a grid from the 287 others, which of them are minimal, how many up to symmetry."""
    box = (2, 2)
    rows = np.array(list(itertools.permutations(range(2, 6))), np.uint8)
    grids = rows[np.array(list(itertools.product(range(24), repeat=4)))].reshape(-1, 16)
    grids = grids[sudoku.is_valid(grids, box)]
    assert len(grids) == 288
    forms, cells = sudoku.canonical(grids, box), np.arange(16)
    assert sorted(map(forms.count, set(forms))) == [96, 192]
    sets = np.arange(2**16)
    size = (sets[:, None] >> cells & 1).sum(1)
    proper, minimal = {4: 0, 5: 0, 6: 0}, {4: 0, 5: 0, 6: 0}
    for form in set(forms):
        grid = grids[forms.index(form)]
        differences = set(((grids != grid) @ (1 << cells)).tolist()) - {0}
        tells = np.all([(sets & d) != 0 for d in differences], axis=0)
        fewest = tells & ~np.any([(sets >> k & 1 == 1) & tells[sets & ~(1 << k)] for k in cells], 0)
        for k in proper:
            for count, chosen in ((proper, tells), (minimal, fewest)):
                shown = (sets[chosen & (size == k)][:, None] >> cells & 1) == 1
                count[k] += len(set(sudoku.canonical(np.where(shown, grid, 1), box)))
    assert proper == {4: 13, 5: 96, 6: 376} and minimal == {4: 13, 5: 22, 6: 1}


# ------------------------------------------------------------------------------------------------
# Symmetries


def relatives(puzzles, box, seed):
    """Puzzles, copies of them, and near misses: one clue gone, or two clues exchanged."""
    rng, near = np.random.default_rng(seed), []
    for puzzle in puzzles:
        fewer, exchanged = puzzle.copy(), puzzle.copy()
        a, b = rng.choice(np.flatnonzero(puzzle > 1), 2, replace=False)
        fewer[a], exchanged[[a, b]] = 1, puzzle[[b, a]]
        near += [fewer, exchanged]
    pool = np.concatenate([puzzles, near])
    return np.concatenate([pool, copies(pool, box, seed), copies(pool, box, seed + 1)])


@pytest.mark.parametrize("box, count", [((2, 2), 24), ((2, 3), 4), ((3, 2), 4)])
def test_canonical_matches_the_whole_group(minimal, box, count):
    """Equal forms exactly where the least image over all symmetries is equal."""
    grids, cells = minimal[box][1][:count], group(box)
    start = [minimal[box][0][:count], grids[:2], np.ones_like(grids[:1])]
    start += [thinned(grids[:2], k, seed=k) for k in (2, 3)]
    pool = np.concatenate([relatives(np.concatenate(start[:2]), box, seed=0), *start[2:]])
    oracle = [brute_form(puzzle, cells) for puzzle in pool]
    forms = sudoku.canonical(pool, box)
    assert len(set(oracle)) == len(set(forms)) == len(set(zip(oracle, forms))) < len(pool)


def test_canonical_is_exact_with_a_bad_hash(minimal, monkeypatch):
    """Colours of 5 bits collide all the time: more branches, the same answer."""
    pool = relatives(minimal[2, 3][0][:10], (2, 3), seed=3)
    good = sudoku.canonical(pool, (2, 3))
    monkeypatch.setattr(sudoku_symmetry, "mix", lambda x: grid.mix(x) & np.uint64(31))
    bad = sudoku.canonical(pool, (2, 3))
    assert len(set(good)) == len(set(bad)) == len(set(zip(good, bad)))


@pytest.mark.parametrize("box", [(3, 3), (2, 4), (3, 4)])
def test_canonical_of_larger_puzzles(box):
    inputs, labels = sudoku.generate(8, box, clues=(box[0] * box[1]) ** 2 // 2, seed=2)
    pool = np.concatenate([inputs, labels[:3], thinned(labels[:3], 4, seed=0)])
    forms = sudoku.canonical(pool, box)
    for seed in range(5):
        assert sudoku.canonical(copies(pool, box, seed), box) == forms
    assert len(set(forms)) >= 12
    for n, form in enumerate(forms[:3]):  # a form is a copy: the same numbers of each digit
        counts = lambda row: sorted(np.bincount(row, minlength=2)[2:][np.bincount(row)[2:] > 0])
        assert counts(np.frombuffer(form, np.uint8)) == counts(pool[n])


def test_canonical_of_highly_symmetric_puzzles():
    """Millions of symmetries: equal copies at once, or a clear refusal."""
    empty, diagonal = np.ones((1, 81), np.uint8), np.ones((1, 81), np.uint8)
    diagonal[0, ::10] = np.arange(9) + 2
    pool = np.concatenate([empty, diagonal])
    assert sudoku.canonical(copies(pool, (3, 3), 0), (3, 3)) == sudoku.canonical(pool, (3, 3))
    rows = np.arange(9)
    regular = ((rows * 3 + rows // 3)[:, None] + rows)[None] % 9 + 2  # the most symmetric 9x9 grid
    regular = regular.reshape(1, 81).astype(np.uint8)
    assert sudoku.is_valid(regular, (3, 3)).all()
    assert sudoku.canonical(copies(regular, (3, 3), 1), (3, 3)) == sudoku.canonical(regular, (3, 3))
    many = np.ones((1, 256), np.uint8)
    many[0, ::17] = 2
    with pytest.raises(ValueError, match="too many symmetries"):
        sudoku.canonical(many, (4, 4))


@pytest.mark.parametrize("box", [(2, 3), (3, 3)])
def test_overlap_finds_copies(minimal, box):
    """Forty copies of a puzzle, the same puzzles again, and puzzles that are new."""
    inputs, _ = minimal[box]
    form = functools.partial(sudoku.canonical, box=box)
    held_out = np.concatenate([copies(inputs[:1].repeat(40, 0), box, 0), inputs[5:12]])
    found = grid.overlap(inputs[:10], held_out, form)
    assert found.dtype == bool and found.tolist() == [True] * 45 + [False] * 2
    assert not grid.overlap(inputs[:10], inputs[10:], form).any()


@pytest.mark.parametrize("box", BOXES)
def test_augment_keeps_puzzle_and_answer_together(minimal, box):
    inputs, labels = minimal[box]
    new_inputs, new_labels = sudoku.augmenter(box)(inputs, labels, draws(30, seed=0))
    assert new_inputs.dtype == new_labels.dtype == np.uint8
    assert (new_inputs != inputs).any(1).all()
    assert (sudoku.solve(new_inputs, box) == new_labels).all()
    assert (sudoku.count_solutions(new_inputs, box) == 1).all()
    assert sudoku.canonical(new_inputs, box) == sudoku.canonical(inputs, box)


@pytest.mark.parametrize("box", BOXES)
def test_hints_show_more_of_the_same_puzzle(minimal, box):
    """The copy is the one without hints but for cells of its solution; how many differs."""
    inputs, labels = (np.repeat(a, 40, 0) for a in minimal[box])
    bare, answers = sudoku.augmenter(box)(inputs, labels, draws(len(inputs), seed=3))
    shown, again = sudoku.augmenter(box, hints=0.5)(inputs, labels, draws(len(inputs), seed=3))
    assert (again == answers).all() and shown.dtype == np.uint8
    new = shown != bare
    assert (bare[new] == 1).all() and (shown[new] == answers[new]).all()
    share = new.sum(1) / (bare == 1).sum(1)
    assert abs(share.mean() - 0.5 * 0.3) < 0.02 and 0.5 < share.max()
    assert 0.49 < (share == 0).mean() < 0.6, "half of them, and some with small chances"
    every = sudoku.augmenter(box, hints=1.0)(inputs, labels, draws(len(inputs), seed=3))[0]
    assert ((every != bare).sum(1) / (bare == 1).sum(1)).mean() > 0.27


@pytest.mark.parametrize("hints", [0.0, 1.0])
def test_augment_leaves_padding_and_unlabelled_alone(hints):
    inputs, labels = np.zeros((4, 36), np.uint8), np.zeros((4, 36), np.uint8)
    inputs[:, 0] = 1
    new_inputs, new_labels = sudoku.augment(inputs, labels, draws(4, seed=1), (2, 3), hints)
    assert (np.sort(new_inputs) == np.sort(inputs)).all() and not new_labels.any()


def test_grids_of_another_size_are_refused():
    """Cells were looked up beyond them, or a part of them became the whole."""
    for cells in (16, 81):
        grids = np.ones((3, cells), np.uint8)
        for act in (sudoku.augment, lambda x, y, random: sudoku.disguise(x, random)):
            with pytest.raises(ValueError, match=f"has 36 cells, and these have {cells}"):
                act(grids, grids, np.random.default_rng(0).random)


def test_augment_reaches_every_copy_equally():
    """4x4: the images are exactly the orbit (all 3072 here), each about equally often."""
    box, cells = (2, 2), group((2, 2))
    names = np.array([[0, 1, *p] for p in itertools.permutations(range(2, 6))], np.uint8)
    for puzzle in sudoku.generate(10, box, clues=6, seed=0)[0]:
        orbit = {image.tobytes() for image in names[:, puzzle[cells]].reshape(-1, 16)}
        if len(orbit) == 3072:
            break
    batch = np.tile(puzzle, (60_000, 1))
    images, _ = sudoku.augment(batch, batch, draws(60_000, seed=7), box)
    seen, times = np.unique(images, axis=0, return_counts=True)
    assert {image.tobytes() for image in seen} == orbit and len(orbit) == 3072
    expected = 60_000 / 3072
    chi2 = ((times - expected) ** 2 / expected).sum()
    assert abs(chi2 - 3071) < 6 * (2 * 3071) ** 0.5


@pytest.mark.parametrize("box", [(2, 3), (3, 2)])
def test_augment_reaches_every_position_symmetry_6x6(box):
    """Where the clues of a random pattern go, digits aside: exactly the orbit of the pattern."""
    pattern = np.where(np.random.default_rng(4).random(36) < 0.5, 2, 1).astype(np.uint8)
    orbit = {image.tobytes() for image in pattern[group(box)] > 1}
    batch = np.tile(pattern, (60_000, 1))
    images, _ = sudoku.augment(batch, batch, draws(60_000, seed=2), box)
    assert {image.tobytes() for image in images > 1} == orbit and len(orbit) == 3456


def test_augment_treats_rows_of_a_batch_independently(minimal):
    inputs, labels = minimal[3, 3]
    numbers = {}

    def random(k, rows=slice(None)):
        key = (k, calls.append(k) or len(calls))
        return numbers.setdefault(key, np.random.default_rng(key).random((30, k)))[rows]

    calls = []
    whole = sudoku.augment(inputs, labels, random, (3, 3))
    calls = []
    part = sudoku.augment(inputs[7:9], labels[7:9], lambda k: random(k, slice(7, 9)), (3, 3))
    assert (whole[0][7:9] == part[0]).all() and (whole[1][7:9] == part[1]).all()


def test_augmenter_can_be_pickled(minimal):
    inputs, labels = minimal[2, 3]
    function = sudoku.augmenter((2, 3), hints=0.5)
    twin = pickle.loads(pickle.dumps(function))
    results = (f(inputs, labels, draws(30, seed=9)) for f in (function, twin))
    assert all((a == b).all() for a, b in zip(*results))


# ------------------------------------------------------------------------------------------------
# CSV files


def text(row):
    return "".join((".." + sudoku.DIGITS)[token] for token in row)


@pytest.fixture(scope="module")
def four():
    """Five 4x4 puzzles as (question, answer) strings."""
    return [(text(q), text(a)) for q, a in zip(*sudoku.generate(5, (2, 2), seed=3))]


def save(path, rows, header="source,question,answer,rating", ending="\n"):
    lines = [header] + [f"here,{q},{a},7" for q, a in rows]
    path.write_bytes((ending.join(lines) + ending).encode())
    return path


@pytest.mark.parametrize("box", BOXES + [(4, 4)])
def test_write_then_read(tmp_path, box):
    inputs, labels = sudoku.generate(3, box, clues=(box[0] * box[1]) ** 2 * 2 // 3, seed=1)
    path = tmp_path / "new folder" / "puzzles.csv"
    sudoku.write_csv(path, inputs, labels, box, source='a "b", c')
    got_inputs, got_labels, got_box = sudoku.read_csv(path, box)
    assert (got_inputs == inputs).all() and (got_labels == labels).all() and got_box == box
    assert got_inputs.dtype == got_labels.dtype == np.uint8
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["source", "question", "answer", "rating"]
    assert rows[2]["source"] == 'a "b", c' and rows[2]["question"] == text(inputs[2])
    assert [p.name for p in path.parent.iterdir()] == ["puzzles.csv"]


def test_read_all_dialects(tmp_path, four):
    """Zeros for blanks, other orders, only two columns, CRLF, a byte order mark, empty lines."""
    path = tmp_path / "a.csv"
    inputs, labels, box = sudoku.read_csv(save(path, four))
    assert box == (2, 2)
    files = [
        "question,answer\n" + "".join(f"{q},{a}\n" for q, a in four),
        "answer,x,question\n" + "".join(f"{a},,{q.replace('.', '0')}\n" for q, a in four),
        "\ufeffsource, question ,answer\r\n"
        + "\r\n\r\n".join(f'"s,\nt",{q},"{a}"' for q, a in four),
    ]
    for content in files:
        path.write_bytes(content.encode())
        other = sudoku.read_csv(path)
        assert (other[0] == inputs).all() and (other[1] == labels).all()


def test_read_letters_in_both_cases(tmp_path):
    inputs, labels = sudoku.generate(1, (3, 4), clues=100)
    question, answer = text(inputs[0]), text(labels[0])
    assert "C" in answer and "D" not in answer
    path = save(tmp_path / "a.csv", [(question.lower(), answer)])
    assert (sudoku.read_csv(path)[0] == inputs).all()


def test_box_of_a_file(tmp_path):
    inputs, labels = sudoku.generate(1, (3, 2), seed=1)
    path = tmp_path / "a.csv"
    sudoku.write_csv(path, inputs, labels, (3, 2))
    assert sudoku.read_csv(path, (3, 2))[2] == (3, 2)
    message = r"row 1 \(line 2\): the answer is no valid grid: a row, column or 2x3 box lacks"
    with pytest.raises(ValueError, match=message):  # says which box was assumed
        sudoku.read_csv(path)
    with pytest.raises(ValueError, match="does not fit box 3x3"):
        sudoku.read_csv(path, (3, 3))


def break_row(change):
    """A file whose third puzzle is changed by `change(question, answer)`."""
    return lambda rows: [change(*row) if i == 2 else row for i, row in enumerate(rows)]


def wrong_clue(question, answer):
    """The first clue becomes a digit that repeats nowhere, if it can; else any other digit."""
    k = next(i for i, character in enumerate(question) if character != ".")
    taken = {question[p] for p in peers(k, (2, 2))} | {question[k]}
    return question[:k] + next(d for d in "1234" if d not in taken) + question[k + 1 :], answer


def exchanged(question, answer):
    """Two digits of the answer, at blanks, exchange places."""
    blanks = [k for k, character in enumerate(question) if character == "."]
    i, j = next((i, j) for i in blanks for j in blanks if answer[i] != answer[j])
    answer = list(answer)
    answer[i], answer[j] = answer[j], answer[i]
    return question, "".join(answer)


BAD_ROWS = {
    "short question": (lambda q, a: (q[1:], a), "question has 15 characters, not 16"),
    "long answer": (lambda q, a: (q, a + "1"), "answer has 17 characters, not 16"),
    "other size": (lambda q, a: ("." * 36, "1" * 36), "36 characters, not 16"),
    "letter": (lambda q, a: ("x" + q[1:], a), "character 1 of the question is 'x'"),
    "digit too large": (lambda q, a: (q[:-1] + "5", a), "character 16 of the question is '5'"),
    "exotic character": (lambda q, a: (q[:-1] + "\u0661", a), "character 16 of the question"),
    "blank in the answer": (lambda q, a: (q, "." + a[1:]), "character 1 of the answer is '.'"),
    "contradictory": (lambda q, a: ("11" + q[2:], a), "question is contradictory"),
    "changed clue": (wrong_clue, "answer contradicts a clue"),
    "invalid answer": (exchanged, "answer is no valid grid"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows(tmp_path, four, kind):
    change, message = BAD_ROWS[kind]
    path = save(tmp_path / "bad.csv", break_row(change)(four))
    with pytest.raises(ValueError) as error:
        sudoku.read_csv(path)
    said = str(error.value)
    assert said.startswith(f"{path}, row 3 (line 4): ") and message in said and "\n" not in said


@pytest.mark.parametrize("content, message", [
    (b"", "bad.csv: empty"),
    (b"source,question,answer,rating\n", "bad.csv: empty"),
    (b"question,rating\n1,2\n", "header: no column answer; the first line must name question"),
    (b"1...,1234\n", "header: no column question"),
    (b"question,answer\n123,123\n", r"row 1 \(line 2\): 3 cells are no square"),
    (b"question,answer\n" + b"." * 25 + b",1\n", r"row 1 \(line 2\): box 1x5 makes"),
    (b"question,answer\n,\n", r"row 1 \(line 2\): 0 cells are no square"),
    (b"question,answer\nGOOD\n1...\n", r"row 2 \(line 3\): 1 columns, not 2"),
    (b"question,answer\nGOOD\n\xff\xfe,1\n", "bad.csv, line 3: not UTF-8"),
    (b"\xff,question,answer\nGOOD\n", "bad.csv, line 1: not UTF-8"),
    (b"question,answer\nGOOD\n" + b"1" * 140_000 + b"\n", r"row 2 \(line 3\): field larger"),
])
def test_bad_files(tmp_path, four, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content.replace(b"GOOD", ",".join(four[0]).encode()))
    with pytest.raises(ValueError, match=message) as error:
        sudoku.read_csv(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_no_file(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ValueError, match="cannot be read: .*; check the path"):
            sudoku.read_csv(path)


def test_nothing_is_half_written(tmp_path, monkeypatch):
    inputs, labels = sudoku.generate(2, (2, 2))
    path = tmp_path / "a.csv"
    path.write_text("precious")
    with pytest.raises(ValueError, match="2 questions, but 1 answers"):
        sudoku.write_csv(path, inputs, labels[:1], (2, 2))
    with pytest.raises(ValueError, match="row 2: the answer"):
        sudoku.write_csv(path, inputs, np.concatenate([labels[:1], labels[:1]]), (2, 2))

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError):
        sudoku.write_csv(path, inputs, labels, (2, 2))
    assert path.read_text() == "precious" and list(tmp_path.iterdir()) == [path]


def test_replacing_makes_the_folder_and_keeps_links(tmp_path):
    with replacing(tmp_path / "a" / "b" / "file") as file:
        file.write(b"one")
        assert not (tmp_path / "a" / "b" / "file").exists()
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "file")
    with replacing(str(tmp_path / "link")) as file:
        file.write(b"two")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a/b/file").read_bytes() == b"two"
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "link") as file:
        file.write(b"three")
        raise KeyboardInterrupt
    assert (tmp_path / "link").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pass


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full here")
def test_replacing_does_not_replace_devices():
    with pytest.raises(OSError, match="No space"), replacing("/dev/full") as file:
        file.write(b"more than fits")
    assert Path("/dev/full").is_char_device() and not list(Path("/dev").glob("full.*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_replacing_writes_into_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with replacing(tmp_path / "pipe") as file:
        file.write(b"through")
    assert os.read(end, 99) == b"through" and [p.name for p in tmp_path.iterdir()] == ["pipe"]
    os.close(end)


# ------------------------------------------------------------------------------------------------
# Pictures


def test_render_plain():
    question = np.array([1, 2, 1, 1] + [1] * 12)
    label = sudoku.solve(np.array([3, 2, 4, 5] + [1] * 12), (2, 2))
    assert text(label[:8]) == "21343412"
    answer = label.copy()
    answer[[0, 5]] = [2, 1]
    rows = sudoku.render(question, answer, label, colour=False, box=(2, 2)).split("\n")
    assert rows[:3] == [" 1x 1 | 3  4 ", " 3  . | 1  2 ", "------+------"]
    assert len(rows) == 5 and "x" not in "".join(rows[1:])
    unlabelled = sudoku.render(question, answer, colour=False, box=(2, 2))
    assert "x" not in unlabelled


def test_render_colours():
    """Bold clues, plain filled cells, underlined mistakes; the plain text without the codes."""
    inputs, labels = (row[0] for row in sudoku.generate(1, (2, 3)))
    answer = labels.copy()
    wrong = np.flatnonzero(inputs == 1)[3]
    answer[wrong] = labels[wrong] % 7 + 2 if labels[wrong] < 7 else 2
    shown = sudoku.render(inputs, answer, labels)
    plain = sudoku.render(inputs, answer, labels, colour=False)
    assert re.sub(r"\033\[[\d;]*m", "", shown) == plain and "\033" not in plain
    assert shown.count("\033[1m") == (inputs > 1).sum()
    assert shown.count("\033[31;4m") == plain.count("x") == 1
    assert len(plain.split("\n")) == 8  # six rows and two rules: boxes are two rows high
    assert plain.split("\n")[2] == "---------+---------"


# ------------------------------------------------------------------------------------------------
# Download


class Hub(http.server.BaseHTTPRequestHandler):
    files, cut, asked = {}, 0, []

    def do_GET(self):
        self.asked.append(self.path)
        body = self.files.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write((body or b"")[:len(body or b"") - self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, four):
    """A server on localhost with 5 training and 2 test rows -> (base URL, checksums, handler)."""
    monkeypatch.setenv("no_proxy", "*")
    head = "source,question,answer,rating\n"
    rows = [f"s{i},{q},{a},{i}\n" for i, (q, a) in enumerate(four)]
    bodies = {"train.csv": (head + "".join(rows)).encode(), "test.csv": (head + rows[0]).encode()}
    files = {f"/base/{name}": body for name, body in bodies.items()}
    handler = type("Handler", (Hub,), {"files": files, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    sums = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}
    yield f"http://127.0.0.1:{server.server_port}/base", sums, handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_download(tmp_path, hub, capsys):
    url, sums, handler = hub
    folder, choice, test = sudoku.download(tmp_path / "extreme", url + "/", rows=3, seed=4,
                                           checksums=sums)
    assert (folder, test) == (tmp_path / "extreme", tmp_path / "extreme" / "test.csv")
    assert sorted(p.name for p in folder.iterdir()) == [
        "test.csv", "train-3-seed4.csv", "train-3-seed4.json", "train.csv"]
    assert (folder / "test.csv").read_bytes() == handler.files["/base/test.csv"]
    assert "train.csv: 0.0 of 0.0 MB" in capsys.readouterr().err
    assert choice == folder / "train-3-seed4.csv"
    record = json.loads(choice.with_suffix(".json").read_text())
    assert record == {"seed": 4, "rows": 3, "of": 5, "source": "train.csv",
                      "source_sha256": sums["train.csv"],
                      "sha256": hashlib.sha256(choice.read_bytes()).hexdigest()}
    lines = choice.read_text().splitlines()
    assert len(lines) == 4 and set(lines) <= set((folder / "train.csv").read_text().splitlines())
    assert sudoku.read_csv(choice)[0].shape == (3, 16)
    before = choice.read_bytes()
    handler.asked.clear()
    (folder / "train-2-seed9.csv").write_text("of another choice")  # must not be mistaken for it
    again = sudoku.download(folder, url, rows=3, seed=4, checksums=sums)
    assert again.train == choice and again.test == test and again.folder == folder
    assert choice.read_bytes() == before and handler.asked == []  # what is there is kept


def test_what_was_chosen_needs_no_source(tmp_path, hub, monkeypatch):
    url, sums, handler = hub
    folder, choice, test = sudoku.download(tmp_path, url, rows=3, checksums=sums)
    before, record = choice.read_bytes(), choice.with_suffix(".json")
    (folder / "train.csv").unlink()
    handler.asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(sudoku, "replacing", None)  # a folder that cannot be written to
        assert sudoku.download(tmp_path, url, rows=3, checksums=sums).train == choice
    assert handler.asked == [] and not (folder / "train.csv").exists()
    told = json.loads(record.read_text())
    for spoil in (  # what may be another choice is made anew, from a source fetched anew
        lambda: choice.write_bytes(before[:-1]),
        lambda: choice.unlink(),
        lambda: record.unlink(),
        lambda: record.write_text("[1]"),
        lambda: record.write_text("{"),
        lambda: record.write_text(json.dumps(told | {"source_sha256": "0" * 64})),
        lambda: record.write_text(json.dumps(told | {"rows": 2})),
        lambda: record.write_text(json.dumps(told | {"seed": 1})),
    ):
        spoil()
        (folder / "train.csv").unlink(missing_ok=True)
        handler.asked.clear()
        sudoku.download(tmp_path, url, rows=3, checksums=sums)
        assert choice.read_bytes() == before and json.loads(record.read_text()) == told
        assert handler.asked == ["/base/train.csv"]
    handler.asked.clear()
    (folder / "train.csv").unlink()
    sudoku.download(tmp_path, url, rows=3, checksums=None)  # of which source, nobody says
    assert handler.asked == ["/base/train.csv"]


def test_the_choice_of_rows_is_seeded(tmp_path, hub):
    url, sums, _ = hub
    chosen = set()
    for seed in range(20):
        choice = sudoku.download(tmp_path, url, rows=2, seed=seed, checksums=sums).train
        assert choice.name == f"train-2-seed{seed}.csv"
        chosen.add(choice.read_text())
    assert 6 <= len(chosen) <= 10  # of the 10 pairs
    sudoku.download(tmp_path, url, rows=5, seed=0, checksums=sums)
    assert (tmp_path / "train-5-seed0.csv").read_text() == (tmp_path / "train.csv").read_text()
    with pytest.raises(ValueError, match="6 rows asked for, it has 5"):
        sudoku.download(tmp_path, url, rows=6, checksums=sums)


def test_the_hub_can_be_set_in_the_environment(tmp_path, hub, monkeypatch):
    url, sums, handler = hub
    monkeypatch.setenv("TINYTRM_HUB", url)
    sudoku.download(tmp_path, rows=1, checksums=sums)
    assert handler.asked == ["/base/train.csv", "/base/test.csv"]


def failed_download(folder, message, *args, **kwargs):
    with pytest.raises(ValueError, match=message) as error:
        sudoku.download(folder, *args, **kwargs)
    assert "\n" not in str(error.value) and list(folder.iterdir()) == []


def test_downloads_that_fail_leave_nothing(tmp_path, hub, monkeypatch):
    url, sums, handler = hub
    failed_download(tmp_path, "sha256 is .*file removed, try again", url,
                    checksums={"train.csv": "0" * 64})
    failed_download(tmp_path, "HTTP Error 404.*TINYTRM_HUB", url + "/nowhere", checksums=sums)
    failed_download(tmp_path, "Connection refused.*check the network", "http://127.0.0.1:9/")
    failed_download(tmp_path, "unknown url type", "nowhere")
    handler.cut = 10
    for checksums in (None, sums):
        failed_download(tmp_path, "cut off after .* of .* bytes", url, checksums=checksums)
    handler.cut = 0

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "print", interrupt, raising=False)
        with pytest.raises(KeyboardInterrupt):
            sudoku.download(tmp_path, url, rows=1, checksums=sums)
    assert list(tmp_path.iterdir()) == []
    sudoku.download(tmp_path, url, rows=1, checksums=None)


def test_a_changed_file_is_noticed(tmp_path, hub):
    url, sums, _ = hub
    sudoku.download(tmp_path, url, rows=1, checksums=sums)
    (tmp_path / "test.csv").write_text("mine")
    with pytest.raises(ValueError, match="test.csv: sha256 is not the published one; delete it"):
        sudoku.download(tmp_path, url, rows=1, checksums=sums)
    assert (tmp_path / "test.csv").read_text() == "mine"


# ------------------------------------------------------------------------------------------------
# Real data


@real_data
def test_sudoku_extreme():
    """Read whole; unique solutions, equal to the answers; no test row a copy of a training row."""
    (inputs, labels, box), (held_out, answers, _) = (
        sudoku.read_csv(EXTREME / name) for name in ("train.csv", "test.csv"))
    assert inputs.shape == (1000, 81) and held_out.shape == (10_000, 81) and box == (3, 3)
    assert (sudoku.solve(held_out[:300], box) == answers[:300]).all()
    assert (sudoku.count_solutions(inputs[:300], box) == 1).all()
    forms = sudoku.canonical(np.concatenate([inputs, held_out]), box)
    assert len(set(forms)) == 11_000
    assert sudoku.canonical(copies(inputs[:50], box, 0), box) == forms[:50]


@pytest.mark.parametrize("box", [(2, 2), (2, 3), (3, 3)])
def test_disguise_is_a_symmetric_copy_and_can_be_undone(box):
    inputs, labels = sudoku.generate(20, box, seed=5)
    copies, restore = sudoku.disguise(inputs, draws(20, seed=3), box)
    assert sudoku.canonical(copies, box) == sudoku.canonical(inputs, box)
    assert (copies != inputs).any(1).all()
    np.testing.assert_array_equal(restore(copies), inputs)
    solved = sudoku.solve(copies, box)  # an answer to the copy becomes the answer to the puzzle
    np.testing.assert_array_equal(restore(solved), labels)
