"""What the README says can be typed, and prints what it says."""

import re
import shlex
import subprocess
import sys

import pytest

import evaluate
import train
from conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for _, block in BLOCKS
    for line in block.splitlines()
    if line.startswith(("python ", "torchrun ", "pytest", "pip "))
]
EXAMPLE = next(block for language, block in BLOCKS if language == "python")


def test_there_is_something_to_check():
    assert len(COMMANDS) >= 10 and "tinytrm.solve" in EXAMPLE


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" in c])
def test_training_commands_are_understood(command):
    words = shlex.split(command)
    train.parse_args(words[words.index("train.py") + 1 :])


@pytest.mark.parametrize("command", [c for c in COMMANDS if "evaluate.py" in c])
def test_evaluation_commands_are_understood(command):
    words = shlex.split(command)
    evaluate.parse_args(words[words.index("evaluate.py") + 1 :])


@pytest.mark.slow
def test_the_laptop_run_and_the_example(tmp_path):
    """`python train.py` in a copy without data, then everything the README does with its result."""
    (tmp_path / "data").mkdir()
    for name in (
        "tinytrm.py",
        "train.py",
        "evaluate.py",
        *(f"data/{p.name}" for p in (ROOT / "data").glob("*.py")),
    ):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())

    def run(*words):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=1500
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    share = float(re.search(r"held out +([\d.]+)%", run("train.py", "--device", "cpu"))[1])
    assert share >= 98
    for command in COMMANDS:
        if command.startswith("python evaluate.py runs/sudoku6"):
            assert run(*shlex.split(command)[1:])
    (tmp_path / "example.py").write_text(EXAMPLE)
    expected = re.findall(r"# (\d+)$", EXAMPLE, re.M)
    assert expected and run("example.py").split() == expected
