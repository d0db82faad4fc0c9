"""Bad input: one line, exit code 2, nothing changed on the disk. Values of all flags, flags that do
nothing, files of all kinds of damage."""
import shutil

import numpy as np
import pytest
import torch

import evaluate
import tinytrm
import train
from conftest import SMALL, program, tree
from data import maze, sudoku
from support import console, tasks
from support.checkpoints import load_model
from support.presets import PRESETS

VALUES = ("-1", "nan", "inf", "1e400", "text", "", "99999999999999999999", "0")
ZERO = set("save_minutes milestones eval_every eval_copies log_seconds price "
           "halt_exploration halt_weight micro_batch lr warmup weight_decay "
           "puzzle_lr puzzle_weight_decay ema seed copies columns two_step_phase".split())
NUMBERS = [(name, action.option_strings[0], action.dest)
           for name, p in (("train.py", train.parser()), ("evaluate.py", evaluate.parser()))
           for action in p._actions if isinstance(action.type, type) and action.type is not str
           and action.type.__name__ in ("int", "float") or action.type in (
               console.count, console.count_or_none, console.amount)]
CASES = [(name, flag, value) for name, flag, dest in NUMBERS for value in VALUES
         if not (value == "0" and dest in ZERO)]


def test_there_are_many():
    assert len(NUMBERS) > 35 and len(CASES) > 250


@pytest.mark.parametrize("name, flag", sorted({case[:2] for case in CASES}))
def test_values_out_of_range(name, flag, refused):
    for value in [v for n, f, v in CASES if (n, f) == (name, flag)]:
        line = refused(name, *(["run"] if name == "evaluate.py" else []), f"{flag}={value}")
        assert flag.strip("-") in line


@pytest.mark.parametrize("args, words", [
    (["--preset", "sudoku7"], "sudoku7"), (["--no_such_flag", 1], "no_such_flag"),
    (["--step", 5], "--step"),  # no abbreviations: a slip might be another flag
    (["--mixer", "attention", "--dim", 20], "multiple of"), (["--mixer", "lstm"], "--mixer"),
    (["--dim", 99999999], "lower dim"), (["--layers", 99999999], "layers must be in 1..100"),
    (["--width_multiple", 99999999], "lower dim"), (["--vocab_size", 99999999], "lower dim"),
    (["--expansion", 1e15], "expansion must be in 0..1000"),
    (["--batch_size", 99999999], "--micro_batch"),
    (["--seq_len", 99999999], "lower dim"), (["--ema", 99], "ema"), (["--halt_exploration", 7],
                                                                      "halt_exploration"),
    (["--seq_len", 35], "35 cells are no square"), (["--vocab_size", 20], "vocab_size is 8"),
    (["--data", "/nowhere"], "/nowhere"), (["--data", "."], "train.csv"),
    (["--resume"], "no checkpoint in"), (["--resume", "/nowhere"], "no checkpoint folder"),
    (["--out", "/dev/null"], "is a file"),
    (["--record", "/dev/null/x"], "--record /dev/null: is a file"),
    (["--dry-run", "--bench"], "not allowed with"),
    (["--hints", 1.5], "from 0 to 1"), (["--hints", "nan"], "from 0 to 1"),
    # flags that would do nothing
    (["--preset", "arc-mini", "--hints", 0.3], "does nothing for arc"),
    (["--preset", "maze-mini", "--hints", 0.3], "does nothing for maze"),
    (["--eval_copies", 3], "does nothing for sudoku"), (["--augment_mazes"], "for sudoku"),
    (["--num_puzzle_ids", 7], "data decides"), (["--heads", 4], "with --mixer mlp"),
    (["--record", "x", "--bench"], "--record does nothing with --bench"),
    (["--gpus", 3], "without --dry-run"),
    (["--preset", "arc-mini", "--eval_puzzles", 3], "does nothing for ARC"),
    (["--preset", "arc-mini", "--allow_copies"], "does nothing for ARC"),
    (["--preset", "arc1", "--data", ".", "--batch_size", 4], "holds no"),
    *[(["--device", d], "not available") for d in ("warp", "meta", "cuda:77", "")]])
def test_bad_arguments_of_train(args, words, refused):
    assert words in refused("train.py", "--steps", 2, *args)


@pytest.mark.parametrize("args, words", [
    (["--submission", "x.json"], "--submission does nothing for sudoku"),
    (["--copies", 3], "--copies does nothing"), (["--pool", "."], "--pool does nothing"),
    (["--n", 3], "without --official"), (["--T", 3], "without"), (["--task", "maze"], "without"),
    (["--heads", 4], "without"), (["--identifiers", "x"], "without"),
    (["--guesses", 2], "--rollouts K"), (["--rollouts", 2, "--halt"], "takes all steps"),
    (["--submission", "nowhere/x.json"], "cannot be written there"),
    (["--submission", "."], "is a folder"), (["--data", "/nowhere.csv"], "/nowhere.csv"),
    (["--device", "meta"], "not available"),
    (["--puzzle", "1", "--number", 2], "--number does nothing with --puzzle"),
    (["--puzzle", "1", "--data", "x.csv"], "--data does nothing with --puzzle"),
    (["--puzzle", "1", "--puzzles", 3], "--puzzles does nothing with --puzzle"),
    *[([*one, "--html", "x.html"], "--html does nothing with --puzzle, --number") for one in (
        ["--puzzle", ""], ["--number", 1], ["--picture", "x.png"], ["--gif", "x.gif"])],
    (["--number", 1, "--rollouts", 2], "--rollouts does nothing"),
    (["--number", 1, "--batch_size", 2], "--batch_size does nothing"),
    (["--number", 1, "--compile"], "--compile does nothing"), (["--number", 21], "are 20 held-out"),
    (["other", "--number", 1], "for --html FILE only"),
    (["--picture", "x.doc"], "must end in one of"), (["--gif", "x.png"], "must end in gif"),
    (["--picture", "."], "is a folder"), (["--gif", "nowhere/x.gif"], "cannot be written there")])
def test_bad_arguments_of_evaluate(args, words, trained, refused):
    assert words in refused("evaluate.py", trained[0], *args)


def test_a_run_or_an_official_file(refused):
    assert "either" in refused("evaluate.py")
    assert "either" in refused("evaluate.py", "a", "--official", "b")
    assert "--task" in refused("evaluate.py", "--official", "b")
    assert "no such file" in refused("evaluate.py", "--official", "b", "--task", "sudoku", "--n", 1,
                                     "--T", 1)


# ------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("row, words", [
    ("x,1234,1234,", "row 3"),  # another size
    ("x,{q}9,{a},", "row 3"), ("x,{q},{broken},", "row 3"), ("x,{q}", "row 3"),
    ("x,{q},{a}\xff,", "row 3")])
def test_bad_rows_are_named(row, words, csv_folder, tmp_path, refused):
    lines = (csv_folder / "train.csv").read_text().splitlines()
    _, question, answer, *_ = lines[3].split(",")
    lines[3] = row.format(q=question, a=answer, broken=answer[:-1] + answer[0])
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join(lines) + "\n")
    message = refused("train.py", "--data", bad, "--steps", 2)
    assert str(bad) in message and words in message


@pytest.mark.parametrize("content", [b"", b"\n\n", b"source,question,answer,rating\n", b"\0" * 99,
                                     b"\xff\xfe\x00", b"question,answer\n1,\n", b"a,b\n1,2\n",
                                     b'question,answer\n"1,2\n', b"PK\x03\x04"])
def test_files_that_are_no_puzzles(content, tmp_path, trained, refused):
    path = tmp_path / "odd.csv"
    path.write_bytes(content)
    assert "odd.csv" in refused("train.py", "--data", path, "--steps", 2)
    assert "odd.csv" in refused("evaluate.py", trained[0], "--data", path)
    assert "odd.csv" in refused("evaluate.py", path)


def test_puzzles_of_another_size_than_the_model(trained, tmp_path, refused):
    inputs, labels = sudoku.generate(4, (2, 2), seed=0)
    sudoku.write_csv(tmp_path / "four.csv", inputs, labels, (2, 2))
    assert "not (3, 16)" in refused("train.py", "--data", tmp_path / "four.csv")
    assert "four.csv" in refused("evaluate.py", trained[0], "--data", tmp_path / "four.csv")


def test_one_puzzle_is_too_few(csv_folder, tmp_path, refused):
    text = "\n".join((csv_folder / "train.csv").read_text().splitlines()[:2])
    (tmp_path / "one.csv").write_text(text)
    assert "holds one puzzle" in refused("train.py", "--data", tmp_path / "one.csv")


def flipped(content):
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 1]) + content[half + 1:]


@pytest.mark.parametrize("damage", [flipped, lambda c: c[:2000], lambda c: c[:-1], lambda c: b""])
def test_damaged_models(damage, trained, tmp_path, refused):
    (tmp_path / "torn.pt").write_bytes(damage((trained[0] / "model.pt").read_bytes()))
    assert "torn.pt" in refused("evaluate.py", tmp_path / "torn.pt")


def test_models_that_are_not_what_they_seem(trained, tmp_path, refused):
    model = load_model(trained[0])
    tinytrm.save(tmp_path / "bare.pt", model)
    assert "tinytrm.evaluate" in refused("evaluate.py", tmp_path / "bare.pt")
    content = torch.load(trained[0] / "model.pt", weights_only=True)
    content["config"]["new_field"] = 1
    torch.save(content, tmp_path / "newer.pt")
    assert "new_field" in refused("evaluate.py", tmp_path / "newer.pt")
    with torch.no_grad():
        model.output_weight[0] = float("nan")
    tinytrm.save(tmp_path / "nan.pt", model, about=model.extra["about"])
    assert "nan.pt" in refused("evaluate.py", tmp_path / "nan.pt")
    assert "no such model" in refused("evaluate.py", tmp_path / "nothing")
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "model.pt").unlink()
    line = refused("evaluate.py", tmp_path / "run")
    assert "the run has not ended, but there is" in line and "checkpoint-00000025" in line


def test_a_refused_resumption_moves_nothing(trained, csv_folder, refused):
    """Not even with --overwrite, which would put newer checkpoints aside."""
    out, _ = trained
    before, older = tree(out), sorted(out.glob("checkpoint-*"))[0]
    words = ["--data", csv_folder, "--out", out, "--overwrite", "--resume", older, *SMALL]
    assert "another config (ema" in refused("train.py", *words, "--ema", 0.5)
    assert "other hints" in refused("train.py", *words, "--hints", 0.3)
    words[1] = csv_folder / "test.csv"
    assert "trained on other puzzles" in refused("train.py", *words)
    assert tree(out) == before


# ------------------------------------------------------------------------------------------------
# Held-out puzzles that were trained on


def test_symmetric_copies_are_counted_and_refused(csv_folder, tmp_path, refused):
    """Forty copies of one puzzle, or test.csv = train.csv, passed for held out."""
    inputs, labels, box = sudoku.read_csv(csv_folder / "train.csv")
    random = np.random.default_rng(0)
    many = sudoku.augment(inputs[:1].repeat(40, 0), labels[:1].repeat(40, 0),
                          lambda k: random.random((40, k)), box)
    sudoku.write_csv(tmp_path / "forty.csv", *many, box)
    line = refused("train.py", "--data", tmp_path / "forty.csv", "--steps", 2)
    assert "4 of 4 held-out puzzles are symmetric copies of training ones" in line
    held = np.flatnonzero(np.random.default_rng(0).permutation(40) < 4)
    assert f"the first: puzzle {held[0] + 1} of the file" in line
    program("train.py", "--data", tmp_path / "forty.csv", "--out", tmp_path / "forty", "--steps", 2,
            "--allow_copies", *SMALL)
    shutil.move(tmp_path / "forty.csv", tmp_path / "moved.csv")
    assert "4 of 4 held-out puzzles are symmetric" in program(
        "evaluate.py", tmp_path / "forty", "--data", tmp_path / "moved.csv", "--steps", 1)[0]
    same = tmp_path / "same"
    shutil.copytree(csv_folder, same)
    shutil.copy(same / "train.csv", same / "test.csv")
    line = refused("train.py", "--data", same, "--steps", 2, "--eval_puzzles", 1)
    assert f"{len(inputs)} of {len(inputs)}" in line, "of all, not of the sample alone"
    assert "the first: puzzle 1 of test.csv" in line
    stdout, _ = program("train.py", "--data", same, "--out", tmp_path / "run", "--steps", 2,
                        "--allow_copies", *SMALL)
    said = f"{len(inputs)} of {len(inputs)} held-out puzzles are symmetric copies of training ones"
    assert stdout.count(said) == 2
    assert said in program("evaluate.py", tmp_path / "run", "--steps", 1)[0], "it forgot"


def test_turned_mazes_are_copies_too(tmp_path):
    inputs, labels = maze.generate(20, 6, min_path=8, seed=0)
    turned = maze.augment(inputs[:3], labels[:3], lambda k: np.full((3, k), 0.3))
    maze.write_csv(tmp_path / "train.csv", inputs, labels)
    maze.write_csv(tmp_path / "test.csv", *turned)
    assert tasks.copies(
        tasks.open_task("maze-mini", PRESETS["maze-mini"].config, tmp_path)).tolist() == [1, 2, 3]


def test_generated_puzzles_have_no_copies():
    assert not len(tasks.copies(tasks.open_task("sudoku4", PRESETS["sudoku4"].config, None)))


def test_toy_tasks_stay_out_of_the_users_folder(tmp_path, refused):
    """They were written over the user's own files, and the toy score reported as theirs."""
    mine = tmp_path / "mine"
    for role in ("training", "evaluation"):
        (mine / role).mkdir(parents=True)
    (mine / "training" / "mirror0.json").write_text("{}")
    assert "mirror0" in refused("train.py", "--preset", "arc-mini", "--data", mine, "--steps", 2)
    assert "no such file" in refused("train.py", "--preset", "arc-mini", "--data", tmp_path / "no")
    for path in (tmp_path / "my.cvs", tmp_path / "no"):  # mistyped
        assert f"{path}: no such file or folder" in refused("train.py", "--data", path)


def test_a_stray_file_does_not_replace_the_training_set(csv_folder, tmp_path):
    folder = tmp_path / "stray"
    shutil.copytree(csv_folder, folder)
    lines = (folder / "train.csv").read_text().splitlines()[:5]
    (folder / "train-1000-seed3.csv").write_text("\n".join(lines))
    assert len(tasks.open_task("sudoku6", PRESETS["sudoku6"].config, folder).train) == 60
