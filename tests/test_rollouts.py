"""Test-time compute and speed: rollouts and how one of them is chosen, --compile, --bench."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

import evaluate
import tinytrm
import train
from data import sudoku, tasks
from test_train import one_line, program

INF = np.inf


def pick(selection, rollouts):
    """What `choose` says of one puzzle; rollouts: (last, first sure, q, when sure) each."""
    last, first, q, when = (np.array(c) for c in zip(*rollouts))
    return int(
        evaluate.choose(
            selection, last[:, None, None], first[:, None, None], q[:, None], when[:, None]
        )[0, 0]
    )


def test_selection_by_hand():
    rollouts = [(5, 4, 1.0, 3), (6, 6, 2.0, 4), (5, 5, 0.5, 3), (7, 0, -1.0, INF)]
    assert pick("q", rollouts) == 6
    assert pick("first", rollouts) == 4  # as early as the third rollout, with a higher q
    assert pick("vote", rollouts) == 5
    assert pick("first", [(8, 0, -2.0, INF), (9, 0, -1.0, INF)]) == 9  # none was ever sure
    assert pick("vote", [(8, 0, -2.0, INF), (9, 0, -1.0, INF)]) == 9


@pytest.fixture(scope="module")
def task_and_model():
    config = dataclasses.replace(
        tinytrm.PRESETS["sudoku4"], seq_len=36, vocab_size=8, steps=40, eval_steps=3,
        dtype="float32",
    )
    inputs, labels = sudoku.generate(120, (2, 3), clues=26, seed=1)
    train_set = tinytrm.Puzzles(inputs[:80], labels[:80], augment=sudoku.augmenter((2, 3)))
    model = tinytrm.train(config, train_set)
    disguise = tasks.partial(sudoku.disguise, box=(2, 3))
    test = tinytrm.Puzzles(inputs[80:], labels[80:])
    return tasks.Task("sudoku", config, None, test, {}, disguise=disguise), model


def test_rollouts_against_a_direct_count(task_and_model):
    task, model = task_and_model
    table = evaluate.rollouts(task, model, 5, noise=0.2, batch_size=16)["rollouts"]
    assert set(table) == set(evaluate.SELECTIONS) and [*table["q"]] == [1, 2, 4, 5]
    plain = tinytrm.evaluate(model, task.test)
    assert table["q"][1] == table["vote"][1] == pytest.approx(plain["exact_accuracy"])
    again = evaluate.rollouts(task, model, 5, noise=0.2, batch_size=16)["rollouts"]
    assert again == table, "seeded"
    # The same by hand: copies only, the answer with the highest q.
    answers, qs = [], []
    for k in range(3):
        inputs, restore = task.test.inputs, lambda a: a
        if k:
            rows = np.arange(len(inputs))
            inputs, restore = task.disguise(inputs, tinytrm.random_rows(k, rows))
        solution = tinytrm.solve(model, inputs)
        answers.append(restore(solution.answers))
        qs.append(solution.q)
    best = np.argmax(qs, 0)
    right = [(answers[b][i] == task.test.labels[i]).all() for i, b in enumerate(best)]
    table = evaluate.rollouts(task, model, 3)["rollouts"]
    assert table["q"][3] == pytest.approx(np.mean(right))


def test_noise_is_used_and_copies_can_be_left_out(task_and_model):
    task, model = task_and_model
    x, ids = torch.from_numpy(task.test.inputs.astype(np.int64)), torch.zeros(40, dtype=torch.long)

    def q(noise):
        torch.manual_seed(0)
        return [*tinytrm.think(model, x, ids, noise=noise)][-1][1]

    assert torch.equal(q(0.0), q(0.0)) and not torch.allclose(q(0.0), q(0.3))
    same = evaluate.rollouts(task, model, 4, noise=0, copies=False)["rollouts"]
    assert len(set(same["q"].values())) == len(set(same["vote"].values())) == 1


def test_rollouts_the_whole_way(task_and_model, tmp_path):
    task, model = task_and_model
    sudoku.write_csv(tmp_path / "test.csv", task.test.inputs, task.test.labels, (2, 3))
    about = dict(kind="sudoku", data=str(tmp_path / "test.csv"), box=[2, 3])
    tinytrm.save(tmp_path / "model.pt", model, about=about)
    words = [tmp_path / "model.pt", "--data", tmp_path / "test.csv", "--device", "cpu"]
    flags = ["--rollouts", 3, "--noise", 0.1, "--steps", 2]
    stdout, _ = program("evaluate.py", *words, *flags, "--plot", tmp_path / "plot.png")
    assert "rollouts         1       2       3" in stdout and "40 puzzles" in stdout
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads(program("evaluate.py", *words, *flags, "--json")[0])
    assert set(result["rollouts"]) == {"q", "first", "vote"} and result["steps"] == 2
    assert "--rollouts K" in one_line("evaluate.py", *words, "--noise", 0.1)
    assert "at least 1" in one_line("evaluate.py", *words, "--rollouts", 0)
    no_copies = one_line("evaluate.py", *words, "--rollouts", 2, "--no-symmetry")
    assert "add --noise" in no_copies
    assert "--noise" in one_line("evaluate.py", *words, "--rollouts", 2, "--noise", "nan")


def test_compile_goes_on_without_a_compiler(tmp_path):
    words = ["--preset", "sudoku4", "--steps", 3, "--compile", "--device", "cpu", "--out", tmp_path]
    stdout, stderr = program(
        "train.py", *words, CXX="/nonexistent", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache")
    )
    assert "warning: --compile" in stderr and len(stderr.splitlines()) == 1
    assert "trained   3 steps" in stdout


def test_bench_reports_what_it_measured():
    stdout, _ = program(
        "train.py", "--preset", "sudoku4", "--bench", "--bench_seconds", 0.5, "--device", "cpu",
        CXX="/nonexistent", TORCHINDUCTOR_FORCE_DISABLE_CACHES="1",
    )  # fmt: skip
    peak = float(re.search(r"matmul +([\d,]+) GFLOP/s", stdout)[1].replace(",", ""))
    steps, rate, share = re.search(
        r"plain +([\d.]+) steps/s.* ([\d,]+) GFLOP/s, (\d+)% of matmul", stdout
    ).groups()
    counted = train.flops_per_step(tinytrm.PRESETS["sudoku4"]) * float(steps) / 1e9
    assert float(rate) == pytest.approx(counted, abs=1)
    assert float(share) == pytest.approx(100 * counted / peak, abs=2) and float(share) <= 100


@pytest.mark.slow
def test_compiled_is_the_same_mathematics_without_recompilation():
    """Losses of ten steps agree; one graph without gradient and one with, and no more."""
    from torch._dynamo.utils import counters

    config = dataclasses.replace(
        tinytrm.PRESETS["sudoku4"], steps=10, dtype="float32", batch_size=16
    )
    inputs, labels = sudoku.generate(12, (2, 2), seed=0)
    puzzles, losses, graphs = tinytrm.Puzzles(inputs, labels), [], []
    for compiled in (False, True):
        state, seen = tinytrm.State(config), []
        if compiled:
            assert train.compile_net(state.model)

        def on_step(state, metrics):
            seen.append(metrics[0].item())
            graphs.append(counters["stats"]["unique_graphs"])

        tinytrm.train(config, puzzles, state=state, on_step=on_step)
        losses.append(seen)
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert 0 < graphs[10] == graphs[-1] <= 2, "compiled in the first step and never again"
