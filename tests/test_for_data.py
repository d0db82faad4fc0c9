"""Data of one's own: the settings chosen for it, the progress line, and what they rest on: slots
that halt by chance, positions by row and column, the answer the model is surest of."""
import dataclasses
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import ROOT, tiny, toy_puzzles
from tinytrm import Config, Puzzles, evaluate, solve, train
from tinytrm_beyond import for_data

LINES = """
import numpy as np
from tinytrm import Puzzles, train, solve
from tinytrm_beyond import for_data
random = np.random.default_rng(0)
x = random.integers(1, 5, (400, 6))
puzzles = Puzzles(x, x[:, ::-1])
model = train(for_data(puzzles, steps=12), puzzles)
answers = solve(model, x[:3]).answers
print(answers.shape)
"""


def test_for_data_takes_sizes_from_the_data():
    x = np.random.default_rng(0).integers(1, 6, (50, 12)).astype(np.uint8)
    y, ids = x + 4, np.arange(50) % 3
    config = for_data(Puzzles(x, y, ids))
    assert (config.vocab_size, config.seq_len, config.num_puzzle_ids) == (10, 12, 3)
    assert all(type(v) in (int, float, str, bool) for v in vars(config).values()), "for `save`"
    assert config.columns == 0 and config.keep == "surest" and config.steps < Config().steps / 4
    assert for_data(Puzzles(x, y, ids), dim=32, steps=7).dim == 32
    assert for_data(Puzzles(x, y)).steps < config.steps  # several rules take longer
    for steps, warmup in ((10_000, 1000), (500, 125), (3, 0)):  # then the rate falls
        assert for_data(Puzzles(x, y), steps=steps).warmup == warmup
    x, ids = np.ones((256, 12), np.uint8), np.arange(256, dtype=np.uint8)
    assert for_data(Puzzles(x, x, ids)).num_puzzle_ids == 256  # more than the type holds


@pytest.mark.parametrize("cells, columns", [(4, 2), (36, 6), (64, 8), (63, 0), (12, 0), (900, 30)])
def test_a_square_number_of_cells_is_taken_for_a_grid(cells, columns):
    x = np.ones((3, cells), int)
    config = for_data(Puzzles(x, x))
    assert config.columns == columns
    assert 32 <= config.batch_size <= 128 and config.batch_size * cells <= max(2048, 32 * cells)


@pytest.mark.parametrize("inputs, labels", [
    ([[3, 0, 2, 1]], [[1, 2, 3, 3]]),  # digits from 0
    ([[1, 2, 2, 1]], [[1, 0, 1, 1]]),  # a mask as the answer
    ([[1, 2, 2, 1], [2, 0, 0, 1]], [[1, 1, 1, 1], [1, 1, 1, 1]]),
])
def test_zero_as_a_value_is_refused(inputs, labels):
    with pytest.raises(ValueError, match="add 1 to all, or give vocab_size"):
        for_data(Puzzles(inputs, labels))
    assert for_data(Puzzles(inputs, labels), vocab_size=5).vocab_size == 5  # meant so


def test_padding_at_either_end_is_no_value():
    for_data(Puzzles([[1, 2, 0, 0], [0, 0, 0, 3]], [[0, 0, 1, 1], [0, 1, 1, 0]]))


def test_progress_is_a_line_every_100_steps(capsys):
    def said(**how):
        train(tiny(steps=201, n=1, T=1), toy_puzzles(), **how)
        return capsys.readouterr().out

    lines = said().splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 100", "step 200"]
    assert all("loss" in line and line.endswith("% right") for line in lines)
    assert said(on_step=None) == "" and said(on_step=lambda state, metrics: None) == ""


def test_halting_by_chance_gives_every_doubling_of_steps_the_same_share():
    model, random = tiny(halting="chance", N_sup=64).build(), torch.Generator().manual_seed(0)
    B, seen = 20_000, torch.zeros(65)
    steps, q = torch.zeros(B, dtype=torch.long), torch.zeros(B)
    for t in range(400):
        steps += 1
        if t >= 200:  # settled
            seen += torch.bincount(steps, minlength=65)
        halted = model.halts(q, steps, torch.rand(B, 2, generator=random), 0)
        assert halted[steps == 64].all()
        steps[halted] = 0
    shares = [seen[2**k:2**(k + 1)].sum() for k in range(6)]  # 1, 2-3, 4-7, ...
    exact = [sum(1 / s for s in range(2**k, 2**(k + 1))) for k in range(6)]
    assert (torch.tensor(shares) / sum(shares)).tolist() == pytest.approx(
        [e / sum(exact) for e in exact], abs=0.01)


def test_halting_by_chance_does_not_ask_q():
    model = tiny(halting="chance").build()
    steps, explore = torch.arange(1, 9), torch.rand(8, 2)
    a, b = (model.halts(torch.full((8,), q), steps, explore, 0) for q in (-9.0, 9.0))
    assert torch.equal(a, b)


def test_rotary_by_row_and_column_against_a_loop():
    config = tiny(mixer="attention", seq_len=12, columns=4, puzzle_tokens=2, dim=32, heads=2)
    h = torch.randn(3, 2, 14, 16)
    turned = config.build().layers[0].rotate(h)
    for p in range(14):
        row, column = divmod(p - 2, 4)
        for i in range(8):  # pairs (i, i + 8): four by the row, four by the column
            angle = (row if i < 4 else column) * 10000 ** (-2 * (i % 4) / 16)
            a, b = h[:, :, p, i], h[:, :, p, i + 8]
            torch.testing.assert_close(turned[:, :, p, i],
                                       a * math.cos(angle) - b * math.sin(angle))
            torch.testing.assert_close(turned[:, :, p, i + 8],
                                       b * math.cos(angle) + a * math.sin(angle))


def test_columns_need_heads_of_whole_pairs():
    with pytest.raises(ValueError, match="dim 12 must be a multiple of four times the 2 heads"):
        tiny(mixer="attention", columns=3, dim=12, heads=2)


def test_the_surest_answer_is_kept():
    config = tiny(steps=30, keep="last")
    model, puzzles = train(config, toy_puzzles(), on_step=None), toy_puzzles(40, seed=3)
    inputs = torch.from_numpy(puzzles.inputs).long()
    plain = [*model.think(inputs, torch.zeros(40, dtype=torch.long), 9)]
    model.config = dataclasses.replace(model.config, keep="surest")
    kept = [*model.think(inputs, torch.zeros(40, dtype=torch.long), 9)]
    q = torch.stack([t[1] for t in plain])
    assert (q.argmax(0) < 8).any(), "else nothing is tested"
    for s in range(9):
        best = q[:s + 1].argmax(0)
        assert torch.equal(kept[s][1], q[:s + 1].max(0).values)
        for i in range(40):
            assert torch.equal(kept[s][0][i], plain[best[i]][0][i])
    assert (solve(model, puzzles.inputs, steps=9).answers == kept[-1][0].numpy()).all()
    assert evaluate(model, puzzles, steps=9)["exact_accuracy"] == pytest.approx(
        (kept[-1][0].numpy() == puzzles.labels).all(1).mean())


def test_the_ten_lines_in_a_script_twice_and_spawned(tmp_path):
    shutil.copy(ROOT / "tinytrm.py", tmp_path)
    shutil.copytree(ROOT / "tinytrm_beyond", tmp_path / "tinytrm_beyond")
    (tmp_path / "once.py").write_text(LINES)
    (tmp_path / "spawned.py").write_text(
        "import multiprocessing, runpy\n"
        "if __name__ == '__main__':\n"
        "    runpy.run_path('once.py'); runpy.run_path('once.py')\n"
        "    p = multiprocessing.get_context('spawn').Process(target=runpy.run_path, "
        "args=('once.py',))\n"
        "    p.start(); p.join(); raise SystemExit(p.exitcode)\n")
    done = subprocess.run([sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '.'); "
                           "import runpy; runpy.run_path('spawned.py', run_name='__main__')"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(3, 6)") == 3 and done.stderr == ""
