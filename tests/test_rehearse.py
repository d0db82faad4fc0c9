"""The rehearsal of a long run, alone and in two processes, one of which is lost."""
import dataclasses
import signal

import pytest
import torch

from conftest import ROOT, SMALL, program, torchrun, tree
from support import rehearse as module
from support.monitor import Schedule
from support.presets import PRESETS
from support.rehearse import rehearse
from support.tasks import open_task
from tinytrm import State

WORDS = ["--preset", "sudoku4", "--rehearse", *SMALL]


def figures(stdout):
    """The report as {name: rest of its line}."""
    lines = [line.split(maxsplit=2) for line in stdout.splitlines() if line[:1].isalpha()]
    return {" ".join(words[:1]): " ".join(words[1:]) for words in lines}


def test_alone(tmp_path):
    """It trains, saves, resumes, evaluates, and leaves no trace; a run in the folder stays."""
    out = tmp_path / "run"
    program("train.py", "--preset", "sudoku4", "--steps", 2, "--out", out, *SMALL)
    before = tree(tmp_path)
    stdout, stderr = program("train.py", *WORDS, "--out", out)
    said = figures(stdout)
    assert "ms a step" in said["measured"] and "a checkpoint" in said["measured"]
    assert "hours on 1 x " in said["whole"] and "H100" in said["dry"]
    assert said["lost"] == "one there is only one process" and said["verdict"].startswith("ready")
    assert tree(tmp_path) == before and not stderr


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_two_processes(restarts, tmp_path):
    done = torchrun(2, ROOT / "train.py", *WORDS, "--out", tmp_path / "run", restarts=restarts)
    said = figures(done.stdout)
    assert done.returncode == 0 and said["verdict"].startswith("ready"), done.stderr
    if restarts:
        assert "process 1 is killed now" in done.stdout
        assert "one process was killed; all were restarted, and" in said["lost"]
    else:
        assert "--max-restarts=1" in said["lost"]
    assert not list(tmp_path.rglob("*checkpoint*"))


@pytest.fixture
def ready():
    config = dataclasses.replace(PRESETS["sudoku4"].config, dim=8, n=1, T=1, batch_size=4)
    task = open_task("sudoku4", config, None)
    return task, State(task.config)


def test_a_restart_goes_on_from_the_checkpoint(ready, tmp_path, monkeypatch, capsys):
    """As torchrun makes it when process 1 is lost; it does so in `test_two_processes`."""
    class Lost(BaseException):
        pass

    asked = []

    def agree(flag, device):
        asked.append(flag)
        if len(asked) == 2:  # all notes are taken, and now process 1 is killed
            raise Lost

    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    monkeypatch.setattr(module, "rank_and_world", lambda: (0, 2))
    monkeypatch.setattr(module, "agree", agree)
    with pytest.raises(Lost):
        rehearse(*ready, tmp_path / "run", Schedule())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    rehearse(ready[0], State(ready[0].config), tmp_path / "run", Schedule())
    said = capsys.readouterr().out
    assert "process 1 is killed now" in said and "all were restarted, and went on" in said
    assert "verdict   ready" in said and not list(tmp_path.iterdir())

    def half_read(folder, state, about, read=module.read_checkpoint):
        read(folder, state, about)
        with torch.no_grad():
            state.model.output_weight[0, 0] += 1

    asked.clear()
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    with pytest.raises(Lost):
        rehearse(ready[0], State(ready[0].config), tmp_path / "run", Schedule())
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(module, "read_checkpoint", half_read)
    with pytest.raises(ValueError, match="does not give back the weights"):
        rehearse(ready[0], State(ready[0].config), tmp_path / "run", Schedule())


@pytest.mark.parametrize("problem", ["the disk has", "does not give back the weights",
                                     "raise --save_minutes"])
def test_a_bad_verdict_is_an_error(problem, ready, tmp_path, monkeypatch):
    schedule, read = Schedule(), module.read_checkpoint
    if problem == "the disk has":
        usage = type("Usage", (), dict(free=1000))
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    elif problem == "raise --save_minutes":
        schedule.save_minutes = 1e-9
    else:
        def half_read(folder, state, about):
            read(folder, state, about)
            with torch.no_grad():
                state.model.output_weight[0, 0] += 1
        monkeypatch.setattr(module, "read_checkpoint", half_read)
    with pytest.raises(ValueError, match=f"^not ready: .*{problem}"):
        rehearse(*ready, tmp_path / "run", schedule)
    assert not list(tmp_path.iterdir())


def test_what_the_disk_must_hold(ready, tmp_path, monkeypatch):
    """Three checkpoints, and models: with a large puzzle table they are more than half of one."""
    asked, real = [], module.report
    monkeypatch.setattr(module, "report", lambda task, notes, *rest: asked.append(
        (notes, lambda free, plan: real(task, notes | dict(free=free), plan, *rest[1:]))))
    rehearse(*ready, tmp_path / "run", Schedule())
    (notes, verdict), = asked
    assert notes["size"] > notes["model"] > 0
    plan = Schedule(milestones=10, save_last=4, save_minutes=0)  # so often: not to divide by
    need = 5 * notes["size"] + 12 * notes["model"]
    verdict(need, dataclasses.replace(plan, save_minutes=99))
    with pytest.raises(ValueError, match="the disk has .*the run needs"):
        verdict(need - 1, plan)


def test_what_torchrun_must_wait_for(ready, tmp_path, monkeypatch, capsys):
    """Ten steps, or an evaluation, before a signal is seen, and then the checkpoint."""
    asked, real = [], module.report
    monkeypatch.setattr(module, "report", lambda *args: asked.append(args))
    rehearse(*ready, tmp_path / "run", Schedule())
    (task, notes, schedule, *rest), = asked
    monkeypatch.setattr(module, "rank_and_world", lambda: (0, 2))
    for every, save, step, look, needs in ((5, 1, 0.1, 1, 0), (5, 12, 0.1, 1, 0), (0, 9, 1, 99, 0),
                                           (5, 12, 2, 1, 33), (5, 2, 1, 30, 42)):
        plan = dataclasses.replace(schedule, eval_every=every)
        real(task, notes | dict(save=save, step=step, look=look), plan, *rest)
        said = capsys.readouterr().out
        assert ("--shutdown-timeout" in said) == (f"can take {needs} s" in said) == (needs > 0)


def test_puzzles_are_checked_once(ready, tmp_path, monkeypatch):
    """A check of a million puzzles takes a second, and was taken for a part of each step."""
    seen, task = [], ready[0]
    monkeypatch.setattr(task.train, "check", lambda config: seen.append(config))
    rehearse(*ready, tmp_path / "run", Schedule())
    assert seen == [task.config]


def test_a_run_that_is_shorter_than_its_rehearsal(refused):
    assert "nothing to rehearse" in refused("train.py", *WORDS, "--steps", 20)


def test_a_signal_ends_it_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "timed_step", lambda *_: signal.raise_signal(signal.SIGINT))
    assert program("train.py", *WORDS, "--out", tmp_path / "run", code=130)[1] == "stopped\n"
    assert not list(tmp_path.iterdir())
