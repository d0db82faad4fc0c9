"""What the tests share. They run from a checkout: the repository root is where tinytrm.py lies."""
import contextlib
import dataclasses
import hashlib
import importlib
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

# A GPU is for test_cuda.py: many a program here runs on the best device there is, and is compared
# with the CPU's result.
GPUS = os.environ.setdefault("GPUS_FOR_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
torch.set_num_threads(min(2, torch.get_num_threads()))
# Under nohup, or behind an `&` of sh, these are ignored, and all programs started here would do so.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

from data import sudoku  # noqa: E402
from support.console import signals  # noqa: E402
from tinytrm import Config, Puzzles  # noqa: E402
from tinytrm_beyond import BeyondConfig  # noqa: E402

# ------------------------------------------------------------------------------------------------
# A model and puzzles that take milliseconds

TINY = Config(vocab_size=6, seq_len=9, num_puzzle_ids=3, puzzle_tokens=2, dim=16, heads=2,
              width_multiple=8, n=2, T=3, N_sup=4, eval_steps=4, batch_size=8, steps=12, lr=1e-3,
              warmup=2, weight_decay=0.1, puzzle_lr=1e-2, dtype="float32")


def tiny(**changes) -> Config:
    """TINY with changes; a BeyondConfig if one of them is a field that only that has."""
    if set(changes) <= set(vars(TINY)):
        return dataclasses.replace(TINY, **changes)
    return BeyondConfig(**dataclasses.asdict(TINY) | changes)


def toy_puzzles(count=20, cells=9, vocab=6, seed=0, ids=3) -> Puzzles:
    """Label = input, moved one cell on: learnable, but not by copying."""
    random = np.random.default_rng(seed)
    inputs = random.integers(1, vocab, (count, cells))
    return Puzzles(inputs, np.roll(inputs, 1, axis=1), random.integers(0, ids, count))


# ------------------------------------------------------------------------------------------------
# Programs

SMALL = ("--dim 16 --L_cycles 1 --H_cycles 2 --batch_size 16 --N_sup 3 --warmup 2 "
         "--eval_puzzles 20 --device cpu --dtype float32").split()
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def run(command, cwd=ROOT, **env) -> subprocess.CompletedProcess:
    """Run a command to its end."""
    return subprocess.run([*map(str, command)], cwd=cwd, env={**ENV, **env}, capture_output=True,
                          text=True, timeout=280)


def begin(command, **how) -> subprocess.Popen:
    """Start a command, to read and to disturb while it runs, for five minutes at most."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=ENV, **pipes, **how)
    timer = threading.Timer(300, process.kill)
    timer.daemon = True
    timer.start()
    return process


def torchrun(processes, *args, restarts=0) -> subprocess.CompletedProcess:
    return run([*TORCHRUN, f"--nproc_per_node={processes}", f"--max-restarts={restarts}", *args])


def process(name, *args, code=0, cwd=ROOT, **env) -> tuple[str, str]:
    """Run train.py or evaluate.py as a user does; returns (stdout, stderr)."""
    done = run([sys.executable, ROOT / name, *args], cwd, **env)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def program(name, *args, code=0) -> tuple[str, str]:
    """The same in this process, which has imported torch already: seconds faster."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signals.__init__()
    out, err = io.StringIO(), io.StringIO()
    main = importlib.import_module(name.removesuffix(".py")).main
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = main([*map(str, args)])
    except SystemExit as e:  # argparse
        ended = e.code
    finally:
        signals.__init__()  # what has ended it is not to end the next test
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (ended or 0) == code, f"exit {ended}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue(), err.getvalue()


def tree(folder) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            if p.is_file() else "" for p in sorted(Path(folder).rglob("*"))}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """A function (program, *args) -> the one line with which it refuses, having changed nothing:
    exit code 2, no traceback, no file touched in the folder it runs in or beside it."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def line(name, *args) -> str:
        files = tree(tmp_path)
        _, err = program(name, *args, code=2)
        assert err.startswith("error: ") and err.count("\n") == 1, (err, args)
        assert tree(tmp_path) == files, f"files changed by {args}"
        return err.strip()

    return line


@pytest.fixture(scope="session")
def csv_folder(tmp_path_factory):
    """60 + 20 generated 6x6 puzzles, as a user would bring them."""
    folder = tmp_path_factory.mktemp("puzzles")
    inputs, labels = sudoku.generate(80, (2, 3), seed=3)
    sudoku.write_csv(folder / "train.csv", inputs[:60], labels[:60], (2, 3))
    sudoku.write_csv(folder / "test.csv", inputs[60:], labels[60:], (2, 3))
    return folder


@pytest.fixture(scope="session")
def trained(csv_folder, tmp_path_factory):
    """A finished run of 25 steps, and what training it printed."""
    out = tmp_path_factory.mktemp("run") / "first"
    words = ["--data", csv_folder, "--out", out, "--steps", 25, "--save_every", 10]
    return out, program("train.py", *words, *SMALL)[0]
