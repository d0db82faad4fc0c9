"""Whole programs, train.py and evaluate.py, the whole way."""
import csv
import dataclasses
import json
import os
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import evaluate
import tinytrm
import train
from conftest import ROOT, SMALL, TORCHRUN, program, run
from data import maze, sudoku
from support import monitor, tasks
from support.checkpoints import load_model
from support.official import official_task
from support.presets import PRESETS


def test_training_leaves_a_model_a_log_and_a_picture(trained):
    out, stdout = trained
    assert "held out" in stdout and "step 1" in stdout
    assert stdout.count("boxes of 2 rows and 3 columns taken for granted") == 1
    with open(out / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [10, 20, 25]
    assert all(np.isfinite(float(r["loss"])) for r in rows)
    model = load_model(out)
    assert model.config.steps == 25 and model.config.dim == 16
    assert model.extra["about"]["box"] == [2, 3]
    assert not list(out.glob(".*")), "a temporary file was left behind"


def test_evaluate_agrees_with_the_library(trained, csv_folder):
    out, _ = trained
    stdout, _ = program("evaluate.py", out, "--json", "--steps", 5)
    result = json.loads(stdout)
    assert {"exact_accuracy", "cell_accuracy", "puzzles", "by_step", "mean_steps"} <= set(result)
    inputs, labels, _ = sudoku.read_csv(csv_folder / "test.csv")
    expected = tinytrm.evaluate(load_model(out), tinytrm.Puzzles(inputs, labels), steps=5)
    assert result["puzzles"] == 20 and len(result["by_step"]) == 5
    assert result["cell_accuracy"] == pytest.approx(expected["cell_accuracy"], abs=1e-6)


def test_a_checkpoint_is_evaluated_like_a_run(trained):
    """It says itself what it was trained on; evaluate.py asked for a --task once."""
    checkpoint = sorted(trained[0].glob("checkpoint-*"))[-1]
    whole, part = (json.loads(program("evaluate.py", path, "--json")[0])
                   for path in (trained[0], checkpoint))
    assert whole == part


def test_same_command_same_weights(trained, csv_folder, tmp_path):
    out = tmp_path / "second"
    program("train.py", "--data", csv_folder, "--out", out, "--steps", 25, *SMALL)
    a, b = (load_model(p).state_dict() for p in (trained[0], out))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_one_csv_is_split_and_the_split_is_found_again(csv_folder, tmp_path, monkeypatch):
    """What was trained on is never scored by a later evaluation without a word."""
    mine, out = tmp_path / "mine.csv", tmp_path / "run"
    shutil.copy(csv_folder / "train.csv", mine)
    monkeypatch.chdir(tmp_path)
    stdout, _ = program("train.py", "--data", "mine.csv", "--out", out, "--steps", 2, *SMALL)
    monkeypatch.chdir(ROOT)
    assert "54 training" in stdout and "6 held out" in stdout
    about = load_model(out).extra["about"]
    assert about["data"] == str(mine.resolve()), "found from anywhere"
    for words in ([], ["--data", mine]):
        result = json.loads(program("evaluate.py", out, "--json", *words)[0])
        assert result["puzzles"] == 6 and "training held out" in result["remarks"][0]
    model = load_model(out)
    held = tasks.reopen(model).test.inputs
    config = dataclasses.replace(PRESETS["sudoku6"].config, seed=0)
    again = tasks.open_task("sudoku6", config, mine)
    assert np.array_equal(held, again.test.inputs)
    mine.write_text(mine.read_text() + mine.read_text().splitlines()[-1] + "\n")
    for named in None, mine:
        with pytest.raises(ValueError, match="has changed since training"):
            tasks.reopen(model, named)
    mine.unlink()
    with pytest.raises(FileNotFoundError, match="not there; name puzzles by --data"):
        tasks.reopen(model)
    other = tasks.reopen(model, csv_folder)
    assert not other.remarks and other.about["data"] == str(csv_folder.resolve()), "what is asked"


def test_a_folder_that_was_split_anew(csv_folder, tmp_path):
    """Its held-out puzzles may be those that the model was trained on."""
    mine = tmp_path / "mine"
    shutil.copytree(csv_folder, mine)
    task = tasks.open_task("sudoku6", PRESETS["sudoku6"].config, mine)
    model = tinytrm.TRM(task.config)
    model.extra = task.extra()
    assert not tasks.reopen(model).remarks
    head, *rows = (mine / "train.csv").read_text().splitlines(keepends=True)
    (mine / "train.csv").write_text(head + "".join(rows[1:]))
    for named in None, mine, mine / "test.csv":
        assert "PERHAPS NOT HELD OUT" in tasks.reopen(model, named).remarks[0]
    shutil.copy(csv_folder / "train.csv", mine / "train-60-seed0.csv")  # one of several is enough
    assert not tasks.reopen(model).remarks
    for file in mine.glob("train*"):
        file.unlink()
    assert not tasks.reopen(model).remarks, "the held-out puzzles alone, on another machine"


def test_sudokus_are_augmented_with_the_hints_asked_for(csv_folder):
    task = tasks.open_task("sudoku6", PRESETS["sudoku6"].config, csv_folder, hints=0.25)
    assert task.train.augment.keywords == dict(box=(2, 3), hints=0.25)


def test_halt_reaches_the_score(tmp_path):
    x, y = sudoku.generate(20, (2, 3), seed=5)
    sudoku.write_csv(tmp_path / "t.csv", x, y, (2, 3))
    model = ROOT / "notebooks/models/sudoku6.pt"
    words = [model, "--data", tmp_path / "t.csv", "--steps", 8, "--json", "--device", "cpu"]
    plain, halted = (json.loads(program("evaluate.py", *words, *more)[0])
                     for more in ([], ["--halt"]))
    want = tinytrm.evaluate(load_model(model), tinytrm.Puzzles(x, y), 8, halt=True)
    assert plain["mean_steps"] == 8 > halted["mean_steps"] == pytest.approx(want["mean_steps"])


def test_puzzles_that_were_trained_on_are_named_in_the_result(trained, csv_folder):
    stdout, _ = program("evaluate.py", trained[0], "--data", csv_folder / "train.csv", "--halt")
    assert "60 puzzles" in stdout and "NOT HELD OUT" in stdout


def test_generated_data_is_reused_and_a_second_run_just_works(tmp_path):
    """In a copy of the repository, as on a fresh clone. The first run moves aside, whole."""
    copy = tmp_path / "clone"
    copy_of_the_repository(copy)
    words = "--preset sudoku4 --steps 3 --device cpu".split()
    code = f"import train\nfor _ in 'ab':\n    print('begun')\n    assert train.main({words}) == 0"
    done = run([sys.executable, "-c", code], copy, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("begun\n")[1:]
    assert "generating 36 puzzles" in first and "generating" not in second
    assert "moved" not in first and "now in runs/sudoku4-1\n" in second
    for name in ("sudoku4", "sudoku4-1"):
        assert {p.name for p in (copy / "runs" / name).iterdir()} == {
            "checkpoint-00000003", "metrics.csv", "model.pt"}


def copy_of_the_repository(folder):
    for name in ("*.py", "data/*.py", "support/*.py", "tinytrm_beyond/*.py"):
        for path in ROOT.glob(name):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def test_help_explains_every_field():
    stdout, _ = program("train.py", "-h")
    for field in dataclasses.fields(tinytrm.Config):
        assert re.search(rf"--{field.name}\b", stdout)


def test_nan_stops_training_and_names_the_step(csv_folder, tmp_path):
    words = ["--data", csv_folder, "--out", tmp_path / "run", "--steps", 40, *SMALL]
    _, err = program("train.py", *words, "--lr", "1e15", "--warmup", 0, code=2)
    assert re.search(r"error: .* at step \d+", err) and err.count("\n") == 1
    assert not (tmp_path / "run" / "model.pt").exists()


def test_after_nan_its_advice_can_be_taken(csv_folder, tmp_path, monkeypatch):
    """--resume refused the smaller rate, so that all was lost."""
    words = ["--data", csv_folder, "--out", tmp_path / "run", "--steps", 40, "--save_every", 10,
             *SMALL]
    real, spoilt = monitor.Monitor.__call__, []

    def spoil(self, state, metrics):
        if state.step == 15 and not spoilt:
            spoilt.append(True)
            metrics["loss"] = metrics["loss"] * torch.nan
        real(self, state, metrics)

    monkeypatch.setattr(monitor.Monitor, "__call__", spoil)
    _, err = program("train.py", *words, code=2)
    assert "at step 15; the last good checkpoint is" in err and "checkpoint-00000010;" in err
    words.remove("float32"), words.remove("--dtype")
    said, err = program("train.py", *words, "--resume", "--lr", 5e-4, "--dtype", "bfloat16")
    assert err.startswith("warning: ") and "if that is a slip" in err and err.count("\n") == 1
    config = load_model(tmp_path / "run").config
    assert (config.lr, config.dtype) == (5e-4, "bfloat16")
    line = next(line for line in said.splitlines() if line.startswith("resumed"))
    assert line.endswith("step 10, lr 0.006 -> 0.0005, dtype float32 -> bfloat16"), line


# ------------------------------------------------------------------------------------------------
# While it runs


def test_every_evaluation_asked_for_happens(csv_folder, tmp_path):
    """`--eval_every 7` never fired, since only every tenth step was looked at. The best weights
    are kept, and milestones, and evaluated like any model."""
    out = tmp_path / "run"
    words = ["--data", csv_folder, "--out", out, "--steps", 25, "--eval_every", 7, *SMALL]
    stdout, _ = program("train.py", *words, "--milestones", 2)
    with open(out / "metrics.csv", newline="") as file:
        rows = {int(r["step"]): r["held_out_exact"] for r in csv.DictReader(file)}
    assert [s for s in rows if rows[s]] == [7, 14, 21] and set(rows) >= {8, 10, 16, 20, 25}
    best = tinytrm.load(out / "best.pt").extra["kept"]
    assert best == dict(step=7, held_out=float(rows[7]), asked=20), "the first of equals"
    assert "best      0.0% after step 7" in stdout and "chosen on these very puzzles" in stdout
    assert [p.name for p in sorted(out.glob("mile*"))] == [
        "milestone-00000008.pt", "milestone-00000016.pt"]
    assert json.loads(program("evaluate.py", out / "best.pt", "--json")[0])["puzzles"] == 20


def test_long_runs_are_evaluated_without_being_asked(csv_folder, tmp_path, monkeypatch, capsys):
    """A run that will take more than ten minutes (here: no time at all) is looked at 20 times."""
    from support import monitor
    from support.monitor import Monitor, Schedule, start_metrics

    config = dataclasses.replace(PRESETS["sudoku6"].config, dim=16, n=1, T=1, batch_size=8,
                                 steps=60, eval_steps=1)
    task = tasks.open_task("sudoku6", config, csv_folder)
    for limit, looks in ((monitor.LONG, []), (-1, [20, 30, 40, 50, 60])):
        monkeypatch.setattr(monitor, "LONG", limit)
        out = tmp_path / str(limit)
        out.mkdir()
        start_metrics(out / "metrics.csv", 0)
        tinytrm.train(config, task.train, on_step=Monitor(out, task, Schedule(log_seconds=0)))
        rows = monitor.read_metrics(out / "metrics.csv")
        assert [int(r["step"]) for r in rows if r["held_out_exact"]] == looks
    assert re.search(r"left, ends \w+ \d\d:\d\d, \d\.\d GiB", capsys.readouterr().out)


def test_the_sample_is_fixed_and_named(csv_folder, tmp_path):
    stdout, _ = program("train.py", "--data", csv_folder, "--out", tmp_path / "run", "--steps", 1,
                        *SMALL, "--eval_puzzles", 5)
    assert stdout.count("a fixed sample of 5 of 20 held-out puzzles") == 2
    a, b = (tasks.sample(tinytrm.Puzzles(x, x), 5).inputs
            for x in (np.arange(1, 41).reshape(20, 2), np.arange(1, 41).reshape(20, 2)))
    assert np.array_equal(a, b) and not np.array_equal(a[:, 0], [1, 3, 5, 7, 9])


def test_puzzles_with_several_solutions_are_counted(csv_folder, tmp_path):
    inputs, labels, box = sudoku.read_csv(csv_folder / "test.csv")
    for row in inputs[:3]:
        row[np.flatnonzero(row > 1)[0]] = 1  # a minimal puzzle without one of its clues
    sudoku.write_csv(tmp_path / "mine.csv", inputs[:10], labels[:10], box)
    words = ["--data", tmp_path / "mine.csv", "--out", tmp_path / "run", "--steps", 1, *SMALL]
    held = tasks._held_out(10, 1)[:3].sum()
    stdout, _ = program("train.py", *words, "--seed", 1)
    assert held == 0 and "several solutions" not in stdout
    stdout, _ = program("train.py", *words, "--seed", 7, "--overwrite")
    assert tasks._held_out(10, 7)[:3].sum() == 1
    assert stdout.count("1 of the held-out puzzles have several") == 2
    said = "1 of 1 held-out puzzles had several solutions"
    assert said in program("evaluate.py", tmp_path / "run", "--steps", 1)[0], "it forgot"


def test_resuming_a_finished_run_says_so(csv_folder, tmp_path):
    words = ["--data", csv_folder, "--out", tmp_path / "run", "--steps", 4, *SMALL]
    program("train.py", *words)
    assert "finished  all 4 steps had been trained before" in program(
        "train.py", *words, "--resume")[0]


# ------------------------------------------------------------------------------------------------
# Mazes, ARC and the authors' checkpoints, the whole way


def test_rows_and_columns_follow_the_size_of_the_grid():
    """Of presets that know them; what is given stays."""
    columns = lambda *words: getattr(train.parse_args(["--preset", *words])[1], "columns", 0)
    assert columns("arc-mini") == 4 and columns("arc-mini", "--seq_len", "100") == 10
    assert columns("arc-mini", "--seq_len", "100", "--columns", "0") == 0
    assert columns("maze", "--seq_len", "100") == 0


def test_symbols_follow_the_number_of_digits():
    symbols = lambda *words: getattr(train.parse_args(["--preset", *words])[1], "symbols", 1)
    assert symbols("sudoku9") == 9 and symbols("sudoku9", "--vocab_size", "8") == 6
    assert symbols("sudoku9", "--vocab_size", "8", "--symbols", "1") == 1
    assert symbols("sudoku6", "--vocab_size", "11") == 1


def test_two_step_phase_keeps_its_share_of_the_steps():
    """8000 of 24,500; with --steps 8000 no late step would have been trained."""
    phase = lambda *words: train.parse_args(["--preset", *words])[1].two_step_phase
    assert phase("sudoku9", "--steps", "8000") == 8000 * 8000 // 24_500
    assert phase("sudoku9", "--steps", "24500") == phase("sudoku9") == 8000
    assert phase("sudoku9", "--steps", "100", "--two_step_phase", "0") == 0
    assert phase("sudoku6", "--two_step_phase", "50") == 50, "a field that the paper does not have"


def test_maze_the_whole_way(tmp_path, refused):
    inputs, labels = maze.generate(30, 6, min_path=8, seed=0)
    maze.write_csv(tmp_path / "train.csv", inputs[:20], labels[:20])
    maze.write_csv(tmp_path / "test.csv", inputs[20:], labels[20:])
    args = ["--preset", "maze-mini", "--seq_len", 36, "--data", tmp_path, "--out", tmp_path / "run"]
    stdout, _ = program("train.py", *args, "--steps", 3, *SMALL)
    assert "show a shortest path" in stdout and "step 1" in stdout
    stdout, _ = program("evaluate.py", tmp_path / "run", "--json")
    result = json.loads(stdout)
    assert "--rollouts does nothing" in refused("evaluate.py", tmp_path / "run", "--rollouts", 2)
    assert result["puzzles"] == 10 and 0 <= result["exact_accuracy"] <= 1
    assert result["exact_accuracy"] <= result["valid_path_accuracy"] <= 1


def test_mazes_are_trained_as_they_are(tmp_path):
    """A turned maze has another labelled path: copies only where they are asked for."""
    inputs, labels = maze.generate(20, 6, min_path=8, seed=0)
    maze.write_csv(tmp_path / "mazes.csv", inputs, labels)
    config = PRESETS["maze-mini"].config
    plain, turned = (tasks.open_task("maze-mini", config, tmp_path / "mazes.csv", flag)
                     for flag in (False, True))
    draw = np.random.default_rng(0).random
    seen = plain.train.draw(np.arange(18), 0, lambda k: draw((18, k)))[0]
    assert {row.tobytes() for row in seen} <= {row.tobytes() for row in plain.train.inputs}
    assert turned.train.augment is maze.augment and plain.train.augment is None
    assert plain.about["augmented"] is False and turned.about["augmented"] is True


@pytest.fixture(scope="module")
def arc_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("arc") / "run"
    words = [w for w in SMALL if w not in ("--eval_puzzles", "20")]
    program("train.py", "--preset", "arc-mini", "--out", out, "--steps", 30, "--eval_steps", 2,
            "--milestones", 1, *words)
    return out


def test_arc_the_whole_way(arc_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stdout, _ = program("evaluate.py", arc_run, "--json", "--submission", tmp_path / "sub.json")
    assert [p.name for p in tmp_path.iterdir()] == ["sub.json"], "evaluation writes nothing else"
    result, model = json.loads(stdout), load_model(arc_run)
    assert result["puzzles"] == 6 and result["checkpoints"] == 1
    assert set(result["pass_at"]) == {"1", "2", "5", "10", "100", "1000"}
    assert result["exact_accuracy"] == result["pass_at"]["2"]
    copies = np.bincount(model.extra["puzzle_ids"]["task"].numpy()[1:])
    assert len(copies) == 12 and result["predictions"] > 6 * 4
    submission = json.loads((tmp_path / "sub.json").read_text())
    assert len(submission) == 6
    for answers in submission.values():
        assert len(answers) == 4 and set(answers[0]) == {"attempt_1", "attempt_2"}


def test_two_processes_vote_like_one(arc_run, tmp_path):
    program("evaluate.py", arc_run, "--submission", tmp_path / "one.json")
    done = run([*TORCHRUN, "--nproc_per_node=2", ROOT / "evaluate.py", arc_run, "--json",
                "--submission", tmp_path / "two.json"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()


def test_damaged_puzzle_table_is_an_error(arc_run):
    model = load_model(arc_run)
    model.extra["puzzle_ids"]["dihedral"][5] += 1
    with pytest.raises(ValueError, match="puzzle ids"):
        tasks.reopen(model)


def test_pooling_is_labelled_and_refuses_strangers(arc_run, trained, refused, monkeypatch):
    milestone = arc_run / "milestone-00000015.pt"
    cast, vote = [], evaluate.vote
    count = lambda votes: sum(n for c in votes.counts.values() for n, _ in c.values())

    def overheard(*args, **how):
        votes, *rest = vote(*args, **how)
        cast.append((votes, count(votes)))
        return votes, *rest

    monkeypatch.setattr("evaluate.vote", overheard)
    stdout, _ = program("evaluate.py", arc_run, "--pool", milestone, "--copies", 0)
    assert "pooled votes of 2 checkpoints" in stdout
    (pooled, first), (_, second) = cast
    assert count(pooled) == first + second and second > 0, "the votes of both"
    compiled = Mock()
    monkeypatch.setattr("evaluate.compile_net", compiled)
    program("evaluate.py", arc_run, "--pool", milestone, "--copies", 0, "--compile")
    assert len({id(call.args[0]) for call in compiled.call_args_list}) == 2, "each, not the first"
    monkeypatch.setattr("evaluate.vote", Mock(side_effect=AssertionError("before the work")))
    assert "not those of" in refused("evaluate.py", arc_run, "--pool", milestone, trained[0])


def test_the_authors_mazes_have_no_boxes(monkeypatch):
    monkeypatch.setattr("support.official.load_official", lambda *_, **__: Mock())
    monkeypatch.setattr("support.official.reopen", lambda model, _: model.extra["about"]["box"])
    for name, box in ("maze", None), ("sudoku", [3, 3]):
        assert official_task(Path("x"), name, Path("y"), None, n=4, T=3)[1] == box


@pytest.fixture
def official(tmp_path):
    """A file as the authors' code writes them, its puzzles, and the same model in ours."""
    inputs, labels = sudoku.generate(6, (3, 3), clues=40, seed=0)
    sudoku.write_csv(tmp_path / "test.csv", inputs, labels, (3, 3))
    model = tinytrm.TRM(tinytrm.Config(dim=16, heads=2, n=1, T=2, mixer="attention",
                                       puzzle_tokens=2))
    names = {"token_embedding": "embed_tokens.embedding_weight", "output_head": "lm_head.weight",
             "halt_head": "q_head", "puzzle_table": "puzzle_emb.weights", "y_init": "H_init",
             "z_init": "L_init", "layers": "L_level.layers", "mix_in": "self_attn.qkv_proj.weight",
             "mix_out": "self_attn.o_proj.weight", "gate_up": "mlp.gate_up_proj.weight",
             "down": "mlp.down_proj.weight"}
    weights = {}
    for key, tensor in model.state_dict().items():
        parts = [names.get(part, part) for part in key.split(".")]
        weights["_orig_mod.model.inner." + ".".join(parts)] = tensor
    torch.save(weights, tmp_path / "step_1")
    flags = ["--official", tmp_path / "step_1", "--task", "sudoku", "--data", tmp_path / "test.csv",
             "--T", 2, "--heads", 2, "--puzzle_tokens", 2]
    return flags, model, tinytrm.Puzzles(inputs, labels), weights


def test_official_checkpoint_the_whole_way(official, refused):
    flags, model, puzzles, _ = official
    stdout, _ = program("evaluate.py", *flags, "--n", 1, "--steps", 3, "--json")
    expected = tinytrm.evaluate(model, puzzles, steps=3)
    assert json.loads(stdout)["cell_accuracy"] == pytest.approx(expected["cell_accuracy"], abs=1e-6)
    assert "--n" in refused("evaluate.py", *flags)
    del flags[4:6]  # a puzzle of one's own needs no --data
    text = "".join(".0123456789"[t] for t in puzzles.inputs[3]).replace("0", ".")
    stdout, _ = program("evaluate.py", *flags, "--n", 1, "--steps", 3, "--json", "--puzzle", text)
    answer = "".join("..123456789"[t] for t in tinytrm.solve(model, puzzles.inputs[3:4],
                                                             steps=3).answers[0])
    assert (said := json.loads(stdout))["answer"] == answer and len(said["q"]) == 3
    flags[3] = "arc1"
    assert "an ARC task" in refused("evaluate.py", *flags, "--n", 1, "--puzzle", text)


def test_files_that_are_no_official_checkpoint(official, trained, tmp_path, refused):
    flags, _, _, weights = official
    torch.save({"state_dict": weights}, tmp_path / "nested")
    torch.save({**weights, "_orig_mod.model.inner.H_init": weights[
        "_orig_mod.model.inner.H_init"] * float("nan")}, tmp_path / "nan")
    for file, words in ((tmp_path / "nested", "one entry"), (tmp_path / "nan", "not finite"),
                        (trained[0] / "model.pt", "TinyTRM's own")):
        assert words in refused("evaluate.py", "--official", file, *flags[2:], "--n", 1)


def test_checkpoints_name_data_of_the_repository_without_the_machines_paths(tmp_path, monkeypatch):
    assert tasks._portable(ROOT / "data" / "sudoku6-seed0") == "data/sudoku6-seed0"
    monkeypatch.chdir(tmp_path)  # from anywhere
    assert tasks._portable("mine.csv") == str((tmp_path / "mine.csv").resolve())
    task = tasks.open_task("sudoku4", PRESETS["sudoku4"].config, None)
    model = tinytrm.TRM(task.config)
    model.extra = dict(about=task.about)
    assert not os.path.isabs(task.about["data"])
    assert (tasks.reopen(model).test.inputs == task.test.inputs).all()


def test_record_of_a_run_cut_into_pieces(csv_folder, tmp_path, monkeypatch):
    """`--resume auto` begins, then goes on; the record has the figures and the whole time."""
    words = ["--data", csv_folder, "--out", tmp_path / "run", "--resume", "auto", *SMALL]
    words += ["--hints", 0.25, "--eval_steps", 2]
    program("train.py", *words, "--steps", 10)
    more = ["--steps", 30, "--record", tmp_path / "records"]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*words, *more])])  # in the record
    stdout, _ = program("train.py", *words, *more)
    assert "resumed" in stdout and "trained   20 steps" in stdout
    assert "25% of the training copies show more of the solution" in stdout
    with open(tmp_path / "records/sudoku6-seed0.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(r["seconds"]) for r in rows]
    assert [int(r["step"]) for r in rows] == [10, 20, 30] and seconds == sorted(seconds)
    text = (tmp_path / "records/sudoku6-seed0.md").read_text()
    assert f"Trained 30 steps in {seconds[-1] / 60:.1f} minutes" in text
    held_out = next(line for line in stdout.splitlines() if line.startswith("held out"))
    assert held_out in text and "rollouts         1       2       4       8" in text
    assert "until one keeps the rules" in text and "by guess" in text
    assert "by guess" in stdout, "nor lost, if the record cannot be written"
    assert "dim = 16" in text and "--record" in text and "\nhints = 0.25\n" in text


def test_record_of_a_finished_run_in_another_folder(csv_folder, tmp_path, monkeypatch):
    """The time is that of the checkpoint; the log of the other folder has no row. And without git,
    the commit is not known."""
    words = ["--data", csv_folder, "--steps", 10, "--eval_steps", 2, *SMALL]
    program("train.py", *words, "--out", tmp_path / "a")
    start = tmp_path / "a/checkpoint-00000010"
    again = ["--resume", start, "--out", tmp_path / "b", "--record", tmp_path / "records"]
    monkeypatch.setattr("support.record.subprocess.run", Mock(side_effect=FileNotFoundError))
    stdout, _ = program("train.py", *words, *again)
    assert "finished  all 10 steps" in stdout
    text = (tmp_path / "records/sudoku6-seed0.md").read_text()
    assert "commit unknown" in text and "Trained 10 steps in 0." in text
    path = tmp_path / "records/sudoku6-seed0.md"
    path.write_text(text.replace("\ndim = 16\n", "\ndim = 99\n"))  # as if of other settings
    for _ in range(2):
        program("train.py", *words, *again, "--overwrite")
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "sudoku6-seed0-2.csv", "sudoku6-seed0-2.md", "sudoku6-seed0.csv", "sudoku6-seed0.md"]
    assert "\ndim = 99\n" in path.read_text(), "another's record is not replaced"
    model = tinytrm.load(tmp_path / "b/model.pt")
    before = load_model(start).extra["trained"]["seconds"]
    assert model.extra["trained"]["seconds"] >= before > 0


def test_curves(tmp_path):
    sys.path.insert(0, str(ROOT / "docs"))
    import plot_curves

    curve = np.array([[10.0, 20.0], [20.0, 90.0], [30.0, 100.0]])
    assert plot_curves.reached(curve, 95) == "25 s" and plot_curves.reached(curve, 101) == "never"
    assert plot_curves.reached(curve, 10) == "10 s"
    out, words = tmp_path / "run", ["--steps", 20, "--eval_every", 10, *SMALL]
    program("train.py", "--preset", "sudoku4", *words, "--dim", 8, "--out", out)
    picture = str(tmp_path / "curves.png")
    assert plot_curves.main([picture, f"small={out}:0.5"]) == 0
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert plot_curves.read_run(out, 0.5)[:, 0].tolist() == [5.0, 10.0]
    assert plot_curves.main([picture]) == 2
    assert plot_curves.main([picture, f"none={tmp_path}/nothing-*"]) == 2


def test_a_picture_of_accuracy_against_flops(tmp_path):
    sys.path.insert(0, str(ROOT / "docs"))
    import plot_flops

    table = tmp_path / "flops.csv"
    table.write_text("recipe,pflop,exact,source\na,2,30,x\npublished,9,80,x\na,0.5,10,x\n")
    assert plot_flops.read(table) == {"a": [(0.5, 10.0), (2.0, 30.0)], "published": [(9.0, 80.0)]}
    assert plot_flops.main([str(tmp_path / "flops.png"), str(table)]) == 0
    assert (tmp_path / "flops.png").read_bytes()[:4] == b"\x89PNG"
    assert plot_flops.main([str(table)]) == 2
