"""Test-time compute and speed: rollouts and how one of them is chosen, --compile, --bench."""
import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch

import tinytrm
from conftest import ROOT, process, program, tiny, toy_puzzles
from data import sudoku
from support import cost, tasks
from support.presets import PRESETS
from support.rollouts import SELECTIONS, choose, draws, guess, rollout, rollouts, search

INF = np.inf
SUDOKU4 = PRESETS["sudoku4"].config


def pick(selection, rows):
    """What `choose` says of one puzzle; rows: (last, first sure, q, when sure) of each rollout,
    and whether the last keeps the rules, if any does."""
    last, first, q, when, kept = (np.array(c) for c in zip(*((*r, False)[:5] for r in rows)))
    chosen = choose(selection, last[:, None, None], first[:, None, None], q[:, None], when[:, None],
                    kept[:, None])
    return int(chosen[0, 0])


def test_selection_by_hand():
    rows = [(5, 4, 1.0, 3), (6, 6, 2.0, 4), (5, 5, 0.5, 3), (7, 0, -1.0, INF)]
    assert pick("q", rows) == 6
    assert pick("first", rows) == 4  # as early as the third rollout, with a higher q
    assert pick("vote", rows) == 5
    assert pick("first", [(8, 0, -2.0, INF), (9, 0, -1.0, INF)]) == 9  # none was ever sure
    assert pick("vote", [(8, 0, -2.0, INF), (9, 0, -1.0, INF)]) == 9
    assert pick("rules", rows) == 6  # none keeps them: as q
    assert pick("rules", [(*row, kept) for row, kept in zip(rows, (1, 0, 1, 1))]) == 5
    assert pick("rules", [(*row, row[0] == 7) for row in rows]) == 7  # however unsure


@pytest.fixture(scope="module")
def task_and_model():
    """A trained model that solves some of the puzzles in one step."""
    model = tinytrm.load(ROOT / "notebooks/models/sudoku6.pt")
    model.config.eval_steps = 1
    looks = dict(disguise=partial(sudoku.disguise, box=(2, 3)),
                 keeps_rules=partial(sudoku.keeps_rules, box=(2, 3)))
    test = tinytrm.Puzzles(*sudoku.generate(40, (2, 3), seed=7))
    return tasks.Task("sudoku", model.config, None, test, {}, **looks), model


def test_rollouts_against_a_direct_count(task_and_model):
    task, model = task_and_model
    table = rollouts(task, model, 5, batch_size=16)["rollouts"]
    assert set(table) == set(SELECTIONS) and [*table["q"]] == [1, 2, 4, 5]
    plain = tinytrm.evaluate(model, task.test)
    assert table["q"][1] == table["vote"][1] == pytest.approx(plain["exact_accuracy"])
    assert 0 < table["q"][1] < 1 and len({str(row) for row in table.values()}) > 1
    again = rollouts(task, model, 5, batch_size=7)["rollouts"]
    assert again == {name: pytest.approx(row) for name, row in table.items()}, "in any batch"
    # The same by hand: copies only, the answer with the highest q.
    answers, qs, rows = [], [], np.arange(len(task.test))
    for k in range(3):
        inputs, restore = task.test.inputs, lambda a: a
        if k:
            inputs, restore = task.disguise(inputs, draws(k, rows))
        solution = tinytrm.solve(model, inputs)
        answers.append(restore(solution.answers))
        qs.append(solution.q)
    best = np.argmax(qs, 0)
    right = [(answers[b][i] == task.test.labels[i]).all() for i, b in enumerate(best)]
    table = rollouts(task, model, 3)["rollouts"]
    assert table["q"][3] == pytest.approx(np.mean(right))
    assert table["first"] == table["q"], "after one step who is sure first is the surest"
    # These puzzles have one solution each, so an answer that keeps the rules is the right one.
    some = np.any([(a == task.test.labels).all(1) for a in answers], 0)
    assert table["rules"][3] == pytest.approx(some.mean())
    assert table["rules"][3] > table["rules"][1], "else this says nothing"
    unruly = dataclasses.replace(task, keeps_rules=None)
    assert rollouts(unruly, model, 3)["rollouts"] == {k: table[k] for k in ("q", "first", "vote")}


def test_a_rollout_answers_as_solve_does():
    """Also where the surest step counts, which is not the last."""
    model = tiny(keep="surest", seed=1).build()
    torch.nn.init.normal_(model.q_weight, generator=torch.Generator().manual_seed(0))
    x = toy_puzzles(50)
    solution, one = tinytrm.solve(model, x.inputs, x.ids), rollout(model, x.inputs, x.ids, 4)
    assert (one.last == solution.answers).all() and np.allclose(one.q, solution.q, atol=1e-5)
    model.config.keep = "last"
    assert (one.last != tinytrm.solve(model, x.inputs, x.ids).answers).any()


def test_guesses_are_a_few_empty_cells_of_the_answer():
    rng = np.random.default_rng(0)
    inputs = rng.choice([1, 1, 3], (500, 36))
    answers = np.where(inputs == 1, rng.integers(0, 8, (500, 36)), inputs)
    seen = guess(inputs, answers, 3, lambda k: rng.random((500, k)))
    changed = seen != inputs
    assert (inputs[changed] == 1).all() and (seen[changed] == answers[changed]).all()
    assert (seen[changed] > 1).all(), "padding and blanks are no guesses"
    assert np.bincount(changed.sum(1)).tolist()[1:] == pytest.approx([167] * 3, abs=40)
    nothing = guess(inputs, inputs, 3, lambda k: rng.random((500, k)))
    assert np.array_equal(nothing, inputs)


def test_search_against_a_walk_by_hand():
    """One puzzle after the other, with a plain loop; then the counts of all puzzles at once."""
    model = tinytrm.load(ROOT / "notebooks/models/sudoku6.pt")  # solves some in one step
    looks = dict(disguise=partial(sudoku.disguise, box=(2, 3)),
                 keeps_rules=partial(sudoku.keeps_rules, box=(2, 3)))
    test = tinytrm.Puzzles(*sudoku.generate(24, (2, 3), seed=5))
    task, solved_after = tasks.Task("sudoku", model.config, None, test, {}, **looks), []
    for row in range(24):
        question, label = test.inputs[row:row + 1], test.labels[row:row + 1]
        seen, restore = question, lambda a: a
        for k in range(1, 6):
            answer = restore(tinytrm.solve(model, seen, steps=1).answers)
            if (answer == label).all():
                solved_after.append(k)
                break
            random = draws(k, np.array([row]))
            seen, restore = task.disguise(guess(question, answer, 2, random), random)
    assert 1 < max(solved_after), "else this says nothing"
    found = search(task, model, 5, 2, steps=1, batch_size=10)
    shares = {k: sum(s <= k for s in solved_after) / 24 for k in (1, 2, 4, 5)}
    assert found["rollouts"] == {"guess": {k: pytest.approx(v) for k, v in shares.items()}}
    used = sum(solved_after) + 5 * (24 - len(solved_after))
    assert found["mean_rollouts"] == pytest.approx(used / 24)
    # Without guesses: the rollouts of before; an answer by the rules is right, if any is.
    table = rollouts(task, model, 3, steps=1)["rollouts"]
    assert table["rules"][3] > table["rules"][1] == table["q"][1] == shares[1]
    with pytest.raises(ValueError, match="can be checked"):
        search(dataclasses.replace(task, keeps_rules=None), model, 2, 1)


def test_rollouts_the_whole_way(task_and_model, tmp_path):
    task, model = task_and_model
    path = tmp_path / "test.csv"
    sudoku.write_csv(path, task.test.inputs, task.test.labels, (2, 3))
    about = dict(kind="sudoku", data=str(path), box=[2, 3], sha256="", split=None)
    tinytrm.save(tmp_path / "model.pt", model, about=about)
    words = [tmp_path / "model.pt", "--data", path, "--device", "cpu"]
    flags = ["--rollouts", 3, "--steps", 2]
    stdout, _ = program("evaluate.py", *words, *flags)
    assert "rollouts         1       2       3" in stdout and "40 puzzles" in stdout
    result = json.loads(program("evaluate.py", *words, *flags, "--json")[0])
    assert set(result["rollouts"]) == {"q", "first", "vote", "rules"} and result["steps"] == 2
    walk = ["--rollouts", 3, "--guesses", 2, "--steps", 2]
    assert "until one keeps the rules" in program("evaluate.py", *words, *walk)[0]


# ------------------------------------------------------------------------------------------------
# Speed


@pytest.mark.slow
def test_without_a_compiler_there_is_an_error(tmp_path):
    words = ["--preset", "sudoku4", "--steps", 3, "--compile", "--device", "cpu",
             "--out", tmp_path / "run"]
    stdout, stderr = process("train.py", *words, CXX="/nonexistent", code=2,
                             TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert stderr.count("\n") == 1 and "torch.compile failed; --no-compile goes without" in stderr


@pytest.mark.slow
def test_compiled_is_the_same_mathematics_without_recompilation():
    """Losses of ten steps agree; one graph without gradient and one with, and no more."""
    from torch._dynamo.utils import counters

    config = dataclasses.replace(SUDOKU4, steps=10, dtype="float32", batch_size=16)
    inputs, labels = sudoku.generate(12, (2, 2), seed=0)
    puzzles, losses, graphs = tinytrm.Puzzles(inputs, labels), [], []
    for compiled in (False, True):
        state, seen = tinytrm.State(config), []
        if compiled:
            cost.compile_net(state.model, 16)

        def on_step(state, metrics):
            seen.append(metrics["loss"].item())
            graphs.append(counters["stats"]["unique_graphs"])

        tinytrm.train(config, puzzles, state=state, on_step=on_step)
        losses.append(seen)
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert 0 < graphs[10] == graphs[-1] <= 2, "compiled in the first step and never again"
