"""Several processes compute what one does, and no crash costs a step (gloo, CPU, small models)."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import tinytrm
import train
from conftest import ROOT
from test_tinytrm import tiny, toy_puzzles
from test_train import SMALL, csv_folder  # noqa: F401 (a fixture)
from tinytrm import State

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def torchrun(processes, *args, **kw):
    command = [*TORCHRUN, f"--nproc_per_node={processes}", *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=280, **kw
    )


# ------------------------------------------------------------------------------------------------
# The same mathematics


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return worker(1, tmp_path_factory.mktemp("one") / "result.pt")


def worker(processes, out, **changes):
    """20 steps in so many processes. The learning rates are small, since AdamW's first steps are as
    large for tiny gradients as for large ones, and this recursion amplifies what differs."""
    settings = dict(steps=20, batch_size=8, dim=32, n=1, T=2, warmup=0, ema=0.0)
    settings.update(lr=1e-5, puzzle_lr=1e-5, **changes)
    done = torchrun(processes, ROOT / "tests/dist_worker.py", out, json.dumps(settings))
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    "processes, changes", [(2, {}), (4, {}), (2, {"micro_batch": 3}), (1, {"micro_batch": 3})]
)
def test_processes_compute_the_same(processes, changes, alone, tmp_path):
    other = worker(processes, tmp_path / "result.pt", **changes)
    assert len(alone["losses"]) == 20 and other["losses"] == pytest.approx(
        alone["losses"], rel=1e-5
    )
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(other["weights"][name], tensor, atol=2e-5, rtol=0, msg=name)
    # 23 puzzles over 4 processes: each counted once
    assert other["result"]["puzzles"] == 23
    assert other["result"]["cell_accuracy"] == pytest.approx(
        alone["result"]["cell_accuracy"], abs=1e-6
    )


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are read from /proc")
def test_no_thread_of_gloo_outlives_its_group():
    """One that does aborts the interpreter, now and then, when it ends: SIGABRT after all is well.
    The optimizer's first step imports torch modules that keep the group, if it exists by then."""
    code = """
import os, tinytrm, torch, torch.distributed as dist
from test_tinytrm import tiny, toy_puzzles
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dist.all_reduce(torch.zeros(1))
tinytrm.train(tiny(steps=2), toy_puzzles())
names = lambda: [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
assert any("gloo" in n for n in names()), names()
dist.destroy_process_group()
assert not any("gloo" in n for n in names()), names()
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_moved_further_than_the_tolerance(alone):
    start = tinytrm.TRM(tiny(dim=32)).state_dict()
    moved = [
        (alone["weights"][k] - start[k]).abs().max().item()
        for k in ("layers.0.mix_in", "puzzle_table")
    ]
    assert min(moved) > 1.5e-4 / 2, moved


def test_batch_must_divide():
    done = torchrun(3, ROOT / "tests/dist_worker.py", "/dev/null", json.dumps(dict(batch_size=8)))
    assert done.returncode and "must be a multiple of 3 processes" in done.stderr


# ------------------------------------------------------------------------------------------------
# Checkpoints


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints of a run, and the state at the later one."""
    config = tiny(steps=8)
    state = State(config)

    def keep(state, metrics):
        if state.step in (4, 8):
            train.write_checkpoint(tmp_path, state)

    tinytrm.train(config, toy_puzzles(), state=state, on_step=keep)
    return tmp_path, state


def test_a_checkpoint_holds_everything(saved):
    folder, state = saved
    again = State(state.model.config)
    assert train.read_checkpoint(train.checkpoints(folder)[-1], again) == ""
    assert again.step == 8
    for a, b in ((state.model, again.model), (state.ema, again.ema)):
        assert all(
            torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values())
        )
    assert all(
        torch.equal(a, b) for a, b in zip(vars(state.carry).values(), vars(again.carry).values())
    )
    assert again.ema.puzzle_table is again.model.puzzle_table
    old, new = (s.optimizer.state_dict()["state"] for s in (state, again))
    assert all(torch.equal(old[i][k], new[i][k]) for i in old for k in old[i])


def test_resumed_training_is_bit_identical(tmp_path):
    config, puzzles = tiny(steps=13), toy_puzzles()
    whole = State(config)
    tinytrm.train(config, puzzles, state=whole)
    first = State(config)
    tinytrm.train(tiny(steps=7), puzzles, state=first)
    first.model.config = first.ema.config = config
    train.write_checkpoint(tmp_path, first)
    second = State(config)
    train.read_checkpoint(train.checkpoints(tmp_path)[0], second)
    tinytrm.train(config, puzzles, state=second)
    for a, b in zip(whole.ema.state_dict().values(), second.ema.state_dict().values()):
        assert torch.equal(a, b)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: flip_bit(f / "model.pt"),
        lambda f: flip_bit(f / "state.pt"),
        lambda f: flip_bit(f / "carry-0.pt"),
        lambda f: os.truncate(f / "state.pt", 1000),
        lambda f: (f / "carry-0.pt").unlink(),
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "manifest.json").write_text("{"),
        lambda f: (f / "manifest.json").write_text('{"files": {}}'),
    ],
    ids=[
        "bit in model",
        "bit in state",
        "bit in carry",
        "truncated",
        "no carry",
        "no manifest",
        "torn manifest",
        "empty manifest",
    ],
)
def test_damaged_checkpoints_are_refused_and_the_one_before_is_offered(saved, damage):
    folder, _ = saved
    good, bad = train.checkpoints(folder)
    damage(bad)
    fresh = State(tiny(steps=8))
    before = [t.clone() for t in fresh.model.state_dict().values()]
    with pytest.raises(ValueError, match="not a usable checkpoint") as e:
        train.read_checkpoint(bad, fresh)
    assert str(good) in str(e.value) and "\n" not in str(e.value)
    assert all(torch.equal(a, b) for a, b in zip(before, fresh.model.state_dict().values())), (
        "half read"
    )
    assert train.read_checkpoint(good, fresh) == "" and fresh.step == 4


def test_checkpoint_of_another_config_is_refused(saved):
    folder, _ = saved
    with pytest.raises(ValueError, match="another config .*lr 0.001 -> 0.5"):
        train.read_checkpoint(train.checkpoints(folder)[-1], State(tiny(steps=8, lr=0.5)))


def test_two_checkpoints_are_kept_and_a_failed_one_leaves_no_trace(saved, monkeypatch):
    folder, state = saved
    state.step = 12
    train.write_checkpoint(folder, state)
    assert [c.name for c in train.checkpoints(folder)] == [
        "checkpoint-00000008",
        "checkpoint-00000012",
    ]

    def full_disk(path, content):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "write_synced", full_disk)
    state.step = 16
    with pytest.raises(OSError, match="No space left on device; older checkpoints are untouched"):
        train.write_checkpoint(folder, state)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint-00000008",
        "checkpoint-00000012",
    ]
    train.read_checkpoint(train.checkpoints(folder)[-1], State(tiny(steps=8)))


def test_weights_that_are_not_finite_are_not_saved(saved):
    folder, state = saved
    state.step = 12
    with torch.no_grad():
        state.model.output_head[0, 0] = float("inf")
    with pytest.raises(ValueError, match="not finite at step 12.*checkpoint-00000008"):
        train.write_checkpoint(folder, state)
    assert [c.name[-1] for c in train.checkpoints(folder)] == ["4", "8"]


# ------------------------------------------------------------------------------------------------
# Killing whole programs


def flags(folder, out, steps):
    return [
        "--data",
        str(folder),
        "--out",
        str(out),
        "--steps",
        str(steps),
        "--save_every",
        "10",
        "--log_seconds",
        "0.01",
        *SMALL,
    ]


def program(processes, folder, out, steps, *more):
    """The command that trains in so many processes, plain python for one."""
    start = [sys.executable] if processes == 1 else [*TORCHRUN, f"--nproc_per_node={processes}"]
    return [*start, str(ROOT / "train.py"), *flags(folder, out, steps), *more]


def begin(command):
    """Start a program, to read and to disturb while it runs."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, cwd=ROOT, env=ENV, **pipes)


def finish(command):
    done = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def uninterrupted(csv_folder, tmp_path_factory):  # noqa: F811
    """A function (processes, steps) -> final weights."""

    @functools.cache
    def weights(processes, steps):
        out = tmp_path_factory.mktemp(f"whole{processes}")
        finish(program(processes, csv_folder, out, steps))
        return tinytrm.load(out).state_dict()

    return weights


def kill_all(p):
    """kill -9 the process and what it has started; torchrun first, so that it cannot react."""
    children = subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True)
    for pid in [p.pid, *map(int, children.stdout.split())]:
        os.kill(pid, signal.SIGKILL)


def kill_and_resume(processes, steps, kills, folder, out, rng):
    """Start, `kill -9` all processes at a random moment, resume, ... until it is through."""
    killed = 0
    while True:
        more = ["--resume"] if train.checkpoints(out) else []
        log = open(out.parent / "log.txt", "w+")
        p = subprocess.Popen(
            program(processes, folder, out, steps, *more), cwd=ROOT, env=ENV, stdout=log, stderr=log
        )
        while killed < kills and p.poll() is None:
            if "\nstep " in (out.parent / "log.txt").read_text():  # now there is something to lose
                time.sleep(rng.uniform(0, 0.1))
                if p.poll() is None:
                    kill_all(p)
                    killed += 1
                break
            time.sleep(0.02)
        if p.wait(timeout=280) == 0:
            return killed
        assert p.returncode == -signal.SIGKILL, (out.parent / "log.txt").read_text()


@pytest.mark.parametrize(
    "processes, steps, kills",
    [
        (1, 400, 2),
        pytest.param(1, 2000, 20, marks=pytest.mark.slow),
        pytest.param(2, 2000, 20, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_and_resumed_is_bit_identical(
    processes, steps, kills, csv_folder, uninterrupted, tmp_path  # noqa: F811
):
    out = tmp_path / "run"
    out.mkdir()
    killed = kill_and_resume(processes, steps, kills, csv_folder, out, random.Random(kills))
    assert killed == kills, "the run ended before it could be killed so often"
    weights = tinytrm.load(out).state_dict()
    for name, tensor in uninterrupted(processes, steps).items():
        assert torch.equal(tensor, weights[name]), name
    logged = [
        int(line.split(",")[0]) for line in (out / "metrics.csv").read_text().splitlines()[1:]
    ]
    assert logged == sorted(set(logged)) and logged[-1] == steps, "metrics.csv has rows twice"


def test_sigterm_leaves_soon_with_a_checkpoint(csv_folder, uninterrupted, tmp_path):  # noqa: F811
    p = begin(program(1, csv_folder, tmp_path, 400, "--save_every", "100000"))
    for line in p.stdout:
        if line.startswith("step"):
            break
    begun = time.time()
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=60)
    assert time.time() - begun < 10 and p.returncode == 128 + signal.SIGTERM
    assert err.startswith("stopped at step ") and "--resume" in err
    done = torchrun(1, ROOT / "train.py", *flags(csv_folder, tmp_path, 400), "--resume")
    assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
    weights = tinytrm.load(tmp_path).state_dict()
    assert all(torch.equal(t, weights[k]) for k, t in uninterrupted(1, 400).items())


@pytest.mark.parametrize("when", ["between", "at the end"])
def test_sigterm_ends_an_evaluation(when, csv_folder, tmp_path):  # noqa: F811
    long = ["--eval_steps", "1000000", "--eval_every", "20" if when == "between" else "0"]
    p = begin(program(1, csv_folder, tmp_path, 40, *long))
    begun = time.time()
    if when == "between":
        log = tmp_path / "metrics.csv"
        while not (log.exists() and "\n10," in log.read_text()):
            assert time.time() - begun < 60 and p.poll() is None
            time.sleep(0.05)
        time.sleep(3)  # ten more steps of a few milliseconds each
    else:
        assert any(line.startswith("trained") for line in p.stdout)
    begun = time.time()
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=60)
    assert time.time() - begun < 10 and p.returncode == 128 + signal.SIGTERM, err
    step, message = (20, "stopped at step 20") if when == "between" else (40, "while evaluating")
    assert message in err and train.checkpoints(tmp_path)[-1].name.endswith(f"{step:08}")
    done = torchrun(1, ROOT / "train.py", *flags(csv_folder, tmp_path, 40), "--resume")
    assert done.returncode == 0 and f"step {step}" in done.stdout, done.stderr


def test_resume_with_another_number_of_processes(csv_folder, tmp_path):  # noqa: F811
    first = torchrun(1, ROOT / "train.py", *flags(csv_folder, tmp_path, 20))
    assert first.returncode == 0, first.stderr
    done = torchrun(2, ROOT / "train.py", *flags(csv_folder, tmp_path, 40), "--resume")
    assert done.returncode == 0 and "start anew" in done.stdout, done.stderr
    assert tinytrm.load(tmp_path).config.steps == 40


@pytest.mark.slow
def test_torchrun_restarts_killed_workers(csv_folder, tmp_path):  # noqa: F811
    four = [*TORCHRUN, "--nproc_per_node=4", "--max-restarts=3"]
    p = begin([*four, str(ROOT / "train.py"), *flags(csv_folder, tmp_path, 1500)])
    kills, rng = 0, random.Random(0)
    while p.poll() is None and kills < 3:
        time.sleep(rng.uniform(4, 12))
        workers = subprocess.run(
            ["pgrep", "-P", str(p.pid)], capture_output=True, text=True
        ).stdout.split()
        if workers and train.checkpoints(tmp_path):
            os.kill(int(rng.choice(workers)), signal.SIGKILL)
            kills += 1
    out, err = p.communicate(timeout=280)
    assert p.returncode == 0 and kills > 0, f"{kills} kills\n{out}\n{err}"
    assert "resumed" in out and tinytrm.load(tmp_path).config.steps == 1500


def test_leaving_under_torchrun_says_all_and_skips_the_exit_handlers():
    code = """
import atexit, evaluate, sys
atexit.register(print, "late")
print("said", end="")
evaluate.leave(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**ENV, "TORCHELASTIC_RUN_ID": "x"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "said", "")
