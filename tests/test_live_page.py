"""train.py --html: a page of a run in training, refreshed on the way; and what such a run keeps
about how it was trained."""
import shutil
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

import support.report
import tinytrm
from conftest import ROOT, SMALL, program, torchrun
from data import maze
from support.checkpoints import load_model
from support.monitor import read_metrics
from test_report import browser, data_of, in_browser

LOOK = ["--steps", 20, "--eval_every", 10, *SMALL]


@pytest.fixture
def written(monkeypatch):
    """Copies of the pages' runs, as they are written."""
    pages, write = [], support.report.write_page

    def spy(path, runs):
        write(path, runs)
        pages.append(dict(runs[0].page, thoughts=runs[0].answers.shape[1]))

    monkeypatch.setattr(support.report, "write_page", spy)
    return pages


def facts_of(path) -> dict:
    return dict(data_of(path)[0]["runs"][0]["facts"])


def test_refreshed_at_each_evaluation_and_finished_at_the_end(csv_folder, tmp_path, written):
    out = tmp_path / "run"
    stdout, _ = program("train.py", "--data", csv_folder, "--out", out, *LOOK, "--html")
    first, second, last = written
    assert first["progress"].startswith("step 10 of 20 after 0:00:0") and "left; w" in (
        first["progress"])
    assert second["progress"].startswith("step 20 of 20") and "progress" not in last
    rows = read_metrics(out / "metrics.csv")
    assert first["curves"]["looks"] == [[10, float(rows[0]["held_out_exact"])]]
    assert len(second["curves"]["looks"]) == 2 and last["thoughts"] == 20
    assert stdout.endswith(f"page      {out / 'report.html'}\n")
    (group,) = data_of(out / "report.html")
    want = program("evaluate.py", out, "--html", tmp_path / "again.html", "--device", "cpu")
    assert want and group["runs"][0]["result"] == (
        data_of(tmp_path / "again.html")[0]["runs"][0]["result"])
    assert facts_of(out / "report.html")["trained"] == "20 steps of 16 puzzles, seed 0"
    assert not list(out.glob("*.part"))


def test_mazes_and_a_file_of_ones_own(tmp_path, written):
    inputs, labels = maze.generate(30, 6, min_path=8, seed=0)
    maze.write_csv(tmp_path / "mazes.csv", inputs, labels)
    program("train.py", "--preset", "maze-mini", "--data", tmp_path / "mazes.csv", "--out",
            tmp_path / "run", *LOOK, "--html", tmp_path / "mine.html")
    assert len(written) == 3 and data_of(tmp_path / "mine.html")[0]["kind"] == "maze"
    assert "valid_path_accuracy" in written[0]["result"]
    assert not (tmp_path / "run/report.html").exists()


def test_arc_shows_the_votes_of_its_last_evaluation(tmp_path, written):
    words = [w for w in LOOK if w not in ("--eval_puzzles", "20")]
    program("train.py", "--preset", "arc-mini", "--out", tmp_path / "run", *words, "--html")
    (group,) = data_of(tmp_path / "run/report.html")
    thought = group["runs"][0]["thoughts"][0]
    assert 1 < thought["votes"] <= 9 and len(written) == 3
    assert sum(a["votes"] for a in thought["attempts"]) <= thought["votes"]


def test_nothing_is_thought_about_for_the_page_alone(csv_folder, tmp_path, written, monkeypatch):
    """The evaluation has thought about all of it."""
    calls, forward = [], tinytrm.TRM.forward
    def counted(model, inputs, *more):
        if not inputs.is_meta:  # those count FLOPs
            calls.append(1)
        return forward(model, inputs, *more)

    monkeypatch.setattr(tinytrm.TRM, "forward", counted)
    for words in ([], ["--html"]):
        program("train.py", "--data", csv_folder, "--out", tmp_path / f"run{len(words)}", *LOOK,
                *words)
        calls.append(0)
    plain = calls.index(0)
    assert len(written) == 3 and len(calls) == 2 * (plain + 1)


# ------------------------------------------------------------------------------------------------
# What goes wrong


def test_a_full_disk_is_a_warning(csv_folder, tmp_path):
    (tmp_path / "page.html").symlink_to("/dev/full")
    out = tmp_path / "run"
    stdout, err = program("train.py", "--data", csv_folder, "--out", out, *LOOK, "--html",
                          tmp_path / "page.html")
    assert "held out" in stdout.splitlines()[-2] and (out / "model.pt").exists()
    assert err.count("\n") == err.count("page.html was not written: No space left on device") == 3


@pytest.mark.parametrize("error", [ValueError("two\nlines"), torch.OutOfMemoryError("CUDA"),
                                   KeyError("x"), NotADirectoryError(20, "Not a directory", "p")])
def test_whatever_fails_in_a_page_is_a_warning(error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("support.report.collect", Mock(side_effect=error))
    page = support.report.Live(tmp_path / "page.html", SimpleNamespace(remarks=[]), tmp_path)
    page(None, {}, None, {}, "step 1")
    err = capsys.readouterr().err
    assert err.count("was not written") == err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_all_at_once(csv_folder, tmp_path, monkeypatch):
    folder, write = tmp_path / "pages", support.report.write_page
    folder.mkdir()

    def gone(*args):
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_text("a file now")
        write(*args)

    monkeypatch.setattr(support.report, "write_page", gone)
    stdout, err = program("train.py", "--data", csv_folder, "--out", tmp_path / "run", *LOOK,
                          "--html", folder / "page.html")
    assert err.count("was not written") == err.count("\n") == 3 and "held out" in stdout


@pytest.mark.parametrize("words, said", [
    ("--html --bench", "--html does nothing with --bench"),
    ("--html --dry-run", "--html does nothing with --dry-run"),
    ("--html gone/page.html", "--html gone/page.html: cannot be written there"),
    ("--html .", "--html .: is a folder; name a file")])
def test_refused_before_the_work(words, said, refused):
    assert said in refused("train.py", "--preset", "sudoku4", "--out", "run", *words.split())


# ------------------------------------------------------------------------------------------------
# Resuming, replacing, several processes


def test_a_resumed_run_says_on_what_it_was_trained(csv_folder, tmp_path, monkeypatch):
    words = ["--data", csv_folder, "--out", tmp_path / "run", *SMALL]
    page = tmp_path / "run/report.html"
    monkeypatch.setattr("support.monitor.hardware", lambda _: "abacus")
    program("train.py", *words, "--steps", 10)
    first = load_model(tmp_path / "run").extra["trained"]
    assert first["hardware"] == ["abacus"] and first["steps"] == 10 and first["gpu_hours"] == 0
    monkeypatch.setattr("support.monitor.hardware", lambda _: "loom")
    program("train.py", *words, "--steps", 20, "--resume", "--html")
    program("train.py", *words, "--steps", 30, "--resume", "--html")
    assert facts_of(page)["trained on"].startswith("abacus; then loom, float32, torch ")
    last = load_model(tmp_path / "run").extra["trained"]
    assert last["steps"] == 30 and last["seconds"] > first["seconds"]
    assert program("evaluate.py", tmp_path / "run", "--device", "cpu")


def test_checkpoints_of_before_can_be_gone_on_with(csv_folder, tmp_path, monkeypatch):
    words = ["--data", csv_folder, "--out", tmp_path / "run", *SMALL]
    monkeypatch.setattr("support.monitor.Monitor.extra", lambda self, _: self.task.extra())
    program("train.py", *words, "--steps", 10)
    monkeypatch.undo()
    program("train.py", *words, "--steps", 20, "--resume", "--html")
    assert facts_of(tmp_path / "run/report.html")["trained on"].startswith("unknown; then cpu")


def test_overwriting_replaces_the_page(csv_folder, tmp_path):
    words = ["--data", csv_folder, "--out", tmp_path / "run", "--steps", 2, *SMALL]
    program("train.py", *words, "--html")
    program("train.py", *words, "--overwrite")
    assert not (tmp_path / "run/report.html").exists()


def test_two_processes_write_one_page(csv_folder, tmp_path):
    done = torchrun(2, ROOT / "train.py", "--data", csv_folder, "--out", tmp_path / "run", *LOOK,
                    "--html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("page      ") == 1 and "warning" not in done.stderr
    (group,) = data_of(tmp_path / "run/report.html")
    assert sum(map(sum, group["runs"][0]["halting"])) == 20
    assert facts_of(tmp_path / "run/report.html")["trained on"].startswith("2 x cpu")
    program("train.py", "--data", csv_folder, "--out", tmp_path / "one", *LOOK)
    one, two = (read_metrics(tmp_path / name / "metrics.csv")[0] for name in ("one", "run"))
    assert one["count"] == two["count"] and float(one["loss"]) == pytest.approx(
        float(two["loss"]), rel=0.05), "the log is of both processes"


# ------------------------------------------------------------------------------------------------
# In a browser


@pytest.fixture
def live(csv_folder, tmp_path, monkeypatch):
    """The page of a run that was interrupted after its second evaluation."""
    monkeypatch.setattr("train.report", lambda *_: sys.exit(0))
    program("train.py", "--data", csv_folder, "--out", tmp_path / "run", *LOOK, "--html")
    return tmp_path / "run/report.html"


@browser
def test_a_page_in_training_says_so_and_stays_where_it_was(live, tmp_path):
    seen = in_browser(live, tmp_path, """
      if (location.hash) {
        const shown = document.querySelector("#filters :checked").value;
        Object.assign(seen, {hash: location.hash, chosen: chosen(), where: text("where"), shown});
      } else {
        pick("wrong"); press("j"); press("j"); slide(3); search("");
        touched = Date.now();
        reload();  // not while somebody is at it
        if (location.hash) throw Error("reloaded under the hands of somebody");
        touched = 0; by("reload").click(); reload();
        if (location.hash) throw Error("reloaded although told not to");
        by("reload").click();
        window.name = chosen();  // survives
        reload(); await wait(1e6);
      }
      seen.name = window.name;
      seen.progress = text("progress"); seen.hidden = by("progress").hidden;
    """)
    assert seen["progress"].startswith("In training: step 20 of 20 after 0:00:0")
    assert "reload every minute" in seen["progress"] and not seen["hidden"]
    assert seen["shown"] == "wrong" and seen["chosen"] == seen["name"] != ""
    assert seen["where"].startswith("step 3 of ") and "step=3" in seen["hash"]
