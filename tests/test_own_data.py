"""docs/your_data.md: every block does what the page says, with a tiny model."""
import os
import re

import numpy as np
import pytest
import torch

import tinytrm
import tinytrm_beyond
from conftest import ROOT, TORCHRUN, run
from examples import tasks

OWN = (ROOT / "docs/your_data.md").read_text(encoding="utf-8")
SMALLER = """
import tinytrm_beyond
_for_data = tinytrm_beyond.for_data
tinytrm_beyond.for_data = lambda puzzles, **fields: _for_data(
    puzzles, **fields | dict(steps=3, batch_size=8, dim=16, heads=2, n=1, T=1, eval_steps=2,
                             dtype="float32"))
"""
*HERE, SEVERAL = [re.sub(r"% \d+ == 0", "% 2 == 0", block)
                  for block in re.findall(r"^```python\n(.*?)^```", OWN, re.M | re.S)]


@pytest.fixture
def smaller(tmp_path, monkeypatch):
    """`for_data` makes models of milliseconds, in an empty folder."""
    monkeypatch.setattr(tinytrm_beyond, "for_data", tinytrm_beyond.for_data)
    exec(SMALLER, {})
    monkeypatch.setattr(tasks, "ROWS", dict.fromkeys(tasks.TASKS, (60, 20)))
    monkeypatch.chdir(tmp_path)


def test_every_block_about_own_data_runs(smaller, capsys):
    names = {}
    for block in HERE:
        exec(block, names)
        printed = capsys.readouterr().out
        for expected in re.findall(r"print\(.*# (\[\[.*)", block):
            assert " ".join(printed.split()) == expected
        if "state.pt" in block:  # once more: from step 2, to the very same weights
            again = names | {"tinytrm": tinytrm}
            exec(block, again)
            weights = [dict(m.state_dict()) for m in (names["model"], again["model"])]
            assert again["start"] and names["start"] is None
            assert all((weights[0][k] == weights[1][k]).all() for k in weights[0])
            other = block.replace("for_data(puzzles)", "for_data(puzzles, seed=9)")
            with pytest.raises(AssertionError, match="of another training"):
                exec(other, names | {"tinytrm": tinytrm})
    assert sorted(os.listdir()) == ["flood.pt", "page.html", "state.pt"]
    assert names["solution"].answers.shape == names["y_new"].shape


def test_the_line_it_shows_is_the_line(smaller, capsys):
    puzzles = tinytrm.Puzzles([[1, 2]], [[2, 1]])
    state = tinytrm.State(tinytrm_beyond.for_data(puzzles))
    state.step = 100
    tinytrm.print_progress(state, dict(loss=0.5, exact_accuracy=torch.tensor(1),
                                       count=torch.tensor(2)))
    form = lambda text: re.sub(r"[\d.]+", "0", text.strip())
    assert form(capsys.readouterr().out) in map(form, OWN.splitlines())


def test_the_script_for_several_gpus(smaller, tmp_path):
    """On two processes of this CPU, beside one: the same model."""
    (tmp_path / "several.py").write_text(SMALLER + SEVERAL)
    done = run([*TORCHRUN, "--nproc_per_node=2", "several.py"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    x = np.random.default_rng(0).integers(1, 11, (5000, 12))
    puzzles = tinytrm.Puzzles(x, np.sort(x, axis=1))
    alone = tinytrm.train(tinytrm_beyond.for_data(puzzles), puzzles)
    for name, weight in tinytrm.load("sorted.pt").state_dict().items():
        torch.testing.assert_close(weight, alone.state_dict()[name], atol=1e-5, rtol=1e-4)
