"""On a GPU, if there is one: the programs by their defaults, and the same mathematics. The other
tests do not see it (conftest.py). What these tests do themselves is tried on the CPU, too."""
import json
import shutil
import sys

import pytest
import torch

from conftest import GPUS, ROOT, run

CODE = """
import json, sys, torch, tinytrm
device, seen = sys.argv[1], []
torch.zeros(1, device=device)  # conftest hides the GPUs from those who have not looked
from conftest import tiny, toy_puzzles
for change in dict(), dict(mixer="attention"), dict(symbols=4, micro_batch=5):
    model = tinytrm.train(tiny(lr=1e-5, puzzle_lr=1e-5, **change), toy_puzzles(), device,
                          on_step=lambda s, m: seen.append(m["loss"].item()))
    seen += tinytrm.solve(model, toy_puzzles().inputs, toy_puzzles().ids, halt=True).q.tolist()
assert model.y_init.device.type == device
print(json.dumps(seen))
"""
NO_GPU = not (torch.version.cuda and shutil.which("nvidia-smi") and GPUS)
DEVICES = pytest.mark.parametrize("device", [
    pytest.param("cpu", marks=[pytest.mark.slow, pytest.mark.skipif(
        torch.backends.mps.is_available(), reason="MPS would be chosen")]),
    pytest.param("cuda", marks=pytest.mark.skipif(NO_GPU, reason="there is no GPU"))])


def seen(*command, device):
    """What a program prints that sees the GPUs, or none."""
    done = run([sys.executable, *command], CUDA_VISIBLE_DEVICES=GPUS if device == "cuda" else "")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@DEVICES
def test_a_gpu_computes_what_the_cpu_does(device):
    """Losses of training, and q of the trained: MLP mixer, attention, symbols."""
    figures = {name: json.loads(seen("-c", CODE, name, device=name)) for name in {"cpu", device}}
    assert len(figures["cpu"]) == 3 * (12 + 20)
    assert figures[device] == pytest.approx(figures["cpu"], abs=1e-3)


@DEVICES
@pytest.mark.slow
def test_programs_choose_the_device_by_themselves(device, tmp_path):
    """Train, resume, compile, evaluate there and on the CPU, bench."""
    out = tmp_path / "run"
    words = ["--preset", "sudoku4", "--out", out, "--eval_puzzles", 50, "--dtype", "float32"]
    program = lambda name, *more: seen(ROOT / name, *more, device=device)
    said = program("train.py", *words, "--steps", 40, "--save_every", 20)
    assert f"float32 on {device}" in said and "held out" in said
    again = [*words, "--steps", 60, "--resume", "--compile"]
    assert "resumed" in program("train.py", *again)
    here, there = (json.loads(program("evaluate.py", out, "--json", *more))
                   for more in ([], ["--device", "cpu"]))
    assert here["cell_accuracy"] == pytest.approx(there["cell_accuracy"], abs=0.01)
    assert "compiled" in program("train.py", "--preset", "sudoku4", "--bench")
