"""What the README says can be typed, and prints what it says."""
import re
import shlex
import shutil
import sys

import pytest

import evaluate
import train
from conftest import ROOT, run

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
COMMANDS = [line.split("#")[0].strip() for _, block in BLOCKS for line in block.splitlines()
            if line.startswith(("python ", "torchrun ", "pytest", "pip "))]
EXAMPLE = next(block for language, block in BLOCKS if language == "python")


def words(command: str, program: str) -> list[str]:
    """The arguments of the program in a command."""
    parts = shlex.split(command)
    return parts[parts.index(program) + 1:]


def test_there_is_something_to_check():
    assert len(COMMANDS) >= 10 and "tinytrm.solve" in EXAMPLE


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" in c])
def test_training_commands_are_understood(command):
    train.parse_args(words(command, "train.py"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if "evaluate.py" in c])
def test_evaluation_commands_are_understood(command):
    evaluate.parse_args(words(command, "evaluate.py"))


def test_the_files_it_names_are_there():
    for name in re.findall(r"\]\(([^)#:]+)\)|`([\w/]+\.(?:py|md|ipynb))`", README):
        assert (ROOT / (name[0] or name[1])).exists(), name


@pytest.mark.slow
def test_the_laptop_run_and_the_example(tmp_path):
    """`python train.py` in a copy without data, then everything the README does with its result,
    from another working directory than the copy's."""
    copy, away = tmp_path / "copy", tmp_path / "away"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(
        ".git", "runs", "docs", "notebooks", "tests", "sudoku*-seed*", "maze*-seed*"))
    away.mkdir()

    def python(*arguments):
        done = run([sys.executable, *arguments], cwd=away, PYTHONPATH=str(copy))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    printed = python(copy / "train.py", "--device", "cpu")
    assert float(re.search(r"held out +([\d.]+)%", printed)[1]) >= 98
    for command in COMMANDS:
        if command.startswith("python evaluate.py runs/sudoku6"):
            assert python(copy / "evaluate.py", *words(command, "evaluate.py"))
    (away / "example.py").write_text(EXAMPLE)
    expected = re.findall(r"# (\d+)$", EXAMPLE, re.M)
    assert expected and python("example.py").split() == expected
