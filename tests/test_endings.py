"""How programs end: errors, signals, pipes, terminals; memory, devices and other things that a
program must know of its machine."""
import dataclasses
import datetime
import errno
import os
import signal
import sys
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

import tinytrm
from conftest import ROOT, SMALL, begin, process, program, run, tiny, toy_puzzles
from data import maze
from support import console, cost, monitor, processes, report
from support.checkpoints import load_model
from support.presets import PRESETS
from support.scoring import batch_of, score
from support.tasks import Task

# ------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize("error, code, said", [
    (FileExistsError(17, "File exists", "x"), 2, "error: x: File exists"),
    (ValueError("two\nlines"), 2, "error: two lines"), (KeyError("k"), 1, "error: KeyError: 'k' ("),
    (MemoryError(), 1, "error: out of memory"), (RecursionError("deep"), 1, "error: RecursionE"),
    (RuntimeError("[gloo/x.cc] closed"), 1, "error: lost another process, or never met it ([gloo"),
    (torch.OutOfMemoryError("NCCL error: out of memory"), 1, "error: out of memory: NCCL")])
def test_every_error_is_one_line(error, code, said, capsys):
    def fails():
        raise error

    assert console.guarded(fails) == code
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == 1


def test_a_terminal_that_knows_ascii_only(trained, tmp_path):
    """Its encoding ended the program after training, before the score was printed."""
    inputs, labels = maze.generate(30, 6, min_path=8, seed=0)
    maze.write_csv(tmp_path / "mazes.csv", inputs, labels)
    words = ["--preset", "maze-mini", "--data", tmp_path / "mazes.csv", "--steps", 2, *SMALL]
    stdout, _ = process("train.py", *words, "--out", tmp_path / "run", PYTHONIOENCODING="ascii")
    assert "held out" in stdout and "?" in stdout


def test_output_that_nobody_reads(trained):
    """`| head -0`: no traceback. Two at once."""
    one = f"{sys.executable} {ROOT}/%s | true; echo ended ${{PIPESTATUS[0]}} >&2"
    done = run(["bash", "-c", f"({one % 'train.py -h'}) & {one % f'evaluate.py {trained[0]}'}; "
                              "wait"])
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    codes = [int(line.split()[1]) for line in done.stderr.splitlines() if line[:5] == "ended"]
    assert len(codes) == 2 and set(codes) <= {0, 1, 120, 128 + signal.SIGPIPE}, done.stderr


# ------------------------------------------------------------------------------------------------
# Signals


@pytest.fixture
def handlers():
    """Signal handlers as they were before the test."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_wait_where_somebody_looks(handlers):
    signals = console.Signals()
    signals.heed()
    with signals.later():
        signal.raise_signal(signal.SIGTERM)
        assert signals.number == signal.SIGTERM
        with pytest.raises(console.Stopped, match="^while testing$"):
            with signals.at_once("while testing"):
                pass
        assert signals.patient
        signal.raise_signal(signal.SIGINT)  # the second: not into the clearing up
    assert signals.number == signal.SIGTERM
    again = console.Signals()
    again.heed()
    with pytest.raises(console.Stopped), again.at_once(""):
        signal.raise_signal(signal.SIGHUP)


def test_a_signal_is_no_failing_compiler(handlers, monkeypatch):
    """The compiler runs for a minute, in an `except Exception`."""
    monkeypatch.setattr(torch, "compile", lambda net, **_: lambda h: signal.raise_signal(15))
    monkeypatch.setattr(console, "signals", console.Signals())
    console.signals.heed()
    with pytest.raises(console.Stopped):
        cost.compile_net(tinytrm.TRM(tiny()), 2)


def test_nohup_is_respected(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    console.Signals().heed()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_ctrl_c_ends_everything_in_one_line(tmp_path):
    sign = "generating 2,000 puzzles of 12x12"
    p = begin([sys.executable, ROOT / "train.py", "--seq_len", 144, "--vocab_size", 14, "--out",
               tmp_path / "run"])
    assert p.stdout.read(len(sign)) == sign
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=20)
    assert p.returncode == 128 + signal.SIGINT and err == "stopped\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words, where", [
    (["train.py", "--bench", "--device", "cpu"], "support.cost.timed_step"),
    (["evaluate.py", "RUN"], "tinytrm.TRM.forward")], ids=["bench", "evaluate"])
def test_ctrl_c_at_work(words, where, trained, monkeypatch):
    words = [trained[0] if w == "RUN" else w for w in words]
    monkeypatch.setattr(where, lambda *_: signal.raise_signal(signal.SIGINT))
    assert program(*words, code=130)[1] == "stopped\n"


# ------------------------------------------------------------------------------------------------
# The machine


def test_the_device_asked_for_is_the_current_one(monkeypatch):
    """Without that, `--device cuda:1` recorded its events on GPU 0's stream."""
    zeros, current = torch.zeros, []
    monkeypatch.setattr(torch, "zeros", lambda *a, device: zeros(*a))
    # As torch does: without a number it is no device to set, and one GPU alone could not be used.
    monkeypatch.setattr(torch.cuda, "set_device",
                        lambda d: current.append(torch.cuda._utils._get_device_index(d)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert processes.choose_device("cuda:1") == torch.device("cuda:1")
    for name in "cuda", None:
        assert processes.choose_device(name) == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert processes.choose_device("cuda") == torch.device("cuda:3") and current == [1, 0, 0, 3]
    with pytest.raises(ValueError, match="one GPU each"):
        processes.choose_device("cuda:1")
    # gloo knows no tensors of MPS.
    with pytest.raises(ValueError, match="for one process"):
        processes.choose_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert processes.choose_device(None) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert processes.choose_device(None) == torch.device("mps")


def test_others_wait_for_an_hour(monkeypatch):
    """Process 0 may have hundreds of MB to download. The store gave up after five minutes."""
    seen = []
    monkeypatch.setattr(processes.dist, "TCPStore", lambda *a, **kw: seen.append(kw) or a)
    monkeypatch.setattr(processes.dist, "PrefixStore", lambda *a: None)
    monkeypatch.setattr(processes.dist, "init_process_group", lambda *a, **kw: seen.append(kw))
    for name, value in dict(LOCAL_RANK=0, RANK=0, WORLD_SIZE=1, MASTER_ADDR="x", MASTER_PORT=1,
                            TORCHELASTIC_USE_AGENT_STORE=True).items():
        monkeypatch.setenv(name, str(value))
    processes.join_processes(torch.device("cpu"))
    assert [kw["timeout"] for kw in seen] == [datetime.timedelta(hours=1)] * 2


def test_the_log_says_what_it_has_cost(monkeypatch):
    monkeypatch.setattr(monitor, "memory_used", lambda _: 41.2 * 2**30)
    monkeypatch.setattr(monitor, "rank_and_world", lambda: (0, 4))
    watch = object.__new__(monitor.Monitor)
    watch.before, watch.schedule = 3600.0, monitor.Schedule(price=2)
    watch.started = time.time() - 900
    watch.pause, watch.config = 0.0, tiny()
    monkeypatch.setattr(monitor, "hardware", lambda _: "4 x a card")
    # An hour on one card before, and now a quarter of one on four: not five for the first one.
    trained = dict(trained=dict(gpu_hours=1.0, hardware=["a card"], seconds=3600.0))
    state = SimpleNamespace(slots=SimpleNamespace(ids=SimpleNamespace(device=None)), step=3,
                            ema=SimpleNamespace(extra=trained))
    for name, said in (("cuda", ", 41.2 GiB, $4.00 so far"), ("cpu", ", 41.2 GiB")):
        state.slots.ids.device = torch.device(name)
        assert watch.outlook(state, 7200).endswith(said)
        assert watch.outlook(state, 7200).startswith("2:00:00 left, ends ")


def test_a_full_disk_under_the_log_does_not_stop_a_run(monkeypatch, capsys):
    console.signals.__init__()
    full = Mock(**{"flush.side_effect": OSError(errno.ENOSPC, "No space left on device")})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        console.say("step 1")
    assert console.signals.number == 0 and "No space left" in capsys.readouterr().err


def watched(tmp_path, config=None):
    """A monitor in a folder, and the task that it watches."""
    config = config or tiny(steps=10)
    task = Task("tokens", config, toy_puzzles(), toy_puzzles(8, seed=1), dict(kind="toy"))
    monitor.start_metrics(tmp_path / "metrics.csv", 0)
    return task, monitor.Monitor(tmp_path, task, monitor.Schedule(eval_every=5, log_seconds=0))


def test_a_disk_too_full_for_the_last_checkpoint_still_gets_the_model(tmp_path, monkeypatch):
    """The weights of the last hours were thrown away with it."""
    monkeypatch.setattr(monitor, "write_checkpoint", Mock(side_effect=OSError("disk full")))
    task, watch = watched(tmp_path)
    state = tinytrm.State(task.config)
    with pytest.raises(OSError, match="disk full"):
        tinytrm.train(task.config, task.train, state=state, on_step=watch)
    kept = load_model(tmp_path).state_dict()
    assert all(torch.equal(kept[k], v) for k, v in state.ema.state_dict().items())


def test_the_best_is_what_the_file_says(tmp_path):
    """The log may have lost the row of that evaluation, or have another of the same accuracy."""
    task, watch = watched(tmp_path)
    tinytrm.train(task.config, task.train, on_step=watch)
    assert (watch.best, watch.best_step) == (0.0, 5) and watched(tmp_path)[1].best_step == 5
    (tmp_path / "best.pt").unlink()
    assert watched(tmp_path)[1].best == -1


def test_the_best_of_a_run_that_was_given_up_is_none(tmp_path):
    """Gone back to an earlier step, or lost before the first checkpoint: the new run's best was not
    kept where it was worse than what no longer exists."""
    task, watch = watched(tmp_path)
    watch.keep("best.pt", tinytrm.State(task.config), step=8, held_out=0.9,
               asked=watch.asked)
    again = watched(tmp_path)[1]
    assert (again.best, again.best_step) == (0.9, 8)
    tinytrm.train(task.config, task.train, on_step=again)
    assert (again.best, again.best_step) == (0.0, 5)
    assert monitor.kept_in(tmp_path / "best.pt") == dict(step=5, held_out=0.0, asked=8)


def test_the_best_of_another_sample_is_none(tmp_path):
    """100 % of 20 puzzles stood for ever against what was measured on 1000."""
    task, watch = watched(tmp_path)
    watch.keep("best.pt", tinytrm.State(task.config), step=1, held_out=0.9, asked=watch.asked + 1)
    assert watched(tmp_path)[1].best == -1


def test_the_log_has_means(tmp_path):
    """Over steps for the losses, over the puzzles that have halted for the rest."""
    (task, watch), seen = watched(tmp_path, tiny(steps=20)), []
    tinytrm.train(task.config, task.train, on_step=lambda s, m: (seen.append(m), watch(s, m)))
    row = monitor.read_metrics(tmp_path / "metrics.csv")[-1]
    total = {name: sum(m[name].item() for m in seen[15:]) for name in monitor.METRICS}
    assert float(row["loss"]) == pytest.approx(total["loss"] / 5, rel=1e-4)
    assert float(row["count"]) == total["count"] > 0
    for name in "cell_accuracy steps".split():
        assert float(row[name]) == pytest.approx(total[name] / total["count"], rel=1e-4)


def test_the_best_is_the_highest_and_evaluating_is_not_training(tmp_path, monkeypatch):
    task, watch = watched(tmp_path, tiny(steps=25))
    shares = iter([0.2, 0.6, 0.4, 0.6, 0.1])
    monkeypatch.setattr(monitor, "score", lambda *a, **k: (
        time.sleep(0.1), dict(exact_accuracy=next(shares)))[1])
    tinytrm.train(task.config, task.train, on_step=watch)
    assert monitor.kept_in(tmp_path / "best.pt") == dict(step=10, held_out=0.6, asked=8)
    assert time.time() - watch.started - watch.seconds() >= 0.5


def test_a_full_disk_midway_does_not_end_a_run(tmp_path, monkeypatch, capsys):
    """Nor does it keep a run from saving when the next checkpoint is due, here by the minute."""
    (task, _), write, steps = watched(tmp_path, tiny(steps=30)), monitor.write_checkpoint, []

    def full_once(out, state, *args, **extra):
        steps.append(state.step)
        if state.step == 10:
            raise OSError("disk full")
        write(out, state, *args, **extra)

    monkeypatch.setattr(monitor, "write_checkpoint", full_once)
    plan = monitor.Schedule(save_every=1000, save_minutes=0, eval_every=0)
    tinytrm.train(task.config, task.train, on_step=monitor.Monitor(tmp_path, task, plan))
    assert steps == [10, 20, 30] and "disk full; training goes on" in capsys.readouterr().err


def test_evaluations_are_smaller_where_memory_is_short(monkeypatch):
    """They took 256 puzzles at a time, whatever --micro_batch said."""
    sizes, forward = [], tinytrm.TRM.forward
    monkeypatch.setattr(tinytrm.TRM, "forward", lambda self, x, *rest: (
        sizes.append(len(x)), forward(self, x, *rest))[1])
    for micro_batch, most in (0, 256), (2, 8), (100, 256):
        config = tiny(micro_batch=micro_batch, eval_steps=1)
        puzzles = toy_puzzles(300)
        score(Task("tokens", config, puzzles, puzzles, dict(kind="toy")), tinytrm.TRM(config))
        assert max(sizes) == most and sum(sizes) == 300
        sizes.clear()


@pytest.mark.parametrize("name, most", [("sudoku6", 221), ("sudoku9", 22), ("sudoku", 10)])
def test_evaluations_on_a_cpu_suit_its_cache(name, most, monkeypatch):
    """Where the tensors are large, 256 at a time took nearly twice as long. 2 MB of float32."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    config = dataclasses.replace(PRESETS[name].config, dtype="float32")
    assert batch_of(config.build()) == most
    with torch.device("meta"):
        model = dataclasses.replace(config, micro_batch=50).build()
    assert batch_of(model) == 200, "of a GPU"


def test_where_no_slot_has_halted_there_is_no_share(tmp_path, capsys):
    """It was logged as 0 % right."""
    task, watch = watched(tmp_path, tiny(steps=10, N_sup=16, halt_exploration=0.0))
    tinytrm.train(task.config, task.train, on_step=watch)
    assert "no puzzle has been left yet" in capsys.readouterr().out
    rows = monitor.read_metrics(tmp_path / "metrics.csv")
    assert [r["exact_accuracy"] for r in rows] == ["nan"] * len(rows)
    (_, loss, exact), *_ = report.curves(rows)["means"]
    assert loss > 0 and exact == 0


def test_what_training_returns_is_saved_whole(tmp_path, monkeypatch):
    """And a copy that could not be written leaves nothing behind."""
    from support.checkpoints import save_model

    model = tinytrm.train(tiny(steps=2), toy_puzzles())
    save_model(tmp_path / "a.pt", model, about=dict(kind="toy"))
    assert tinytrm.load(tmp_path / "a.pt").extra == dict(about=dict(kind="toy"))
    with pytest.raises(OSError, match="could not be saved"):
        save_model(tmp_path / "no" / "a.pt", model)
    before = (tmp_path / "a.pt").read_bytes()
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="a.pt: could not be saved: No space left"):
        save_model(tmp_path / "a.pt", model)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert (tmp_path / "a.pt").read_bytes() == before
