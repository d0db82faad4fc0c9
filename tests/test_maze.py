"""data/maze.py against brute force, hand-made cases and, where it is at hand, real Maze-Hard."""

import itertools
import os
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest

from data import grid, maze
from data.maze import GOAL, OPEN, PATH, START, WALL

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = Path(os.environ.get("TINYTRM_DATA", BESIDE)) / "maze-30x30-hard-1k"
needs_real_data = pytest.mark.skipif(not REAL.exists(), reason=f"no real mazes at {REAL}")

SMALL = ("S  "
         "   "
         "  G")
SOLVED = ("S  "  # down before right
          "o  "
          "ooG")


def tokens(text):
    return np.array([" # SGo".index(c, 1) for c in text], np.uint8)


def uniform(seed, rows):
    """A stand-in for the training stream's random numbers."""
    rng = np.random.default_rng(seed)
    return lambda k: rng.random((rows, k))


@pytest.fixture(scope="module")
def real():
    parts = [maze.read_csv(REAL / name)[:2] for name in ("train.csv", "test.csv")]
    return [np.concatenate(part) for part in zip(*parts)]


@pytest.fixture(scope="module")
def hard():
    return maze.generate(80, seed=3)


@pytest.fixture(scope="module")
def easy():
    return maze.generate(300, side=7, min_path=8, seed=0)


# ------------------------------------------------------------------------------------------------
# Oracles: slow, in other words than the module's


def are_neighbours(a, b):
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1


def brute_distances(is_open, start):
    """{(row, column): steps} from the start, both tuples; is_open (s, s)."""
    side, steps, queue = len(is_open), {start: 0}, deque([start])
    while queue:
        r, c = queue.popleft()
        for spot in ((r + 1, c), (r, c - 1), (r, c + 1), (r - 1, c)):
            if 0 <= min(spot) and max(spot) < side and is_open[spot] and spot not in steps:
                steps[spot] = steps[r, c] + 1
                queue.append(spot)
    return steps


def brute_label(grid):
    """Maze (s, s) -> answer: from G back, always to the neighbour that was discovered first."""
    start, goal = (tuple(int(v[0]) for v in np.nonzero(grid == t)) for t in (START, GOAL))
    steps = brute_distances(grid != WALL, start)  # keys in the order of discovery
    answer, spot = grid.copy(), goal
    while steps[spot] > 1:
        spot = next(s for s in steps if are_neighbours(s, spot) and steps[s] == steps[spot] - 1)
        answer[spot] = PATH
    return answer


def all_shortest(grid):
    """Every shortest answer of a maze (s, s), as a set of bytes."""
    start, goal = (tuple(int(v[0]) for v in np.nonzero(grid == t)) for t in (START, GOAL))
    steps, answers = brute_distances(grid != WALL, start), set()

    def walk(spot, path):
        if steps[spot] == 1:
            answer = grid.copy()
            answer[tuple(zip(*path[1:]))] = PATH
            answers.add(answer.tobytes())
        for before in steps:
            if steps[before] == steps[spot] - 1 > 0 and are_neighbours(before, spot):
                walk(before, [*path, before])

    walk(goal, [goal])
    return answers


def ks_distance(x, y):
    """Two-sample Kolmogorov-Smirnov distance."""
    at = np.unique(np.concatenate([x, y]))
    below = [np.searchsorted(np.sort(v), at, "right") / len(v) for v in (x, y)]
    return np.abs(below[0] - below[1]).max()


# ------------------------------------------------------------------------------------------------
# The label rule


def test_label_prefers_down_left_right_up():
    assert (maze.label(tokens(SMALL)[None]) == tokens(SOLVED)).all()
    up_or_left = tokens("G   " " ## " " ## " "   S")
    assert (maze.label(up_or_left[None]) == tokens("G   " "o## " "o## " "oooS")).all()
    up_or_right = tokens("   G" " ## " " ## " "S   ")
    assert (maze.label(up_or_right[None]) == tokens("   G" " ##o" " ##o" "Sooo")).all()


def test_label_agrees_with_brute_force(easy):
    for inputs, labels in (easy, maze.generate(50, side=11, min_path=5, seed=1)):
        side = maze.side_of(inputs.shape[1])
        for question, answer in zip(maze.label(inputs), inputs):
            assert (question == brute_label(answer.reshape(side, side)).ravel()).all()
        assert (maze.label(inputs) == labels).all()


@pytest.mark.parametrize("text, message", [
    ("S#G " " ## " "####" "    ", "row 2: no way leads from S to G"),
    ("S   " * 4, "row 2: a maze needs exactly one S and one G"),
])
def test_label_of_an_unsolvable_maze(text, message):
    with pytest.raises(ValueError, match=message):
        maze.label(np.stack([tokens("S  G" + " " * 12), tokens(text)]))


# ------------------------------------------------------------------------------------------------
# Flooding


@pytest.mark.parametrize("side", [2, 3, 5, 9])
def test_flooding_agrees_with_brute_force(side):
    rng = np.random.default_rng(side)
    is_open, start = maze._draw_mazes(rng, side, 160)
    goal = rng.integers(side * side, size=160)
    known = [brute_distances(cells.reshape(side, side), divmod(int(s), side))
             for cells, s in zip(is_open.T, start)]
    for min_path in range(1, 2 * side):
        expected = [max(steps.values()) >= min_path for steps in known]
        assert (maze._reaches_far(is_open, start, min_path) == expected).all()
    away = goal != start
    expected = [steps.get(divmod(int(g), side), 0) for steps, g in zip(known, goal)]
    assert (maze._arrival(is_open.T, start, goal) == expected)[away].all()


def test_valid_paths_are_exactly_the_shortest_ones():
    """Every way to put 'o' on open cells of small mazes, against all shortest paths by search."""
    inputs, labels = maze.generate(12, side=4, min_path=4, seed=0)
    ways = 0
    for question, answer in zip(inputs, labels):
        empty = np.flatnonzero(question == OPEN)[:11]
        ink = np.array(list(itertools.product((OPEN, PATH), repeat=len(empty))), np.uint8)
        predictions = np.repeat(question[None], len(ink), 0)
        predictions[:, empty] = ink
        shortest = all_shortest(question.reshape(4, 4))
        expected = np.array([p.tobytes() in shortest for p in predictions])
        questions, answers = (np.repeat(row[None], len(ink), 0) for row in (question, answer))
        assert (maze.valid_paths(questions, predictions, answers) == expected).all()
        ways += expected.sum()
    assert ways > 12  # some had several


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_valid_paths_of_garbage(easy, dtype):
    inputs, labels = easy
    rng = np.random.default_rng(0)
    assert maze.valid_paths(inputs, labels.astype(dtype), labels).all()
    noise = rng.integers(0, 256, inputs.shape)
    for garbage in (noise, np.full(inputs.shape, PATH), inputs, 0 * inputs):
        assert not maze.valid_paths(inputs, garbage.astype(dtype), labels).any()
    for _ in range(3):  # one wrong cell anywhere spoils an answer
        cell, broken = rng.integers(inputs.shape[1], size=len(inputs)), labels.astype(dtype)
        broken[np.arange(len(inputs)), cell] += rng.integers(1, 250, len(inputs)).astype(dtype)
        assert not maze.valid_paths(inputs, broken, labels).any()
    padding = np.zeros_like(inputs)
    assert not maze.valid_paths(padding, padding, padding).any()
    assert maze.valid_paths(inputs[:0], labels[:0], labels[:0]).shape == (0,)


def test_valid_paths_want_one_line_of_the_right_length():
    question, label = tokens("S   " "    " "   G" "####"), tokens("S   " "o   " "oooG" "####")
    for answer, right in [
        ("Sooo" "   o" "   G" "####", True),
        ("So  " " o  " " ooG" "####", True),
        ("Soo " "  o " "  oG" "####", True),
        ("S   " "o o " "oo G" "####", False),
        ("So  " "ooo " "   G" "####", False),
        ("S   " "    " "   G" "oooo", False),
        ("Sooo" "ooo " "oooG" "####", False),
    ]:
        found = maze.valid_paths(question[None], tokens(answer)[None], label[None])
        assert found.tolist() == [right], answer


def test_valid_paths_reject_a_shortcut_with_strays_even_if_the_label_is_long():
    question = tokens("S G " "    " "    " "    ")
    label = tokens("S G " "ooo " "    " "    ")  # 4 steps where 2 would do
    assert maze.valid_paths(question[None], label[None], label[None])
    strays = tokens("SoG " "    " "   o" "   o")
    assert not maze.valid_paths(question[None], strays[None], label[None])


# ------------------------------------------------------------------------------------------------
# Generator


@pytest.mark.parametrize("side, min_path", [(4, 1), (5, 7), (8, None), (13, 20)])
def test_generated_mazes_are_what_was_asked_for(side, min_path):
    inputs, labels = maze.generate(60, side, min_path, seed=1)
    assert inputs.shape == labels.shape == (60, side * side)
    assert inputs.dtype == labels.dtype == np.uint8
    assert set(np.unique(inputs)) == {WALL, OPEN, START, GOAL}
    assert ((inputs == START).sum(1) == 1).all() and ((inputs == GOAL).sum(1) == 1).all()
    assert ((labels == PATH).sum(1) + 1 >= (min_path or maze.default_min_path(side))).all()
    assert (labels == maze.label(inputs)).all() and maze.valid_paths(inputs, labels, labels).all()
    assert len(set(maze.canonical(inputs))) == 60


def test_generate_is_a_function_of_its_arguments():
    inputs, labels = maze.generate(40, 6, seed=5)
    again = maze.generate(25, 6, seed=5)
    assert (again[0] == inputs[:25]).all() and (again[1] == labels[:25]).all()
    assert not (maze.generate(25, 6, seed=6)[0] == inputs[:25]).all(1).any()
    assert maze.generate(0, 6)[0].shape == (0, 36)


def test_generate_excludes_copies():
    first = maze.canonical(maze.generate(80, 3, 3, seed=0)[0])
    second = maze.canonical(maze.generate(80, 3, 3, seed=0, exclude=first)[0])
    assert len(set(first) | set(second)) == 160


@pytest.mark.parametrize("arguments, message", [
    ((10, 5, 20), "found only 0 of 10 mazes of side 5 with paths of 20 steps"),
    ((100, 2, 2), r"found only \d+ of 100 mazes of side 2"),  # there are not that many
    ((10, 1), "side >= 2"), ((10, 5, 0), "min_path"), ((10, 5, 25), "min_path"), ((-1, 5), "count"),
])
def test_generate_says_what_cannot_be(arguments, message, monkeypatch):
    monkeypatch.setattr(maze, "PATIENCE", 300_000)
    with pytest.raises(ValueError, match=message) as error:
        maze.generate(*arguments)
    assert "\n" not in str(error.value)


def naive_probabilities(side, min_path):
    """{(walls, start, steps): probability} of the naive generator's mazes, by listing them all."""
    L, weight = side * side, Counter()
    p = np.linspace(*maze.WALLS, 401)
    integral = getattr(np, "trapezoid", None) or np.trapz  # its name before numpy 2
    chance = [integral(p**k * (1 - p) ** (L - k), p) for k in range(L + 1)]
    for cells in itertools.product((False, True), repeat=L):
        grid, walls = np.array(cells).reshape(side, side), L - sum(cells)
        for start in zip(*np.nonzero(grid)):
            for steps in brute_distances(grid, tuple(map(int, start))).values():
                if steps >= min_path:
                    weight[walls, int(start[0] * side + start[1]), steps] += chance[walls]
    total = sum(weight.values())
    return {key: w / total for key, w in weight.items()}


def test_generator_has_the_naive_distribution():
    expected, seen, rng = naive_probabilities(3, 3), Counter(), np.random.default_rng(0)
    for _ in range(5):
        for question, answer in maze._draw_samples(rng, 3, 3, 8000):
            steps = int((answer == PATH).sum()) + 1
            seen[int((question == WALL).sum()), int((question == START).argmax()), steps] += 1
    n = sum(seen.values())
    assert n > 5000 and set(seen) <= set(expected)
    common = [key for key in expected if n * expected[key] > 5]
    chi2 = sum((seen[key] - n * expected[key]) ** 2 / (n * expected[key]) for key in common)
    assert chi2 < len(common) + 5 * np.sqrt(2 * len(common))  # five deviations


@pytest.mark.parametrize("boost", [2, 10])
def test_goals_come_in_the_right_number_and_evenly(boost):
    steps = dict(enumerate([0, 1, 1, 2, 2, 3, 3, 3, 4]))  # a cell each; four are at least 3 away
    rng = np.random.default_rng(0)
    drawn = [maze._draw_goals(rng, steps, 9, 16, 3, boost) for _ in range(8000)]
    assert all(len(set(goals)) == len(goals) for goals in drawn)
    count = Counter(itertools.chain(*drawn))
    mean = 8000 * boost * 9 / 16 / 15
    assert set(count) == {5, 6, 7, 8}
    assert all(abs(c - mean) < 5 * np.sqrt(mean) for c in count.values())


def test_walls_and_starts_are_evenly_drawn():
    is_open, start = maze._draw_mazes(np.random.default_rng(0), 6, 20_000)
    assert is_open[start, np.arange(20_000)].all()
    share, p = 1 - is_open.mean(0), np.linspace(0.3, 0.5, 101)
    assert abs(share.mean() - 0.4) < 0.002
    assert abs(share.var() - (0.2**2 / 12 + np.mean(p * (1 - p)) / 36)) < 3e-4  # of p, of the cells
    assert np.abs(is_open.mean(1) - 0.6).max() < 0.02
    assert np.abs(np.bincount(start) / 20_000 * 36 - 1).max() < 0.2


def test_hard_mazes_are_like_the_data_set(hard):
    inputs, labels = hard
    assert (labels == maze.label(inputs)).all()
    steps, walls = (labels == PATH).sum(1) + 1, (inputs == WALL).mean(1)
    assert steps.min() >= 109 and steps.min() < 112
    assert abs(walls.mean() - 0.371) < 5 * 0.026 / np.sqrt(len(walls))
    assert 0.015 < walls.std() < 0.04


@needs_real_data
def test_hard_mazes_are_like_the_real_ones(hard, real):
    limit = 1.95 * np.sqrt(1 / len(hard[0]) + 1 / len(real[0]))  # exceeded once in a thousand
    figures = {
        "walls": lambda question, answer: (question == WALL).mean(1),
        "steps": lambda question, answer: (answer == PATH).sum(1),
        "row of S": lambda question, answer: (question == START).argmax(1) // 30,
    }
    for name, figure in figures.items():
        assert ks_distance(figure(*hard), figure(*real)) < limit, name


@needs_real_data
def test_real_labels_follow_the_rule(real):
    inputs, labels = real
    assert len(inputs) >= 1500 and (maze.label(inputs) == labels).all()
    assert maze.valid_paths(inputs, labels, labels).all()


@needs_real_data
def test_labels_of_real_copies_are_ambiguous(real):
    """The figures in the docstring of `augment`; every copied answer is still a shortest path."""
    inputs, labels = real[0][:100], real[1][:100]
    differs = []
    for cells in maze.dihedral(30):
        rule = maze.label(inputs[:, cells])
        assert maze.valid_paths(inputs[:, cells], labels[:, cells], rule).all()
        differs.append((rule != labels[:, cells]).any(1))
    share = np.mean(differs, 1)
    assert share[0] == 0 and share[4] < 0.2 and (share[[1, 2, 3, 5, 6, 7]] > 0.95).all()


# ------------------------------------------------------------------------------------------------
# Symmetries


def test_dihedral_numbers_and_group():
    table, grid = maze.dihedral(4), np.random.default_rng(0).integers(0, 99, (4, 4))
    turned = [np.rot90(grid, k) for k in range(4)]
    turned += [np.fliplr(grid), np.flipud(grid), grid.T, np.fliplr(np.rot90(grid))]
    assert all((grid.ravel()[cells] == other.ravel()).all() for cells, other in zip(table, turned))
    group = {tuple(cells) for cells in table}
    assert len(group) == 8 and {tuple(a[b]) for a in table for b in table} == group
    assert all(tuple(np.argsort(cells)) in group for cells in table)


def test_augment_draws_each_copy_evenly_and_keeps_the_answer_with_it():
    inputs, labels = (np.repeat(a, 4000, 0) for a in maze.generate(1, side=6, seed=0))
    new_inputs, new_labels = maze.augment(inputs, labels, uniform(0, 4000))
    assert new_inputs.dtype == new_labels.dtype == np.uint8
    pairs = Counter(zip(map(bytes, new_inputs), map(bytes, new_labels)))
    copies = {(bytes(inputs[0][cells]), bytes(labels[0][cells])) for cells in maze.dihedral(6)}
    assert set(pairs) == copies and len(copies) == 8
    assert all(abs(n - 500) < 5 * np.sqrt(500) for n in pairs.values())


def test_augment_treats_rows_alone():
    inputs, labels = maze.generate(30, side=6, seed=1)
    numbers = np.random.default_rng(0).random((30, 1))
    whole = maze.augment(inputs, labels, lambda k: numbers)
    part = maze.augment(inputs[10:20], labels[10:20], lambda k: numbers[10:20])
    assert (whole[0][10:20] == part[0]).all() and (whole[1][10:20] == part[1]).all()
    edge = maze.augment(inputs, labels, lambda k: np.full((30, k), np.nextafter(1, 0)))
    assert (edge[0] == inputs[:, maze.dihedral(6)[7]]).all()


def test_canonical_is_shared_by_copies_and_by_nothing_else(easy):
    inputs, _ = easy
    forms = maze.canonical(inputs)
    assert all(isinstance(form, bytes) and len(form) == 49 for form in forms)
    assert len(set(forms)) == len(forms)
    for cells in maze.dihedral(7):
        assert maze.canonical(inputs[:, cells]) == forms
    turns = [np.rot90(inputs[0].reshape(7, 7), k) for k in range(4)]
    assert forms[0] == min(copy.tobytes() for turn in turns for copy in (turn, np.fliplr(turn)))


def test_overlap_finds_copies(easy):
    inputs, _ = easy
    held_out = np.concatenate([inputs[40:43, maze.dihedral(7)[3]], inputs[:2], inputs[50:]])
    found = grid.overlap(inputs[:45], held_out, maze.canonical)
    assert found.dtype == bool and found.tolist() == [True] * 5 + [False] * 250
    assert grid.overlap(inputs, inputs[:0], maze.canonical).shape == (0,)


@pytest.mark.parametrize("cells", [-4, 0, 1, 2, 8, 899])
def test_no_square(cells):
    with pytest.raises(ValueError, match=f"^{cells} cells are no square grid"):
        grid.side_of(cells)


# ------------------------------------------------------------------------------------------------
# Files


HEADER = "source,question,answer,rating\n"
GOOD = f"x,{SMALL},{SOLVED},5\n"


def line(question=SMALL, answer=SOLVED):
    return f"x,{question},{answer},0\n"


def refusal(path):
    """What `read_csv` says against a file, which must be one line."""
    with pytest.raises(ValueError) as error:
        maze.read_csv(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_csv_round_trip(tmp_path, easy):
    maze.write_csv(tmp_path / "mazes.csv", *easy, source="here")
    inputs, labels, side = maze.read_csv(tmp_path / "mazes.csv")
    assert (inputs == easy[0]).all() and (labels == easy[1]).all() and side == 7
    assert inputs.dtype == labels.dtype == np.uint8
    first = (tmp_path / "mazes.csv").read_text().splitlines()[1].split(",")
    assert first[0] == "here" and int(first[3]) == first[2].count("o") + 2
    assert os.listdir(tmp_path) == ["mazes.csv"]


@pytest.mark.parametrize("text", [
    HEADER + GOOD,
    f"question,answer\n{SMALL},{SOLVED}\n",
    f"\ufeffanswer,other,question\r\n{SOLVED},1,{SMALL}\r\n",
])
def test_read_csv_takes_any_order_of_columns(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    inputs, labels, side = maze.read_csv(tmp_path / "a.csv")
    assert (inputs == tokens(SMALL)).all() and (labels == tokens(SOLVED)).all() and side == 3


@pytest.mark.parametrize("rows, row, message", [
    (GOOD + line(SMALL[1:]), 2, "the question has 8 characters, not 9"),
    (GOOD + line(SMALL[1:], SOLVED[1:]), 2, "the question has 8 characters, not 9"),
    (GOOD + "x\n", 2, "1 columns, not 4 as in the header"),
    (line("S", "S"), 1, "1 cells are no square grid"),
    (line("S  x    G"), 1, "character 4 of the question is 'x'"),
    (line("S  é    G"), 1, "character 4 of the question is 'é'"),
    (line(SOLVED), 1, "character 4 of the question is 'o'"),
    (line(answer="S  oooo?G"), 1, "character 8 of the answer is '?'"),
    (line("   o    G".replace("o", " ")), 1, "the question has 0 cells S"),
    (line("SS      G"), 1, "the question has 2 cells S"),
    (line("S        "), 1, "the question has 0 cells G"),
    (line("S      GG"), 1, "the question has 2 cells G"),
    (GOOD * 2 + line(answer="S  o#oooG"), 3, "the answer changes line 2, column 2 of the maze"),
    (line("S  #    G"), 1, "the answer changes line 2, column 1 of the maze"),
    (line(answer="oS o  ooG"), 1, "the answer changes line 1, column 1"),
    (GOOD + line(answer="S  o   oG"), 2, "the 'o' cells of the answer are not one line from S"),
    (GOOD + line(answer=SMALL), 2, "the 'o' cells of the answer are not one line"),
    (line(answer="S ooo ooG"), 1, "the 'o' cells of the answer are not one line"),
    (GOOD + line("S G      ", "S Go oooo"), 2,
     "the 'o' cells of the answer go from S to G in 6 steps, the shortest way has 2"),
    (GOOD + line("S  G" + " " * 12, "SooG" + " " * 12), 2, "the question has 16 characters, not 9"),
])
def test_read_csv_names_the_row(tmp_path, rows, row, message):
    (tmp_path / "bad.csv").write_text(HEADER + rows, encoding="utf-8")
    said = refusal(tmp_path / "bad.csv")
    assert said.startswith(f"{tmp_path / 'bad.csv'}, row {row} (line {row + 1}): {message}")


@pytest.mark.parametrize("content, message", [
    (b"", "bad.csv: empty"),
    (HEADER.encode(), "bad.csv: empty"),
    (b"question,rating\n   ,1\n", "header: no column answer; the first line must name"),
    (b"a,b\n1,2\n", "header: no column question and answer"),
    (HEADER.encode() + b"\xff\xfe,a,b,1\n", "bad.csv, line 2: not UTF-8"),
    (HEADER.encode() + b"x," + b"#" * 200_000 + b",#,1\n", "field larger"),
])
def test_read_csv_of_something_else(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    assert message in refusal(tmp_path / "bad.csv")


def test_read_csv_of_nothing(tmp_path):
    assert "none.csv: cannot be read: No such" in refusal(tmp_path / "none.csv")
    assert "cannot be read: Is a directory; check the path" in refusal(tmp_path)


def test_write_csv_leaves_nothing_half_written(tmp_path, easy, monkeypatch):
    path = tmp_path / "mazes.csv"
    path.write_text("precious")
    for bad in (easy[0] * 0, easy[0] + 5):
        with pytest.raises(ValueError, match="mazes.csv: not written"):
            maze.write_csv(path, bad, easy[1])

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        maze.write_csv(path, *easy)
    assert path.read_text() == "precious" and os.listdir(tmp_path) == ["mazes.csv"]


@needs_real_data
@pytest.mark.parametrize("name, rows", [("train.csv", 1000), ("test.csv", 500)])
def test_real_files_survive_a_round_trip(tmp_path, name, rows):
    inputs, labels, side = maze.read_csv(REAL / name)
    assert inputs.shape == labels.shape == (rows, 900) and side == 30
    maze.write_csv(tmp_path / name, inputs, labels, source="maze-30x30-hard-1k")
    assert (tmp_path / name).read_bytes() == (REAL / name).read_bytes()


# ------------------------------------------------------------------------------------------------
# Terminal


def test_render_marks_mistakes_without_colour():
    question, label = tokens("S # " "    " "##  " "  G "), tokens("S # " "ooo " "##o " "  G ")
    right = maze.render(question, label, label, colour=False)
    assert right.split("\n") == ["S   ██  ", "• • •   ", "████•   ", "    G   "]
    wrong = tokens("So# " "oo  " "# o#" "  G ")
    assert maze.render(question, wrong, label, colour=False).split("\n") == [
        "S × ██  ", "• • ○   ", "██! • ! ", "    G   "]
    assert maze.render(question, wrong, colour=False).split("\n") == [  # what breaks the question
        "S • ██  ", "• •     ", "██! • ! ", "    G   "]


def test_render_survives_garbage_and_colours_it(easy):
    inputs, labels = easy
    garbage = np.random.default_rng(0).integers(0, 256, 49)
    plain, coloured = (maze.render(inputs[0], garbage, labels[0], c) for c in (False, True))
    assert [len(row) for row in plain.split("\n")] == [14] * 7
    assert "\x1b" not in plain and "\x1b[35m! \x1b[0m" in coloured
    assert all(mark in maze.LEGEND for mark in "•×○!")
