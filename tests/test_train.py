"""Whole programs, as a user runs them: train.py and evaluate.py in processes of their own."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import tinytrm
from conftest import ROOT
from data import maze, sudoku

SMALL = (
    "--dim 16 --L_cycles 1 --H_cycles 2 --batch_size 16 --max_steps 3 --warmup 2 "
    "--eval_puzzles 20 --device cpu --dtype float32"
).split()


def program(name, *args, code=0, cwd=ROOT, **env):
    """Run one of the programs; returns (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def one_line(name, *args, **kw):
    """The program must refuse with exit code 2 and one line; returns that line."""
    out, err = program(name, *args, code=2, **kw)
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


@pytest.fixture(scope="module")
def csv_folder(tmp_path_factory):
    """60 + 20 generated 6x6 puzzles, as a user would bring them."""
    folder = tmp_path_factory.mktemp("puzzles")
    inputs, labels = sudoku.generate(80, (2, 3), seed=3)
    sudoku.write_csv(folder / "train.csv", inputs[:60], labels[:60], (2, 3))
    sudoku.write_csv(folder / "test.csv", inputs[60:], labels[60:], (2, 3))
    return folder


@pytest.fixture(scope="module")
def trained(csv_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    stdout, _ = program(
        "train.py", "--data", csv_folder, "--out", out, "--steps", 25, "--save_every", 10, *SMALL
    )
    return out, stdout


def test_training_leaves_a_model_a_log_and_a_picture(trained):
    out, stdout = trained
    assert "held out" in stdout and "step 1" in stdout
    with open(out / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows] == [10, 20, 25]
    assert all(np.isfinite(float(r["loss"])) for r in rows)
    model = tinytrm.load(out)
    assert (
        model.config.steps == 25
        and model.config.dim == 16
        and model.extra["about"]["box"] == [2, 3]
    )
    assert not list(out.glob(".*")), "a temporary file was left behind"


def test_evaluate_agrees_with_the_library(trained, csv_folder):
    out, _ = trained
    stdout, _ = program("evaluate.py", out, "--json", "--steps", 5)
    result = json.loads(stdout)
    assert {"exact_accuracy", "cell_accuracy", "puzzles", "by_step", "mean_steps"} <= set(result)
    inputs, labels, _ = sudoku.read_csv(csv_folder / "test.csv")
    expected = tinytrm.evaluate(tinytrm.load(out), tinytrm.Puzzles(inputs, labels), steps=5)
    assert result["puzzles"] == 20 and len(result["by_step"]) == 5
    assert result["cell_accuracy"] == pytest.approx(expected["cell_accuracy"], abs=1e-6)
    again, _ = program("evaluate.py", out, "--data", csv_folder / "train.csv", "--halt", "--json")
    assert json.loads(again)["puzzles"] == 60


def test_same_command_same_weights(trained, csv_folder, tmp_path):
    program("train.py", "--data", csv_folder, "--out", tmp_path, "--steps", 25, *SMALL)
    a, b = (tinytrm.load(p).state_dict() for p in (trained[0], tmp_path))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_one_csv_is_split(csv_folder, tmp_path):
    stdout, _ = program(
        "train.py", "--data", csv_folder / "train.csv", "--out", tmp_path, "--steps", 2, *SMALL
    )
    assert "54 training" in stdout and "6 held out" in stdout


def test_generated_data_is_reused_and_smoke_run_needs_nothing(tmp_path):
    """In a copy of the repository, so that data/ is as on a fresh clone."""
    copy = tmp_path / "clone"
    (copy / "data").mkdir(parents=True)
    for name in (
        "tinytrm.py",
        "train.py",
        "evaluate.py",
        *(f"data/{p.name}" for p in (ROOT / "data").glob("*.py")),
    ):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "train.py", "--preset", "sudoku4", "--steps", "3", "--device", "cpu"]
    first, second = (
        subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=200)
        for _ in range(2)
    )
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "generated 36 puzzles" in first.stdout and "generated 36" not in second.stdout
    assert (copy / "runs/sudoku4/model.pt").is_file()


@pytest.mark.parametrize(
    "args, numbers",
    [
        (["--preset", "sudoku"], ["5,028,866", "65,104"]),
        (["--preset", "sudoku-att"], ["6,828,034"]),
    ],
)
def test_dry_run(args, numbers, tmp_path):
    stdout, _ = program("train.py", *args, "--dry-run", "--out", tmp_path / "none")
    assert all(n in stdout for n in numbers) and not (tmp_path / "none").exists()


def test_flops_against_torchs_own_counter():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    import train

    for preset in ("sudoku", "sudoku-att"):
        config = tinytrm.dataclasses.replace(tinytrm.PRESETS[preset], dim=64, batch_size=2, heads=2)
        model = tinytrm.TRM(config)
        inputs = torch.ones(2, 81, dtype=torch.long)
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):  # the fused kernel is not counted
            *_, logits, q = model(inputs, model.puzzle_rows(inputs[:, 0] * 0), *model.start(2))
            (logits.sum() + q.sum()).backward()
        assert train.flops_per_step(config) == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_help_explains_every_field():
    stdout, _ = program("train.py", "-h")
    for field in tinytrm.dataclasses.fields(tinytrm.Config):
        assert re.search(rf"--{field.name}\b", stdout)


# ------------------------------------------------------------------------------------------------
# Bad input: one line, exit code 2, nothing damaged


@pytest.mark.parametrize(
    "args, words",
    [
        (["--preset", "sudoku7"], "sudoku7"),
        (["--no_such_flag", "1"], "no_such_flag"),
        (["--dim", "abc"], "--dim"),
        (["--dim", "0"], "dim must be"),
        (["--mixer", "attention", "--dim", "20"], "multiple of"),
        (["--data", "/nowhere"], "/nowhere"),
        (["--device", "warp"], "warp"),
        (["--batch_size", "100000000"], "micro_batch"),
        (["--save_every", "0"], "--save_every"),
    ],
)
def test_bad_arguments(args, words, tmp_path):
    assert words in one_line("train.py", "--out", tmp_path, *args)


@pytest.mark.parametrize(
    "row, words",
    [
        ("x,1234,1234,", "row 3"),  # another size
        ("x,{q}9,{a},", "row 3"),
        ("x,{q},{broken},", "row 3"),
    ],
)
def test_bad_rows_are_named(row, words, csv_folder, tmp_path):
    lines = (csv_folder / "train.csv").read_text().splitlines()
    _, question, answer, *_ = lines[3].split(",")
    broken = answer[:-1] + answer[0]
    lines[3] = row.format(q=question, a=answer, broken=broken)
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join(lines) + "\n")
    message = one_line("train.py", "--data", bad, "--out", tmp_path / "run", "--steps", 2)
    assert str(bad) in message and words in message
    assert not (tmp_path / "run" / "model.pt").exists()


def test_puzzles_of_another_size_than_the_model(trained, tmp_path):
    inputs, labels = sudoku.generate(4, (2, 2), seed=0)
    sudoku.write_csv(tmp_path / "four.csv", inputs, labels, (2, 2))
    assert "16 cells" in one_line(
        "train.py", "--data", tmp_path / "four.csv", "--out", tmp_path / "run"
    )
    message = one_line("evaluate.py", trained[0], "--data", tmp_path / "four.csv")
    assert "four.csv" in message


def test_broken_checkpoints(trained, tmp_path):
    assert "no such checkpoint" in one_line("evaluate.py", tmp_path / "nothing")
    torn = tmp_path / "torn.pt"
    torn.write_bytes((trained[0] / "model.pt").read_bytes()[:2000])
    assert "torn.pt" in one_line("evaluate.py", torn)


def test_empty_file(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv" in one_line(
        "train.py", "--data", tmp_path / "empty.csv", "--out", tmp_path / "run"
    )


def test_nan_stops_training_and_names_the_step(csv_folder, tmp_path):
    message = one_line(
        "train.py",
        "--data",
        csv_folder,
        "--out",
        tmp_path,
        "--steps",
        40,
        *SMALL,
        "--lr",
        "1e30",
        "--warmup",
        "0",
    )
    assert re.search(r"at step \d+", message) and not (tmp_path / "model.pt").exists()


# ------------------------------------------------------------------------------------------------
# Mazes, ARC and the authors' checkpoints, the whole way


def test_maze_the_whole_way(tmp_path):
    inputs, labels = maze.generate(30, 6, min_path=8, seed=0)
    maze.write_csv(tmp_path / "train.csv", inputs[:20], labels[:20])
    maze.write_csv(tmp_path / "test.csv", inputs[20:], labels[20:])
    args = ["--preset", "maze-mini", "--seq_len", 36, "--data", tmp_path, "--out", tmp_path / "run"]
    stdout, _ = program("train.py", *args, "--steps", 3, *SMALL)
    assert "show a shortest path" in stdout and "step 1" in stdout
    stdout, _ = program("evaluate.py", tmp_path / "run", "--json")
    result = json.loads(stdout)
    assert result["puzzles"] == 10 and 0 <= result["exact_accuracy"] <= 1
    assert result["exact_accuracy"] <= result["valid_path_accuracy"] <= 1


@pytest.fixture(scope="module")
def arc_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arc")
    args = ["--preset", "arc-mini", "--data", folder / "tasks", "--out", folder / "run"]
    program("train.py", *args, "--steps", 30, "--eval_steps", 2, *SMALL)
    return folder / "run"


def test_arc_the_whole_way(arc_run, tmp_path):
    command = ["evaluate.py", arc_run, "--submission", tmp_path / "submission.json", "--json"]
    stdout, _ = program(*command)
    result = json.loads(stdout)
    model = tinytrm.load(arc_run)
    assert result["puzzles"] == 6 and result["checkpoints"] == 1
    assert set(result["pass_at"]) == {"1", "2", "5", "10", "100", "1000"}
    assert result["exact_accuracy"] == result["pass_at"]["2"]
    copies = np.bincount(model.extra["puzzle_ids"]["task"].numpy()[1:])
    asked = [t.endswith(("0",)) for t in model.extra["about"]["tasks"]]
    assert len(copies) == len(asked) == 12 and result["predictions"] > 6 * 4
    submission = json.loads((tmp_path / "submission.json").read_text())
    assert len(submission) == 6
    for answers in submission.values():
        assert len(answers) == 4 and set(answers[0]) == {"attempt_1", "attempt_2"}


def test_two_processes_vote_like_one(arc_run, tmp_path):
    program("evaluate.py", arc_run, "--submission", tmp_path / "one.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "evaluate.py"), str(arc_run), "--json", "--submission"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path / "two.json")], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()


def test_damaged_puzzle_table_is_an_error(arc_run, tmp_path):
    content = torch.load(arc_run / "model.pt", weights_only=True)
    content["extra"]["puzzle_ids"]["dihedral"][5] += 1
    torch.save(content, tmp_path / "model.pt")
    assert "puzzle ids" in one_line("evaluate.py", tmp_path)


def test_pooling_is_labelled_and_refuses_strangers(arc_run, trained):
    stdout, _ = program("evaluate.py", arc_run, "--pool", arc_run, "--copies", 0)
    assert "pooled votes of 2 checkpoints" in stdout
    assert "not those of" in one_line("evaluate.py", arc_run, "--pool", trained[0])


def test_official_checkpoint_the_whole_way(tmp_path):
    inputs, labels = sudoku.generate(6, (3, 3), clues=40, seed=0)
    sudoku.write_csv(tmp_path / "test.csv", inputs, labels, (3, 3))
    config = tinytrm.Config(dim=16, heads=2, n=1, T=2, mixer="attention", num_puzzles=1,
                            puzzle_tokens=2)
    model = tinytrm.TRM(config)
    names = {"token_embedding": "embed_tokens.embedding_weight", "output_head": "lm_head.weight",
             "halt_head": "q_head", "puzzle_table": "puzzle_emb.weights", "y_init": "H_init",
             "z_init": "L_init", "layers": "L_level.layers", "mix_in": "self_attn.qkv_proj.weight",
             "mix_out": "self_attn.o_proj.weight", "gate_up": "mlp.gate_up_proj.weight",
             "down": "mlp.down_proj.weight"}
    official = {}
    for key, tensor in model.state_dict().items():
        parts = [names.get(part, part) for part in key.split(".")]
        official["_orig_mod.model.inner." + ".".join(parts)] = tensor
    torch.save(official, tmp_path / "step_1")
    flags = ["--official", tmp_path / "step_1", "--task", "sudoku", "--data", tmp_path / "test.csv",
             "--T", 2, "--heads", 2, "--puzzle_tokens", 2]
    stdout, _ = program("evaluate.py", *flags, "--n", 1, "--steps", 3, "--json")
    expected = tinytrm.evaluate(model, tinytrm.Puzzles(inputs, labels), steps=3)
    assert json.loads(stdout)["cell_accuracy"] == pytest.approx(expected["cell_accuracy"], abs=1e-6)
    assert "--n" in one_line("evaluate.py", *flags)


def test_checkpoints_name_data_of_the_repository_without_the_machines_paths(tmp_path, monkeypatch):
    from data import tasks

    assert tasks._portable(ROOT / "data" / "sudoku6-seed0") == "data/sudoku6-seed0"
    assert tasks._portable("mine.csv") == "mine.csv"
    assert tasks._portable(tmp_path / "x.csv") == str(tmp_path / "x.csv")
    monkeypatch.chdir(tmp_path)  # from anywhere
    task = tasks.open_task("sudoku4", tinytrm.PRESETS["sudoku4"], None)
    model = tinytrm.TRM(task.config)
    model.extra = dict(about=task.about)
    assert not os.path.isabs(task.about["data"])
    assert (tasks.reopen(model).test.inputs == task.test.inputs).all()


def test_record_of_a_run_cut_into_pieces(csv_folder, tmp_path):
    """`--resume auto` begins, then goes on; the record has the figures and the whole time."""
    words = ["--data", csv_folder, "--out", tmp_path / "run", "--resume", "auto", *SMALL]
    program("train.py", *words, "--steps", 10)
    stdout, _ = program("train.py", *words, "--steps", 30, "--record", tmp_path / "records")
    assert "resumed" in stdout and "trained   20 steps" in stdout
    with open(tmp_path / "records/sudoku6-seed0.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(r["seconds"]) for r in rows]
    assert [int(r["step"]) for r in rows] == [10, 20, 30] and seconds == sorted(seconds)
    text = (tmp_path / "records/sudoku6-seed0.md").read_text()
    assert f"Trained 30 steps in {seconds[-1] / 60:.1f} minutes" in text
    held_out = next(line for line in stdout.splitlines() if line.startswith("held out"))
    assert held_out in text and "rollouts         1       2       4       8" in text
    assert "dim = 16" in text and "--record" in text


def test_curves(trained, tmp_path):
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
