"""Run folders: nothing of the user's is touched, nothing that was trained is lost."""
import os
import signal
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from conftest import SMALL, begin, program, tiny, toy_puzzles, tree
from data import files
from support import folders
from support.checkpoints import write_checkpoint
from support.folders import check_folder, checkpoints, entered, locked
from tinytrm import State, save, train


@pytest.fixture
def done(tmp_path):
    """A finished run of ours with a user's own things beside it."""
    out = tmp_path / "run"
    checkpoint(out, 4)
    checkpoint(out, 8)
    save(out / "model.pt", State(tiny()).ema)
    (out / "metrics.csv").write_text("step\n8\n")
    (out / "notes.txt").write_text("mine")
    (out / "checkpoint-500").mkdir()
    (out / "checkpoint-500" / "weights.bin").write_text("another tool's")
    (out / "checkpoint-best").mkdir()
    (out / "checkpoint-best" / "manifest.json").write_text("{}")
    (out / "checkpoint-00000099").mkdir()  # eight digits, but no manifest
    (out / "checkpoint-00000099" / "mine.txt").write_text("mine")
    checkpoint(tmp_path / "elsewhere", 98)
    (out / "checkpoint-00000098").symlink_to(tmp_path / "elsewhere" / "checkpoint-00000098")
    return out


USERS = {"notes.txt", "checkpoint-500", "checkpoint-best", "checkpoint-00000099",
         "checkpoint-00000098"}


def checkpoint(out, step):
    """One more checkpoint in the folder."""
    out.mkdir(parents=True, exist_ok=True)
    state = State(tiny(steps=step))
    state.step = step
    write_checkpoint(out, state)


def names(folder):
    return {p.name for p in folder.iterdir()} - USERS - {".lock"}


def test_only_our_own_checkpoints_are_ours(done):
    """Eight digits and a manifest: `checkpoint-500` of another tool was deleted, a copy of ours
    resumed from, a link broke a rerun."""
    assert [p.name for p in checkpoints(done)] == ["checkpoint-00000004", "checkpoint-00000008"]
    before = {name: tree(done / name) for name in USERS}
    for step in (12, 16):
        checkpoint(done, step)
    assert [p.name for p in checkpoints(done)] == ["checkpoint-00000012", "checkpoint-00000016"]
    assert {name: tree(done / name) for name in USERS} == before
    state = State(tiny(steps=99))
    state.step = 99
    with pytest.raises(OSError, match="could not save .*-00000099"):  # in the user's way? No.
        write_checkpoint(done, state)
    assert {name: tree(done / name) for name in USERS} == before


@pytest.mark.parametrize("what", ["rename", "rmtree"])
def test_an_old_checkpoint_that_cannot_be_removed_is_no_failure(what, tmp_path, monkeypatch):
    """A file of it is open elsewhere, on NFS or Windows. The new one was said to be lost, though it
    was saved, and a half of the old one stayed, to be offered as a whole."""
    def busy(*args, **how):
        if not how.get("ignore_errors"):
            raise OSError(39, "Directory not empty")

    for step in 4, 8:
        checkpoint(tmp_path, step)
    with monkeypatch.context() as m:
        m.setattr(*(folders.shutil, "rmtree") if what == "rmtree" else (Path, "rename"), busy)
        checkpoint(tmp_path, 12)
        with entered(tmp_path, True, checkpoints(tmp_path)[-1], False):
            pass
    kept = [p.name for p in checkpoints(tmp_path)]
    assert kept[-2:] == ["checkpoint-00000008", "checkpoint-00000012"]
    assert len(kept) == 2 + (what == "rename"), "whole, or not to be seen"
    with entered(tmp_path, True, checkpoints(tmp_path)[-1], False):
        pass
    checkpoint(tmp_path, 16)
    assert names(tmp_path) == {"checkpoint-00000012", "checkpoint-00000016"}


def test_without_locks_a_restart_is_known_all_the_same(tmp_path, monkeypatch):
    """On Windows it began at step 0, or was refused."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(folders, "restarted", lambda: True)
    assert not folders.is_restart(tmp_path)
    with pytest.raises(KeyError), locked(tmp_path):
        assert folders.is_restart(tmp_path)
        raise KeyError
    assert folders.is_restart(tmp_path)
    with locked(tmp_path):
        pass
    assert not folders.is_restart(tmp_path)


def test_windows_has_a_lock_too(tmp_path, monkeypatch):
    """There a file cannot be removed that somebody has open. Two runs shared a folder."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(type(tmp_path), "unlink", Mock(side_effect=PermissionError(13, "open")))
            with pytest.raises(ValueError, match="another run is at work"), locked(tmp_path):
                pass
        assert (tmp_path / ".lock").read_text() == folders._me(), "whose it is, to be read"
    assert not (tmp_path / ".lock").exists()


def test_what_a_scanner_has_open_is_moved_when_it_lets_go(monkeypatch):
    """On Windows a checkpoint, just written, could not get its name, and the run ended."""
    failing = Mock(side_effect=[PermissionError(13, "open"), PermissionError(13, "open"), None])
    monkeypatch.setattr(files, "SCANNED", (0, 0))
    files.patiently(failing, "new", "old")
    assert failing.call_args_list == [(("new", "old"),)] * 3
    monkeypatch.setattr(files, "SCANNED", ())
    failing.side_effect = PermissionError(13, "not yours")
    with pytest.raises(PermissionError):
        files.patiently(failing, "new", "old")


def test_a_used_folder_is_refused_and_nothing_changes(done, tmp_path):
    before = tree(done)
    for resume, words in ((None, "something in it"), ("auto", ""), (True, ""),
                          (str(done / "checkpoint-00000004"), "is newer than"),
                          (str(done / "checkpoint-500"), "is no checkpoint folder")):
        if words:
            with pytest.raises((ValueError, OSError), match=words):
                check_folder(done, True, resume, False)
        else:
            check_folder(done, True, resume, False)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        check_folder(tmp_path / "new", True, True, False)
    with pytest.raises(ValueError, match="is a file"):
        check_folder(done / "notes.txt", True, None, True)
    for path in checkpoints(done):
        path.rename(tmp_path / path.name)
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        check_folder(done, True, "auto", False)
    for path in tmp_path.glob("checkpoint-0*"):
        path.rename(done / path.name)
    assert tree(done) == before
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", True, None, False)


def test_a_run_from_elsewhere_does_not_take_over_a_folder(done, tmp_path):
    """Its rows, its best and its checkpoints were mixed with those of the run that was there."""
    start = str(tmp_path / "elsewhere/checkpoint-00000098")
    for given in (True, False):
        with pytest.raises(ValueError, match="is no checkpoint of the run in there"):
            check_folder(done, given, start, False)
        assert str(check_folder(tmp_path / "new", given, start, False)) == start
    assert str(check_folder(done, True, start, True)) == start, "--overwrite"


def test_a_restarted_run_remembers_where_it_was_to_begin(tmp_path, monkeypatch):
    """Lost before its first checkpoint, it began at step 0, without a word."""
    monkeypatch.setattr(folders, "is_restart", lambda _: True)
    checkpoint(tmp_path / "a", 4)
    start, out = tmp_path / "a/checkpoint-00000004", tmp_path / "b"
    assert check_folder(out, True, str(start), False) == start
    assert check_folder(out, True, None, False) is check_folder(out, True, "auto", False) is None
    checkpoint(out, 8)
    assert check_folder(out, True, str(start), False) == out / "checkpoint-00000008"


def test_overwriting_waits_for_the_first_checkpoint(done):
    """A run that dies before it has saved anything takes nothing with it, not even twice."""
    ours, users = names(done), {name: tree(done / name) for name in USERS}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), entered(done, True, None, True):
            assert names(done) - {"metrics.csv"} == {folders.REPLACED}
            assert names(done / folders.REPLACED) == ours
            (done / "metrics.csv").write_text("of the new run")
            raise KeyboardInterrupt
    with entered(done, True, None, True):
        checkpoint(done, 1)
    assert names(done) == {"checkpoint-00000001", "metrics.csv"}
    assert {name: tree(done / name) for name in USERS} == users


def test_going_back_for_good(done):
    """Resuming from an older checkpoint: the newer one goes when there is something new."""
    older = done / "checkpoint-00000004"
    assert check_folder(done, True, str(older), True) == older
    with entered(done, True, older, True):
        assert checkpoints(done) == [older]
        checkpoint(done, 5)
        assert [p.name[-1] for p in checkpoints(done)] == ["4", "5"]
    assert not (done / folders.REPLACED).exists()


def test_the_default_folder_moves_aside(done):
    before = tree(done)
    assert check_folder(done, False, None, False) is None
    with entered(done, False, None, False) as said:
        assert names(done) == set() and "run-1" in said
    assert tree(done.with_name("run-1")) == before
    with entered(done, False, None, False) as said:
        assert not said, "an empty folder need not move"
        checkpoint(done, 3)
    with entered(done, False, None, False) as said:
        assert "run-2" in said and tree(done.with_name("run-1")) == before


def test_one_run_at_a_time(done):
    """Two in one folder mixed silently. A process that dies leaves no lock behind."""
    code = ("import sys, time; from pathlib import Path; from support.folders import locked\n"
            "with locked(Path(sys.argv[1])):\n    print('in', flush=True); time.sleep(60)")
    p = begin([sys.executable, "-c", code, done])
    assert p.stdout.readline() == "in\n"
    newest = checkpoints(done)[-1]
    for given, start, overwrite in ((False, None, False), (True, newest, False),
                                    (True, None, True)):
        before = tree(done)
        with pytest.raises(ValueError, match="another run is at work"):
            with entered(done, given, start, overwrite):
                pass
        assert tree(done) == before
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    assert check_folder(done, True, True, False) == newest
    with entered(done, True, newest, False):
        with pytest.raises(ValueError, match="another run"), locked(done):
            pass
    assert not (done / ".lock").exists()


def test_a_lock_that_is_ours_already_is_not_written_again(tmp_path, monkeypatch):
    """On a full disk it would be lost, and the next restart would take the run for another's."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    lock = tmp_path / ".lock"
    lock.write_text("host 1 another")
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert folders.is_restart(tmp_path)
    os.utime(lock, (1, 1))
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert lock.stat().st_mtime == 1


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with locked(tmp_path):
        pass
    assert "has no locks (Function not implemented)" in capsys.readouterr().err


def test_what_another_run_has_saved_meanwhile_is_not_trained_again(done):
    start = check_folder(done, True, True, False)
    checkpoint(done, 12)  # the job before this one, on its way out
    before = tree(done)
    with pytest.raises(ValueError, match="checkpoint-00000012 there meanwhile"):
        with entered(done, True, start, False):
            pass
    assert tree(done) == before
    assert not (done / ".lock").exists()
    with entered(done, True, check_folder(done, True, True, False), False):
        pass


def test_nor_does_a_run_begin_over_one_that_came_meanwhile(tmp_path):
    for resume in None, "auto":
        out = tmp_path / str(resume)
        assert check_folder(out, True, resume, False) is None
        checkpoint(out, 12)
        with pytest.raises(ValueError, match="checkpoint-00000012 there meanwhile"):
            with entered(out, True, None, False):
                pass
        assert names(out) == {"checkpoint-00000012"} and not (out / ".lock").exists()


def test_another_preset_or_a_rerun_loses_nothing(tmp_path):
    """The same command again, as a user types it, and one in a folder that holds other things."""
    words = ["--preset", "sudoku4", "--steps", 2, "--out", tmp_path / "run", *SMALL]
    program("train.py", *words)
    before = tree(tmp_path)
    for more in ([], ["--seed", 1]):
        _, err = program("train.py", *words, *more, code=2)
        assert "--overwrite" in err and tree(tmp_path) == before
    stdout, _ = program("train.py", *words, "--overwrite")
    assert "replaced  what was here" in stdout
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "checkpoint-00000002", "metrics.csv", "model.pt"}


def test_two_programs_in_one_folder(csv_folder, tmp_path):
    words = [sys.executable, "train.py", "--data", csv_folder, "--out", tmp_path / "run",
             *SMALL, "--steps", 100_000, "--save_every", 10]
    p, begun = begin(words), time.time()
    while not checkpoints(tmp_path / "run"):
        assert time.time() - begun < 60 and p.poll() is None
        time.sleep(0.05)
    assert "another run is at work" in program(*words[1:], "--resume", code=2)[1]
    p.send_signal(signal.SIGHUP)  # a closed terminal
    err = p.stderr.read()
    assert p.wait(timeout=30) == 128 + signal.SIGHUP
    assert err.startswith("stopped at step ") and "--resume" in err and err.count("\n") == 1
    assert f"step {int(checkpoints(tmp_path / 'run')[-1].name[-8:]):,}," in err


def test_training_from_python_touches_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tiny(steps=2), toy_puzzles())
    assert not list(tmp_path.iterdir())
