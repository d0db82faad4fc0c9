"""The tasks in examples/, each against a plain oracle; the program that trains them; what it is
compared with; its table."""
import inspect
import itertools
import re
from collections import deque

import numpy as np
import pytest
import torch

from conftest import ROOT, process, program
from examples import baseline, run, tasks
from tinytrm import Puzzles
from tinytrm_beyond import for_data


def rows(name, count=150):
    """Some rows of a task, as lists."""
    return [t.tolist() for t in tasks.TASKS[name](np.random.default_rng(5), count)]


def grid(row, side):
    return [row[i * side:(i + 1) * side] for i in range(side)]


def beside(i, j, side):
    """The cells beside one, in a grid that ends."""
    return [(a, b) for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1))
            if 0 <= a < side and 0 <= b < side]


def moves(cells, starts, wall):
    """Breadth-first search: cell -> number of moves from the nearest start."""
    far, queue = dict.fromkeys(starts, 0), deque(starts)
    while queue:
        here = queue.popleft()
        for there in beside(*here, len(cells)):
            if there not in far and cells[there[0]][there[1]] != wall:
                far[there] = far[here] + 1
                queue.append(there)
    return far


# ------------------------------------------------------------------------------------------------
# The tasks against oracles


def test_sort():
    for question, answer in zip(*rows("sort")):
        assert answer == sorted(question) and set(question) <= set(range(1, 11))


def test_reverse():
    lengths = set()
    for question, answer in zip(*rows("reverse")):
        length = question.index(0) if 0 in question else 16
        assert answer[:length] == question[:length][::-1] and not any(answer[length:])
        assert not any(question[length:]) and 0 not in question[:length]
        lengths.add(length)
    assert lengths == set(range(4, 17))


def test_add():
    number = lambda cells: int("".join(str(t - 1) for t in cells))
    for question, answer in zip(*rows("add")):
        assert number(answer[5:]) == number(question[:5]) + number(question[6:])
        assert question[5] == 11 and not any(answer[:5])


def test_brackets():
    deepest = 0
    for question, answer in zip(*rows("brackets")):
        depth = 0
        for token, said in zip(question, answer):
            depth += {1: 1, 2: -1}[token]
            assert said == depth + 1 and 0 <= depth <= 10
        deepest = max(deepest, *answer)
    assert deepest == 11


def test_flood():
    for question, answer in zip(*rows("flood")):
        cells, said = grid(question, 8), grid(answer, 8)
        wet = moves(cells, [(i, j) for i in range(8) for j in range(8) if cells[i][j] == 3], 1)
        assert question.count(3) == 1
        for i, j in itertools.product(range(8), repeat=2):
            assert said[i][j] == (3 if (i, j) in wet else cells[i][j])


def test_distance():
    capped = 0
    for question, answer in zip(*rows("distance", 400)):
        cells, said = grid(question, 6), grid(answer, 6)
        exits = [(i, j) for i in range(6) for j in range(6) if cells[i][j] == 3]
        far = moves(cells, exits, 1)
        assert len(exits) == 2
        for i, j in itertools.product(range(6), repeat=2):
            assert said[i][j] == (min(far[i, j], 10) + 2 if (i, j) in far else 1)
        capped += any(f > 10 for f in far.values())
    assert capped


def test_life():
    for question, answer in zip(*rows("life", 60)):
        alive = {(i, j) for i in range(8) for j in range(8) if question[8 * i + j] == 2}
        after = set()
        for i, j in itertools.product(range(8), repeat=2):
            around = sum(((i + a) % 8, (j + b) % 8) in alive
                         for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b)
            if around == 3 or around == 2 and (i, j) in alive:
                after.add((i, j))
        assert [2 if (i, j) in after else 1 for i in range(8) for j in range(8)] == answer


def test_frost():
    for question, answer in zip(*rows("frost", 60)):
        cells = grid(question, 8)
        for _ in range(3):
            touched = {(i, j): sum(cells[a][b] == 2 for a, b in beside(i, j, 8))
                       for i in range(8) for j in range(8)}
            cells = [[2 if cells[i][j] == 2 or touched[i, j] == 1 else 1 for j in range(8)]
                     for i in range(8)]
        assert cells == grid(answer, 8)


def test_lights():
    """All 512 ways to press are tried: one alone darkens a board, and it is the label."""
    darkened = {}
    for presses in itertools.product((0, 1), repeat=9):
        lamps = [0] * 9
        for k in range(9):
            for i, j in [divmod(k, 3), *beside(*divmod(k, 3), 3)] * presses[k]:
                lamps[3 * i + j] ^= 1
        assert tuple(lamps) not in darkened  # pressing these lights up those, and darkens them, too
        darkened[tuple(lamps)] = presses
    for question, answer in zip(*rows("lights")):
        assert darkened[tuple(t - 1 for t in question)] == tuple(t - 1 for t in answer)


def test_rules():
    """Where the colour of cell (i, j) of the answer comes from."""
    source = [lambda i, j: (i, j), lambda i, j: (j, 3 - i), lambda i, j: (3 - i, 3 - j),
              lambda i, j: (3 - i, j), lambda i, j: (i, 3 - j), lambda i, j: (j, i),
              lambda i, j: ((i - 1) % 4, j), lambda i, j: (i, (j - 1) % 4)]
    questions, answers, ids = rows("rules", 300)
    assert set(ids) == set(range(8))
    for question, answer, rule in zip(questions, answers, ids):
        cells = grid(question, 4)
        for i, j in itertools.product(range(4), repeat=2):
            a, b = source[rule](i, j)
            assert grid(answer, 4)[i][j] == (cells[a][b] - 1 + rule) % 9 + 1


@pytest.mark.parametrize("name", tasks.TASKS)
def test_held_out_rows_are_no_training_rows(name):
    data = tasks.split(name, 0)
    learned, asked = ([(*row, i) for row, i in zip(p.inputs.tolist(), p.ids.tolist())]
                      for p in (Puzzles(*t) for t in data))
    assert (len(learned), len(asked)) == tasks.ROWS.get(name, (5000, 1000))
    assert len({*learned, *asked}) == len(learned) + len(asked)
    for one, same, other in zip(data[0], tasks.split(name, 0)[0], tasks.split(name, 1)[0]):
        assert (one == same).all() and (one != other).any()


@pytest.mark.parametrize("name", tasks.TASKS)
def test_tasks_are_short_and_fit(name):
    learned, asked = (Puzzles(*t) for t in tasks.split(name, 0))
    config = for_data(learned)
    learned.check(config), asked.check(config)  # no token among those asked is new
    columns, question, answer = tasks.LOOKS[name]
    assert config.seq_len % columns == 0
    assert len(set(question)) == len(question) > learned.inputs.max()
    assert len(set(answer)) == len(answer) == config.vocab_size  # an answer may be any token
    assert len(inspect.getsource(tasks.TASKS[name]).splitlines()) <= 30
    assert tasks.TASKS[name].__doc__


# ------------------------------------------------------------------------------------------------
# The plain transformer


@pytest.mark.parametrize("dim", [32, 64, 128, 256])
@pytest.mark.parametrize("name", tasks.TASKS)
def test_baseline_has_as_many_parameters(name, dim):
    puzzles = Puzzles(*tasks.TASKS[name](np.random.default_rng(0), 200))
    config = for_data(puzzles, dim=dim)
    with torch.device("meta"):
        model = config.build()
        wanted = sum(p.numel() for p in [*model.parameters(), model.puzzle_table])
        plain = baseline.Plain(config.vocab_size, config.seq_len, config.num_puzzle_ids, wanted)
    assert sum(p.numel() for p in plain.parameters()) == pytest.approx(wanted, rel=0.1)


@pytest.fixture
def ticks(monkeypatch):
    """A clock that makes a tick whenever it is looked at, which is once a step."""
    monkeypatch.setattr(baseline.time, "perf_counter", itertools.count().__next__)


def test_baseline_learns_and_sees_the_id(ticks):
    """Under rule 0 the tokens are copied, under rule 1 each becomes the next; cell 0 is padding and
    judged by nobody."""
    random = np.random.default_rng(0)
    inputs, ids = random.integers(1, 5, (400, 4)), random.integers(0, 2, 400)
    labels = (inputs - 1 + ids[:, None]) % 4 + 1
    inputs[:, 0] = labels[:, 0] = 0
    puzzles = Puzzles(inputs, labels, ids)
    model, steps = baseline.train_plain(puzzles, 5, 7000, 100)
    assert steps == 100
    assert run.exact(baseline.solve_plain(model, puzzles), puzzles) > 0.95  # 0.5 without the id
    again = baseline.train_plain(puzzles, 5, 7000, 100)[0]
    assert all((a == b).all() for a, b in zip(model.parameters(), again.parameters()))


def test_baseline_makes_a_step_in_no_time():
    puzzles = Puzzles([[1, 2]], [[2, 1]])
    assert baseline.train_plain(puzzles, 3, 1000, 0)[1] == 1


# ------------------------------------------------------------------------------------------------
# The program


def test_a_run_as_a_user_sees_it(tmp_path):
    """From another folder, where nothing is written."""
    out, err = process("examples/run.py", "lights", "--baseline", "--steps", 3, cwd=tmp_path)
    assert err == "" and not list(tmp_path.iterdir())
    for said in ("lights: Lights Out", "learned   400 rows in ",
                 "asked     112 rows that were not", "after step 1: ", ", 64: ", "as solve answers",
                 "by a plain transformer with ", "\nquestion ", "held-out row ", "wanted"):
        assert said in out, said


def test_too_few_questions_are_an_error(monkeypatch):
    """It went on looking for the 513th of 512 boards for ever."""
    monkeypatch.setitem(tasks.ROWS, "lights", (500, 13))
    with pytest.raises(ValueError, match="lights: only 512 different questions .* 513 are wanted"):
        tasks.split("lights", 0)


def test_all_tasks_run(monkeypatch):
    monkeypatch.setattr(tasks, "ROWS", dict.fromkeys(tasks.TASKS, (40, 10)))
    out, _ = program("examples.run.py", *tasks.TASKS, "--baseline", "--steps", 2)
    assert out.count("asked     10 rows") == out.count("\nquestion ") == len(tasks.TASKS)
    assert out.count(" under rule ") == 1 and all(f"{name}: " in out for name in tasks.TASKS)


@pytest.mark.parametrize("flags, said", [
    ("", "NAME"), ("sorting", "invalid choice: 'sorting'"), ("sort --steps 0", "number from 1"),
    ("sort --seed -1", "number from 0")])
def test_what_makes_no_sense_is_refused(refused, flags, said):
    assert said in refused("examples.run.py", *flags.split())


@pytest.mark.parametrize("command", [
    found for page in ("README.md", "docs/your_data.md", "examples/run.py")
    for found in re.findall(r"python examples/run\.py ([^#`>\n]*)", (ROOT / page).read_text())])
def test_commands_are_understood(command):
    run.parser().parse_args(command.split())


def test_help_names_every_task():
    out, _ = program("examples.run.py", "-h")
    assert all(f"\n  {name}" in out for name in tasks.TASKS)


# ------------------------------------------------------------------------------------------------
# One answer, step by step


def told(monkeypatch, name, puzzles, *thoughts):
    """`story`, for a model that answers the rows like this after each step."""
    config = for_data(puzzles)
    model = config.build()
    monkeypatch.setattr(model, "think", lambda inputs, ids: (
        (torch.tensor(t), None, None) for t in thoughts))
    return run.story(name, model, puzzles)


def test_story_of_a_sequence(monkeypatch):
    """The row that came right last is shown; what is not labelled is not."""
    question = [[8, 3, 1, 1, 1, 11, 6, 1, 1, 1, 1], [2, 1, 1, 1, 1, 11, 2, 1, 1, 1, 1]]
    answer = [[0] * 5 + [2, 3, 3, 1, 1, 1], [0] * 5 + [1, 3, 1, 1, 1, 1]]
    late = [[9] * 5 + [2, 3, 4, 1, 1, 1], answer[1]]
    assert told(monkeypatch, "add", Puzzles(question, answer), late, late, answer) == """\
held-out row 1; x = wrong

question          7 2 0 0 0 + 5 0 0 0 0
step 1: 1 wrong             1 2 3x0 0 0
step 3: right               1 2 2 0 0 0"""


def test_story_of_a_grid_that_stays_wrong(monkeypatch):
    board, presses = [[2, 2, 1, 2, 1, 1, 1, 1, 1]], [[2, 1, 1, 1, 1, 1, 1, 1, 1]]
    ones = [[1] * 9]
    assert told(monkeypatch, "lights", Puzzles(board, presses), ones, ones) == """\
held-out row 1; x = wrong

question          step 1: 1 wrong   wanted
* * .             .x. .             P . .
* . .             . . .             . . .
. . .             . . .             . . ."""


def test_story_shows_few_steps(monkeypatch):
    wanted = [[1] * 12]
    thoughts = [[[2 + k % 3] * 12] for k in range(20)] + [wanted]
    lines = told(monkeypatch, "sort", Puzzles(wanted, wanted), *thoughts).splitlines()
    assert [line.split(":")[0] for line in lines[3:]] == [f"step {k}" for k in (1, 2, 3, 4, 5, 21)]
