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

import dist_worker
import tinytrm
from conftest import ENV, ROOT, SMALL, TORCHRUN, begin, program, run, tiny, torchrun, toy_puzzles
from support import checkpoints as ck
from support.checkpoints import load_model, read_checkpoint, write_checkpoint
from support.folders import checkpoints
from tinytrm import State

# ------------------------------------------------------------------------------------------------
# The same mathematics


# The learning rates are small, since AdamW's first steps are as large for tiny gradients as for
# large ones, and this recursion amplifies what differs.
SETTINGS = dict(steps=20, batch_size=8, dim=32, n=1, T=2, warmup=0, ema=0.0, lr=1e-5,
                puzzle_lr=1e-5)


@pytest.fixture(scope="module")
def alone():
    return dist_worker.work(SETTINGS)


def worker(processes, out, **changes):
    """20 steps in so many processes."""
    if processes == 1:
        return dist_worker.work(SETTINGS | changes)
    settings = json.dumps(SETTINGS | changes)
    done = torchrun(processes, ROOT / "tests/dist_worker.py", out, settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr  # nor any of torch's, which users would see
    return torch.load(out, weights_only=True)


slow = pytest.mark.slow


@pytest.mark.parametrize("processes, changes", [
    (2, {}), *(pytest.param(n, changes, marks=slow) for n, changes in (
        (4, {}), (2, {"micro_batch": 3}), (1, {"micro_batch": 3})))])
def test_processes_compute_the_same(processes, changes, alone, tmp_path):
    other = worker(processes, tmp_path / "result.pt", **changes)
    assert len(alone["losses"]) == 20
    assert other["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(other["weights"][name], tensor, atol=2e-5, rtol=0, msg=name)
    # 23 puzzles over 4 processes: each counted once
    assert other["result"].pop("by_step") == pytest.approx(alone["result"]["by_step"], abs=1e-6)
    assert other["result"] == {k: pytest.approx(v, abs=1e-6) for k, v in alone["result"].items()
                               if k != "by_step"}
    assert other["result"]["puzzles"] == 23
    for these, those in zip(other["thoughts"], alone["thoughts"]):
        assert these["puzzles"] == those["puzzles"] == 19
        assert these.get("mean_rollouts") == pytest.approx(those.get("mean_rollouts"))
        for name, shares in those["rollouts"].items():
            assert these["rollouts"][name] == {k: pytest.approx(v) for k, v in shares.items()}
            assert 0 < shares[1] < 1, "else this says nothing"


ASKING = """
import sys, torch.distributed as dist
from support.processes import from_rank_0, rank_0_first
dist.init_process_group("gloo")
def fails(path):
    if dist.get_rank() == 0:
        raise FileNotFoundError(2, "none there", path)
    return "found"
for way in from_rank_0, rank_0_first:
    try:
        way(fails, "x")
    except OSError as e:
        sys.stdout.write(f"{dist.get_rank()} {way.__name__} {e}\\n")  # at once: two write here
assert from_rank_0(dist.get_rank) == 0 and rank_0_first(dist.get_rank) == dist.get_rank()
dist.destroy_process_group()
"""


@slow
def test_an_error_in_process_0_is_everybodys(tmp_path):
    """With gloo the others see that it has gone. With NCCL they would wait to be killed."""
    (tmp_path / "asking.py").write_text(ASKING)
    done = torchrun(2, tmp_path / "asking.py")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"{rank} {way} [Errno 2] none there: 'x'" for rank in (0, 1)
        for way in ("from_rank_0", "rank_0_first")]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are read from /proc")
def test_no_thread_of_gloo_outlives_its_group():
    """One that does aborts the interpreter, now and then, when it ends: SIGABRT after all is well.
    The optimizer's first step imports torch modules that keep the group, if it exists by then."""
    code = """
import os, time, tinytrm, torch, torch.distributed as dist
import torch.distributed.nn  # as support.processes does before the processes meet
from conftest import tiny, toy_puzzles
threads = lambda: set(os.listdir("/proc/self/task"))
before = threads()
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dist.all_reduce(torch.zeros(1))
gloos = threads() - before
assert gloos
tinytrm.train(tiny(steps=2), toy_puzzles())
dist.destroy_process_group()
end = time.time() + 20
while gloos & threads() and time.time() < end:  # the system may take its time to list them no more
    time.sleep(0.05)
assert not gloos & threads()
"""
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr


def test_weights_moved_further_than_the_tolerance(alone):
    start = tinytrm.TRM(tiny(dim=32)).state_dict()
    moved = [(alone["weights"][k] - start[k]).abs().max().item()
             for k in ("layers.0.mix_in", "puzzle_table")]
    assert min(moved) > 1.5e-4 / 2, moved


# ------------------------------------------------------------------------------------------------
# Checkpoints


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints of a run, and the state at the later one."""
    config = tiny(steps=8)
    state = State(config)

    def keep(state, metrics):
        if state.step in (4, 8):
            write_checkpoint(tmp_path, state, about=ABOUT)

    tinytrm.train(config, toy_puzzles(), state=state, on_step=keep)
    return tmp_path, state


ABOUT = dict(kind="toy", sha256="x", split=None, augmented=False, data="here")


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


def test_a_checkpoint_holds_everything(saved):
    folder, state = saved
    again = State(state.model.config)
    assert read_checkpoint(checkpoints(folder)[-1], again, ABOUT) == ""
    assert again.step == 8
    for a, b in ((state.model, again.model), (state.ema, again.ema)):
        assert same(a.state_dict().values(), b.state_dict().values())
    assert same(vars(state.slots).values(), vars(again.slots).values())
    assert again.ema.puzzle_table is again.model.puzzle_table
    old, new = (s.optimizer.state_dict()["state"] for s in (state, again))
    assert all(torch.equal(old[i][k], new[i][k]) for i in old for k in old[i])


def test_resumed_training_is_bit_identical(tmp_path):
    config, puzzles = tiny(steps=13), toy_puzzles()
    whole = State(config)
    tinytrm.train(config, puzzles, state=whole)
    first = State(tiny(steps=7))
    tinytrm.train(tiny(steps=7), puzzles, state=first)
    write_checkpoint(tmp_path, first)
    second = State(config)
    read_checkpoint(checkpoints(tmp_path)[0], second)
    tinytrm.train(config, puzzles, state=second)
    assert same(whole.ema.state_dict().values(), second.ema.state_dict().values())


def test_a_run_goes_on_in_the_dtype_of_the_new_machine(tmp_path, monkeypatch):
    """dtype "auto": the carry kept that of the old one, and with it all that was computed."""
    config = tiny(steps=4, dtype="auto")
    monkeypatch.setattr(tinytrm, "compute_dtype", lambda *_: torch.float32)
    state = State(config)
    tinytrm.train(config, toy_puzzles(), state=state)
    write_checkpoint(tmp_path, state)
    monkeypatch.setattr(tinytrm, "compute_dtype", lambda *_: torch.bfloat16)
    again = State(config)
    read_checkpoint(checkpoints(tmp_path)[0], again)
    assert again.slots.y.dtype == again.slots.z.dtype == torch.bfloat16
    assert same([state.slots.y.bfloat16(), state.slots.halted, state.slots.inputs],
                [again.slots.y, again.slots.halted, again.slots.inputs])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def resealed(folder, **changes):
    """A manifest that fits the files, whatever is in them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {p.name: ck.sha256(p) for p in folder.glob("*.pt")}
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def wrong_content(folder):
    torch.save(dict(weights={}, step=8), folder / "state.pt")
    resealed(folder)


@pytest.mark.parametrize("damage", [
    lambda f: flip_bit(f / "model.pt"), lambda f: flip_bit(f / "state.pt"),
    lambda f: flip_bit(f / "carry-0.pt"), lambda f: os.truncate(f / "state.pt", 1000),
    lambda f: (f / "carry-0.pt").unlink(), lambda f: (f / "manifest.json").unlink(),
    lambda f: (f / "manifest.json").write_text("{"),
    lambda f: (f / "manifest.json").write_text('{"files": {}}'),
    lambda f: (f / "manifest.json").write_text("[" * 100_000), lambda f: resealed(f, world="two"),
    wrong_content,
], ids=["bit in model", "bit in state", "bit in carry", "truncated", "no carry", "no manifest",
        "torn manifest", "empty manifest", "deep manifest", "wrong world", "wrong content"])
def test_damaged_checkpoints_are_refused_and_the_one_before_is_offered(saved, damage):
    folder, _ = saved
    good, bad = checkpoints(folder)
    damage(bad)
    fresh = State(tiny(steps=8))
    before = [t.clone() for t in fresh.model.state_dict().values()]
    with pytest.raises(ValueError, match="not a usable checkpoint") as e:
        read_checkpoint(bad, fresh)
    assert str(good) in str(e.value) and "\n" not in str(e.value)
    assert same(before, fresh.model.state_dict().values()), "half read"
    assert read_checkpoint(good, fresh) == "" and fresh.step == 4


def test_checkpoints_of_other_runs_are_refused(saved):
    last = checkpoints(saved[0])[-1]
    with pytest.raises(ValueError, match="another config .*weight_decay 0.1 -> 0.5"):
        read_checkpoint(last, State(tiny(steps=8, weight_decay=0.5, lr=0.5)))
    with pytest.raises(ValueError, match="trained on other puzzles"):
        read_checkpoint(last, State(tiny(steps=8)), ABOUT | dict(sha256="y"))
    with pytest.raises(ValueError, match="trained on other puzzles"):  # 0 is a seed, None no split
        read_checkpoint(last, State(tiny(steps=8)), ABOUT | dict(split=0))
    assert read_checkpoint(last, State(tiny(steps=8)), ABOUT | dict(hints=0.0)) == ""
    assert read_checkpoint(last, State(tiny(steps=9, lr=0.5))) == ", lr 0.001 -> 0.5"
    with pytest.raises(ValueError, match="is at step 8, beyond --steps 7"):
        read_checkpoint(last, State(tiny(steps=7)))


@pytest.mark.parametrize("where", ["write_synced", "sha256"])
def test_two_checkpoints_are_kept_and_a_failed_one_leaves_no_trace(where, saved, monkeypatch):
    """Whether a file cannot be written, or the whole not be published."""
    folder, state = saved
    state.step = 12
    write_checkpoint(folder, state)
    names = ["checkpoint-00000008", "checkpoint-00000012"]
    assert [c.name for c in checkpoints(folder)] == names

    def full_disk(path, content=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ck, where, full_disk)
    state.step = 16
    with pytest.raises(OSError, match="No space left on device; older checkpoints are untouched"):
        write_checkpoint(folder, state)
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == names
    read_checkpoint(checkpoints(folder)[-1], State(tiny(steps=12)))


@pytest.mark.parametrize("last, kept", [(1, [12]), (2, [8, 12]), (3, [4, 8, 12]), (9, [4, 8, 12])])
def test_so_many_checkpoints_are_kept(last, kept, saved):
    folder, state = saved
    state.step = 12
    write_checkpoint(folder, state, last)
    assert [int(c.name[-8:]) for c in checkpoints(folder)] == kept


def test_save_last_is_for_the_whole_run(csv_folder, tmp_path):
    """How far one can go back."""
    out = tmp_path / "run"
    words = ["--data", csv_folder, "--out", out, "--save_every", 10, *SMALL]
    program("train.py", *words, "--steps", 40, "--save_last", 3)
    assert [int(c.name[-8:]) for c in checkpoints(out)] == [20, 30, 40]
    back = out / "checkpoint-00000020"
    program("train.py", *words, "--steps", 30, "--overwrite", "--resume", back)
    assert [int(c.name[-8:]) for c in checkpoints(out)] == [20, 30]


@pytest.mark.parametrize("which", ["model", "ema"])
def test_weights_that_are_not_finite_are_not_saved(which, saved):
    folder, state = saved
    state.step = 12
    with torch.no_grad():
        getattr(state, which).output_weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="not finite at step 12.*checkpoint-00000008"):
        write_checkpoint(folder, state)
    assert [c.name[-1] for c in checkpoints(folder)] == ["4", "8"]


# ------------------------------------------------------------------------------------------------
# Killing whole programs


def flags(folder, out, steps):
    return ["--data", folder, "--out", out, "--steps", steps, "--save_every", 10,
            "--log_seconds", 0.01, *SMALL]


def command(processes, folder, out, steps, *more):
    """The command that trains in so many processes, plain python for one."""
    start = [sys.executable] if processes == 1 else [*TORCHRUN, f"--nproc_per_node={processes}"]
    return [*start, ROOT / "train.py", *flags(folder, out, steps), *more]


@pytest.fixture(scope="module")
def uninterrupted(csv_folder, tmp_path_factory):
    """A function (processes, steps) -> final weights."""

    @functools.cache
    def weights(processes, steps):
        out = tmp_path_factory.mktemp(f"whole{processes}") / "run"
        done = run(command(processes, csv_folder, out, steps))
        assert done.returncode == 0, done.stdout + done.stderr
        return load_model(out).state_dict()

    return weights


def children(p):
    """The processes that this one has started."""
    found = subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True)
    return [*map(int, found.stdout.split())]


def kill_all(p):
    """kill -9 the process and what it has started; torchrun first, so that it cannot react."""
    for pid in [p.pid, *children(p)]:
        os.kill(pid, signal.SIGKILL)


def kill_and_resume(processes, steps, kills, folder, out, rng):
    """Start, `kill -9` all processes at a random moment, resume, ... until it is through."""
    killed, log_path = 0, out.parent / "log.txt"
    while True:
        more = ["--resume"] if checkpoints(out) else ["--overwrite"]
        with open(log_path, "w+") as log:
            words = [*map(str, command(processes, folder, out, steps, *more))]
            p = subprocess.Popen(words, cwd=ROOT, env=ENV, stdout=log, stderr=log)
        while killed < kills and p.poll() is None:
            if "\nstep " in log_path.read_text():  # now there is something to lose
                time.sleep(rng.uniform(0, 0.1))
                if p.poll() is None:
                    kill_all(p)
                    killed += 1
                break
            time.sleep(0.02)
        if p.wait(timeout=280) == 0:
            return killed
        assert p.returncode == -signal.SIGKILL, log_path.read_text()


@pytest.mark.parametrize("processes, steps, kills", [
    (1, 200, 1), pytest.param(1, 2000, 20, marks=slow), pytest.param(2, 600, 5, marks=slow)])
def test_killed_at_random_and_resumed_is_bit_identical(processes, steps, kills, csv_folder,
                                                       uninterrupted, tmp_path):
    out = tmp_path / "run"
    killed = kill_and_resume(processes, steps, kills, csv_folder, out, random.Random(kills))
    assert killed == kills, "the run ended before it could be killed so often"
    weights = load_model(out).state_dict()
    for name, tensor in uninterrupted(processes, steps).items():
        assert torch.equal(tensor, weights[name]), name
    rows = (out / "metrics.csv").read_text().splitlines()[1:]
    logged = [int(row.split(",")[0]) for row in rows]
    assert logged == sorted(set(logged)) and logged[-1] == steps, "metrics.csv has rows twice"


@pytest.mark.parametrize("number", [
    *(pytest.param(n, marks=slow) for n in (signal.SIGTERM, signal.SIGINT)),
    signal.SIGPIPE], ids=lambda n: n.name)
def test_whatever_ends_training_leaves_a_checkpoint(number, csv_folder, tmp_path):
    """Ctrl-C, a kill, a closed terminal, a pipe that nobody reads (`| head -1`)."""
    out = tmp_path / "run"
    p = begin(command(1, csv_folder, out, 100_000, "--save_every", 100_000))
    assert any(line.startswith("step") for line in p.stdout)
    begun = time.time()
    if number == signal.SIGPIPE:
        p.stdout.close()
    else:
        p.send_signal(number)
    err = p.stderr.read()
    assert p.wait(timeout=120) == 128 + number and time.time() - begun < 60
    assert err.startswith("stopped at step ") and "--resume" in err and err.count("\n") == 1
    step = int(checkpoints(out)[-1].name[-8:])
    assert f"{step:,}" in err and step > 0


@slow
def test_stopped_and_resumed_is_bit_identical(csv_folder, uninterrupted, tmp_path):
    out = tmp_path / "run"
    p = begin(command(1, csv_folder, out, 400, "--save_every", 100_000))
    assert any(line.startswith("step") for line in p.stdout)
    p.send_signal(signal.SIGTERM)
    p.communicate(timeout=60)
    done = torchrun(1, ROOT / "train.py", *flags(csv_folder, out, 400), "--resume")
    assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
    assert same(uninterrupted(1, 400).values(), load_model(out).state_dict().values())


@slow
@pytest.mark.parametrize("how", ["a scheduler", "Ctrl-C"])
def test_two_processes_stopped_and_resumed_are_bit_identical(how, csv_folder, uninterrupted,
                                                             tmp_path):
    """Ctrl-C reaches torchrun alone (its processes have sessions of their own), and it tells them.
    A scheduler may tell all three, and those that still run hear it from torchrun again. Both end
    after the same step, and nothing is lost."""
    out = tmp_path / "run"
    words = command(2, csv_folder, out, 400, "--save_every", 100_000)
    with begin(words, start_new_session=True) as p:
        assert any(line.startswith("step") for line in p.stdout)
        if how == "Ctrl-C":
            os.killpg(p.pid, signal.SIGINT)
        else:
            for pid in [*children(p), p.pid]:
                os.kill(pid, signal.SIGTERM)
        _, err = p.communicate(timeout=120)
    assert p.returncode and "forcefully" not in err, err  # what torchrun says of a kill, after 30 s
    step = int(checkpoints(out)[-1].name[-8:])
    assert 0 < step < 400 and err.count("stopped at step ") == 1, err
    assert f"stopped at step {step}, all saved" in err and "--resume" in err, err
    done = run([*command(2, csv_folder, out, 400), "--resume"])
    assert done.returncode == 0 and "resumed" in done.stdout, done.stderr
    assert same(uninterrupted(2, 400).values(), load_model(out).state_dict().values())


@pytest.mark.parametrize("when", [pytest.param("between", marks=slow), "at the end"])
def test_sigterm_ends_an_evaluation(when, csv_folder, tmp_path):
    out, long = tmp_path / "run", ["--eval_steps", 1000000, "--eval_every", 20 * (when[0] == "b")]
    p = begin(command(1, csv_folder, out, 40, *long))
    begun = time.time()
    if when == "between":
        log = out / "metrics.csv"
        while not (log.exists() and "\n10," in log.read_text()):
            assert time.time() - begun < 60 and p.poll() is None
            time.sleep(0.05)
        time.sleep(3)  # ten more steps of a few milliseconds each
    else:
        assert any(line.startswith("trained") for line in p.stdout)
    begun = time.time()
    p.send_signal(signal.SIGTERM)
    _, err = p.communicate(timeout=120)
    assert time.time() - begun < 60 and p.returncode == 128 + signal.SIGTERM, err
    step, message = (20, "stopped at step 20") if when == "between" else (40, "while evaluating")
    assert message in err and checkpoints(out)[-1].name.endswith(f"{step:08}")


@slow
def test_resume_with_another_number_of_processes(csv_folder, tmp_path):
    out = tmp_path / "run"
    first = torchrun(1, ROOT / "train.py", *flags(csv_folder, out, 20))
    assert first.returncode == 0, first.stderr
    done = torchrun(2, ROOT / "train.py", *flags(csv_folder, out, 40), "--resume")
    assert done.returncode == 0 and "start anew" in done.stdout, done.stderr
    assert load_model(out).config.steps == 40


@slow
def test_torchrun_restarts_a_lost_process(csv_folder, tmp_path):
    """The folder is then in use, by this very run."""
    out = tmp_path / "run"
    p = begin([*TORCHRUN, "--nproc_per_node=2", "--max-restarts=1", ROOT / "train.py",
               *flags(csv_folder, out, 300)])
    begun = time.time()
    while not checkpoints(out):
        assert time.time() - begun < 60 and p.poll() is None
        time.sleep(0.05)
    os.kill(children(p)[-1], signal.SIGKILL)
    stdout, err = p.communicate(timeout=280)
    assert p.returncode == 0 and "resumed" in stdout, f"{stdout}\n{err}"
    assert load_model(out).config.steps == 300


@slow
def test_torchrun_restarts_killed_workers(csv_folder, tmp_path):
    out, kills, rng = tmp_path / "run", 0, random.Random(0)
    p = begin([*TORCHRUN, "--nproc_per_node=4", "--max-restarts=3", ROOT / "train.py",
               *flags(csv_folder, out, 1500)])
    while p.poll() is None and kills < 3:
        time.sleep(rng.uniform(4, 12))
        workers = children(p)
        if workers and checkpoints(out):
            os.kill(rng.choice(workers), signal.SIGKILL)
            kills += 1
    stdout, err = p.communicate(timeout=280)
    assert p.returncode == 0 and kills > 0, f"{kills} kills\n{stdout}\n{err}"
    assert "resumed" in stdout and load_model(out).config.steps == 1500


# ------------------------------------------------------------------------------------------------
# Errors in one process


FAILING = """
import os, sys, time, train
from support import checkpoints, monitor, scoring
def fail(*args, **kw):
    if os.environ["RANK"] == "0":
        open({when!r}, "w").write(str(time.time()))
        raise {error}
    return original(*args, **kw)
original = {module}.{name}
{module}.{name} = fail
train.leave(train.main(sys.argv[1:]))
"""


ERRORS = ("OSError(28, 'No space left on device')", "PermissionError(13, 'Permission denied')",
          "KeyError('a slip')", "RuntimeError('a hook')")
PLACES = ("checkpoints.write_synced", "checkpoints.sha256", "checkpoints.save_model",
          "monitor.score", "monitor.Monitor.collect")  # writing, publishing, evaluating, logging


@pytest.mark.parametrize("place, error", [
    (PLACES[1], ERRORS[0]),
    *(pytest.param(PLACES[p], ERRORS[e], marks=slow) for p, e in ((0, 1), (2, 3), (3, 2), (4, 0)))])
def test_an_error_in_process_0_alone_ends_all_in_seconds(place, error, csv_folder, tmp_path):
    """Also in the middle of a checkpoint, where the others waited for ever. One line says why."""
    script, when = tmp_path / "failing.py", tmp_path / "when"
    module, _, name = place.rpartition(".")
    script.write_text(FAILING.format(module=module, name=name, error=error, when=str(when)))
    words = flags(csv_folder, tmp_path / "run", 20)
    p = begin([*TORCHRUN, "--nproc_per_node=2", script, *words, "--eval_every", 10])
    _, err = p.communicate(timeout=120)
    assert time.time() - float(when.read_text()) < 60  # not the start, which a busy machine delays
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "stopped"))]
    assert p.returncode and len(lines) == 1, err
    assert error.split("'")[1] in lines[0]
    assert "most recent call last" not in err.split("torch/distributed")[0]


def test_leaving_under_torchrun_says_all_and_skips_the_exit_handlers():
    code = """
import atexit
from support.processes import leave
atexit.register(print, "late")
print("said", end="")
leave(3)
"""
    done = run([sys.executable, "-c", code], LOCAL_RANK="0")
    assert (done.returncode, done.stdout, done.stderr) == (3, "said", "")
