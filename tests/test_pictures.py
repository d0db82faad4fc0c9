"""One puzzle, step by step: what is asked, whether the answer is judged rightly, and every mark in
the pictures, by their pixels."""
import ast
import inspect
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tinytrm
from conftest import ROOT, program, run, tiny, toy_puzzles
from data import arc, maze, sudoku
from support import puzzle as one
from support import report
from support.checkpoints import load_model
from support.puzzle import Question, Thought, ask, held_out, in_words, think_about, write
from support.tasks import reopen, sample

pytest.importorskip("matplotlib")
from PIL import Image

from support import pictures

SUDOKU6 = ROOT / "notebooks" / "models" / "sudoku6.pt"
ARC = ROOT / "notebooks" / "models" / "arc-mini.pt"
PUZZLE = ".4...53.........426...........5..3.."
ANSWER = "246135351426135642624513463251512364"
VICIOUS = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."


@pytest.fixture(scope="module")
def mazes(tmp_path_factory):
    """A model of 6x6 mazes that has learned next to nothing, some mazes, and where they lie."""
    x, y = maze.generate(20, side=6, min_path=8, seed=1)
    folder = tmp_path_factory.mktemp("mazes")
    maze.write_csv(folder / "test.csv", x, y)
    model = tinytrm.TRM(tiny(seq_len=36, vocab_size=6)).eval()
    about = dict(kind="maze", data=str(folder / "test.csv"), sha256="", split=None, box=None)
    tinytrm.save(folder / "model.pt", model, about=about)
    return folder / "model.pt", x, y


def thought_of(question, answers) -> Thought:
    answers = np.asarray(answers)
    labels, valid, verdict, remarks = one.JUDGES[question.kind](question, answers[-1])
    return Thought(question, answers, np.linspace(-2, 3, len(answers)), False, labels, valid,
                   verdict, remarks)


# ------------------------------------------------------------------------------------------------
# Questions


@pytest.mark.parametrize("box", [(2, 2), (2, 3), (3, 3), (2, 5), (3, 4)])
def test_sudokus_are_read_as_from_a_file(box):
    side = box[0] * box[1]
    x, _ = sudoku.generate(2, box, clues=side * side * 3 // 4, seed=0)
    config = tiny(seq_len=side * side, vocab_size=side + 2)
    text = write(x[1], "sudoku")
    rows = [text[i:i + side] for i in range(0, len(text), side)]
    for said in (text, text.replace(".", "0"), text.lower(), "/".join(rows), "\n".join(rows),
                 "\r\n".join(rows) + "\n"):
        question = ask(said, "sudoku", config, box)
        assert question.inputs.tolist() == x[1].tolist() and question.box == box


def test_mazes_and_numbers_are_read(mazes):
    _, x, _ = mazes
    config, text = tiny(seq_len=36, vocab_size=6), write(x[3], "maze")
    rows = [text[i:i + 6] for i in range(0, 36, 6)]
    for said in (text, "/".join(rows), "\n".join(rows)):
        assert ask(said, "maze", config).inputs.tolist() == x[3].tolist()
    for said in ("1 2 3 4 5 0 1 2 3", "1,2,3,4,5,0,1,2,3", " 1, 2 3\n4 5 0 1 2 3 "):
        assert ask(said, "tokens", tiny()).inputs.tolist() == [1, 2, 3, 4, 5, 0, 1, 2, 3]


@pytest.mark.parametrize("text, words", [
    ("", "has 0 characters, not 36"), (PUZZLE[1:], "has 35 characters"),
    ("." * 81, "has 81 characters, not 36; this model answers Sudokus of 6x6 cells"),
    (PUZZLE.replace("6", "7"), "is '7'; a Sudoku of this size is written in '.0123456'"),
    (PUZZLE[:-1] + "\u0665", "character 36"), ("./" * 36, "row 1 has 1 cells"),
    ("/".join(["......"] * 5), "there are 5 rows"),
    ("4" + PUZZLE[1:], "4 in row 1, column 1, and in row 1, column 2"),
    (PUZZLE[:7] + "4" + PUZZLE[8:], "4 in row 1, column 2, and in row 2, column 2"),
    ("3" + PUZZLE[1:], "3 in row 1, column 1, and in row 2, column 1")])
def test_texts_that_are_no_sudoku(text, words, refused):
    assert words in refused("evaluate.py", SUDOKU6, "--puzzle", text)


@pytest.mark.parametrize("change, words", [
    (lambda t: t.replace("S", " "), "exactly one S, this has 0"),
    (lambda t: t.replace("#", "G", 1), "exactly one G, this has 2"),
    (lambda t: t.replace(" ", "o", 1), "is 'o'; a maze of this size is written in '# SG'"),
    (lambda t: t[:-1], "has 35 characters"), (lambda t: t[:6] + "/" + t[6:], "row 2 has 30")])
def test_texts_that_are_no_maze(change, words, mazes, refused):
    path, x, _ = mazes
    assert words in refused("evaluate.py", path, "--puzzle", change(write(x[0], "maze")))


def test_other_refusals(tmp_path, refused):
    assert "by --number" in refused("evaluate.py", ARC, "--puzzle", PUZZLE)
    assert "are 24 held-out" in refused("evaluate.py", ARC, "--number", 25)
    with pytest.raises(ValueError, match="--number 0: there are 24"):
        held_out(reopen(tinytrm.load(ARC)), 0)
    own = tmp_path / "own.pt"
    tinytrm.save(own, tinytrm.TRM(tiny()))
    for text, words in (("1 2", "has 2 numbers, not 9"), ("6 " * 9, "number 1 is '6'"),
                        ("1 2 x " * 3, "number 3 is 'x'"), ("1 -2 3 " * 3, "number 2 is '-2'"),
                        ("1 " * 8 + "000000000999", "number 9 is '999'")):
        assert words in refused("evaluate.py", own, "--puzzle", text)
    assert "tinytrm.evaluate" in refused("evaluate.py", own, "--number", 1)


def test_numbers_are_those_of_the_page(trained, tmp_path):
    """Of --html, also for a sample, and for ARC with the id of the plain copy."""
    for path, more in ((trained[0], ["--puzzles", 12]), (ARC, [])):
        words = ["evaluate.py", path, "--steps", 2, *more, "--device", "cpu"]
        program(*words, "--html", tmp_path / "page.html")
        text = (tmp_path / "page.html").read_text(encoding="utf-8")
        (group,) = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
        model = load_model(path)
        task = reopen(model)
        task.test = sample(task.test, 12) if more else None
        for p in group["puzzles"]:
            question = held_out(task, p["n"])
            tokens = [int(c, 36) for c in p["x"].ljust(group["cells"], "0")]
            assert question.inputs.tolist() == tokens and p["name"] in question.name
            if not more:
                assert question.id == task.table.rows(p["name"].split(",")[0])[0]


# ------------------------------------------------------------------------------------------------
# Answers


def test_thoughts_are_those_of_think():
    model, puzzles = tinytrm.TRM(tiny()).eval(), toy_puzzles(5)
    question = Question("tokens", puzzles.inputs[2], puzzles.labels[2], id=2)
    thought = think_about(model, question, steps=5)
    solved = [tinytrm.solve(model, puzzles.inputs[2:3], [2], k) for k in range(1, 6)]
    assert thought.answers.tolist() == [s.answers[0].tolist() for s in solved]
    np.testing.assert_allclose(thought.q, [s.q[0] for s in solved], rtol=1e-5)
    assert thought.wrong() == [int((a != puzzles.labels[2]).sum()) for a in thought.answers]
    assert not thought.halted and len(think_about(model, question).q) == 4, "eval_steps"


def test_halting():
    model = tinytrm.load(SUDOKU6)
    question = ask(PUZZLE, "sudoku", model.config, (2, 3))
    whole, halted = (think_about(model, question, halt=halt) for halt in (False, True))
    first = int((whole.q > 0).argmax()) + 1
    assert len(whole.q) == 16 > first == len(halted.q) and halted.halted and not whole.halted
    assert np.array_equal(halted.answers, whole.answers[:first])


def rules(grid, box) -> bool:
    """Every row, column and box has each digit once, the plain way."""
    (r, c), S = box, box[0] * box[1]
    g = np.asarray(grid).reshape(S, S)
    boxes = [g[i:i + r, j:j + c].ravel() for i in range(0, S, r) for j in range(0, S, c)]
    return all(sorted(u) == [*range(2, S + 2)] for u in [*g, *g.T, *boxes])


def test_sudokus_are_judged_by_the_rules():
    box, rng = (2, 3), np.random.default_rng(0)
    x, y = sudoku.generate(40, box, seed=5)
    for i in range(40):
        for labels in (None, y[i]):
            question, answer = Question("sudoku", x[i], labels, box), y[i].copy()
            assert thought_of(question, [answer]).valid
            for _ in range(3):  # wrong cells, clues among them
                answer[rng.integers(36)] = rng.integers(1, 8)
            other = sudoku.is_valid(y[(i + 1) % 40][None], box)[0]
            thought, moved = thought_of(question, [answer]), thought_of(question, [y[(i + 1) % 40]])
            assert thought.valid == rules(answer, box) == (thought.wrong()[0] == 0)
            assert thought.wrong() == [int((answer != y[i]).sum())], "its only solution is known"
            assert other and not moved.valid and "clues are not kept" in moved.verdict


def test_puzzles_with_none_or_several_solutions():
    box, (x, y) = (2, 2), sudoku.generate(1, (2, 2), clues=12, seed=0)
    swap = np.array([0, 1, 3, 2, 4, 5])
    empty = np.where(x[0] > 3, x[0], 1)  # without the digits 1 and 2
    for grid in (y[0], swap[y[0]]):
        thought = thought_of(Question("sudoku", empty, None, box), [y[0], grid])
        assert thought.valid and thought.wrong() == [int((grid != y[0]).sum()), 0]
        assert thought.remarks == ["the puzzle has several solutions"]
        thought = thought_of(Question("sudoku", empty, y[0], box), [grid])
        assert thought.valid and len(thought.remarks) == (grid != y[0]).any()
    none = np.array([2, 3, 4, 1, 1, 1, 1, 5] + [1] * 8)  # nothing fits in row 1, column 4
    thought = thought_of(Question("sudoku", none, None, box), [y[0]])
    assert not thought.valid and thought.wrong() is None and "NO solution" in thought.remarks[0]
    config = tiny(seq_len=81, vocab_size=11)
    vicious = think_about(tinytrm.TRM(config), ask(VICIOUS, "sudoku", config))
    assert not vicious.valid and vicious.remarks == [], "in a minute one would know"


def test_mazes_are_judged_by_the_shortest_path():
    """Two ways around a block: both right, whichever is labelled; anything else is wrong."""
    text = "S  / # /  G".replace(" ", " ")
    question = ask(text, "maze", tiny(seq_len=9, vocab_size=6))
    ways = [np.array([[3, 5, 5], [2, 1, 5], [2, 2, 4]]).ravel(),
            np.array([[3, 2, 2], [5, 1, 2], [5, 5, 4]]).ravel()]
    label = maze.label(question.inputs[None])[0]
    for way in ways:
        assert (thought := thought_of(question, [way])).valid and thought.wrong() == [0]
        assert "4 steps" in thought.verdict
        other = thought_of(question._replace(labels=label), [way])
        assert other.valid and bool(other.remarks) == (way != label).any()
        for i in range(9):
            bad = way.copy()
            bad[i] = 5 if way[i] != 5 else 2
            assert not thought_of(question, [bad]).valid
    shut = ask("S# ##  G ", "maze", tiny(seq_len=9, vocab_size=6))
    thought = thought_of(shut, [shut.inputs])
    assert thought.valid is False and "NO way" in thought.remarks[0]


def test_wrong_cells_of_arc_and_of_what_is_not_labelled():
    grid, more = np.array([[1, 2], [3, 4]]), np.array([[1, 2, 0], [3, 5, 0]])
    label, answer = (arc.encode(g, side=4) for g in (grid, more))
    thought = thought_of(Question("arc", label, label), [label, answer])
    assert thought.wrong() == [0, 3] and not thought.valid, "one colour, two cells too many"
    thought = thought_of(Question("tokens", np.ones(3), np.array([0, 2, 3])), [[9, 2, 3]])
    assert thought.wrong() == [0] and thought.valid
    assert thought_of(Question("tokens", np.ones(3)), [[9, 2, 3]]).valid is None


def test_a_model_that_knows_its_columns_shows_them():
    """A grid of 2x6 was shown as a line, or as a square that it is not."""
    config = tiny(seq_len=12, vocab_size=6, mixer="attention", heads=2, columns=6)
    question = ask("1 2 3 4 5 1 2 3 4 5 1 2", "tokens", config)
    thought = thought_of(question, [np.ones(12, int)])
    assert question.columns == 6 and one._story(thought, "")[-1] == (2, 6)
    assert [line.split() for line in one._text(question, None, None, False)] == [
        "1 2 3 4 5 1".split(), "2 3 4 5 1 2".split()]
    puzzles = tinytrm.Puzzles(np.ones((2, 12), int), np.ones((2, 12), int))
    assert report.look("m", tinytrm.TRM(config), puzzles, 1).columns == 6


def test_steps_worth_a_look():
    question = Question("tokens", np.array([1]))
    assert thought_of(question, [[1], [1], [2], [2]]).turns() == [0, 1, 2]
    assert thought_of(question, [[2]] * 5).turns() == [0]
    many = thought_of(question, np.arange(500)[:, None] % 2).turns()
    assert len(many) == one.MOST and many[0] == 0 and many[-1] == 499


# ------------------------------------------------------------------------------------------------
# The program


def test_a_puzzle_needs_no_data(tmp_path, monkeypatch):
    """A model whose data are nowhere."""
    monkeypatch.chdir(tmp_path)
    model = tinytrm.load(SUDOKU6)
    about = {**model.extra["about"], "data": "/nowhere/at/all"}
    tinytrm.save(tmp_path / "m.pt", model, about=about)
    words = ["evaluate.py", tmp_path / "m.pt", "--device", "cpu", "--puzzle", PUZZLE]
    out, err = program(*words, "--picture", "a.png", "--gif", "a.gif")
    assert err == "" and f"answer    {ANSWER}\n" in out and "a valid solution" in out
    assert " .  4  . | .  .  5 " in out and "step 1: 10 wrong" in out and "5x" in out
    first = float(re.findall(r"q = (-?[\d.]+)", out)[0])  # processors round differently
    assert first == pytest.approx(-1.02, abs=0.05) and "\x1b" not in out
    said = json.loads(program(*words, "--json", "--steps", 5)[0])
    assert (said["puzzle"], said["answer"], said["valid"]) == (PUZZLE, ANSWER, True)
    assert len(said["q"]) == len(said["answers"]) == len(said["wrong"]) == said["steps"] == 5
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "a.gif").read_bytes()[:6] == b"GIF89a"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.png", "m.pt"]


def test_a_held_out_puzzle_of_every_kind(trained, mazes, tmp_path):
    for path in (trained[0], mazes[0], ARC):
        words = ["evaluate.py", path, "--device", "cpu", "--steps", 3]
        first, second = (json.loads(program(*words, "--json", *more)[0])
                         for more in (["--picture", tmp_path / "p.png"], ["--number", 2]))
        assert "puzzle 1 of" in first["name"] and "puzzle 2 of" in second["name"]
        assert first["valid"] in (True, False) and first["puzzle"] != second["puzzle"]
        out, _ = program(*words, "--number", 2, "--gif", tmp_path / "p.gif")
        assert second["name"] in out and "step 1" in out and second["verdict"] in out
        with Image.open(tmp_path / "p.gif") as film:
            assert 2 <= film.n_frames <= 4
    model, x, _ = mazes
    said = json.loads(program("evaluate.py", model, "--puzzle", write(x[1], "maze"), "--json")[0])
    assert said["puzzle"] == write(x[1], "maze") and len(said["answer"]) == 36
    assert f"'{said['answer']}'" in program("evaluate.py", model, "--number", 2)[0]


def test_a_model_of_ones_own(tmp_path):
    puzzles = toy_puzzles(40, ids=1)
    model = tinytrm.train(tiny(num_puzzle_ids=1), puzzles)
    tinytrm.save(tmp_path / "own.pt", model)
    text = " ".join(map(str, puzzles.inputs[0]))
    words = ["evaluate.py", tmp_path / "own.pt", "--puzzle", text, "--picture", tmp_path / "o.svg"]
    said = json.loads(program(*words, "--json")[0])
    assert said["answer"] == tinytrm.solve(model, puzzles.inputs[:1]).answers[0].tolist()
    assert said["valid"] is said["wrong"] is None and "<svg" in (tmp_path / "o.svg").read_text()
    assert f"answer    {' '.join(map(str, said['answer']))}" in program(*words)[0]


def test_the_task_on_the_terminal_with_colours():
    question = ask(PUZZLE, "sudoku", tinytrm.load(SUDOKU6).config, (2, 3))
    plain, bright = (in_words(thought_of(question, [question.inputs] * 2), c) for c in (0, 1))
    assert "\x1b[1m" in bright and re.sub(r"\x1b\[[\d;]*m", "", bright) == plain


def test_without_matplotlib(tmp_path, monkeypatch):
    """Words need nothing; pictures say in one line what is missing, before the work. (That the
    programs start without it: test_tinytrm.py.)"""
    for name in ("matplotlib", "matplotlib.figure", "support.pictures"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    words = ["evaluate.py", SUDOKU6, "--puzzle", PUZZLE]
    assert ANSWER in program(*words)[0]
    for flag in ("--picture", "--gif"):
        out, err = program(*words, flag, tmp_path / "x.gif", code=2)
        assert out == "" and err == (f"error: {flag} needs matplotlib: pip install -r "
                                     "requirements.txt\n")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full here")
@pytest.mark.parametrize("flag, name", [("--picture", "full.png"), ("--gif", "full.gif")])
def test_a_full_disk(flag, name, tmp_path):
    (tmp_path / name).symlink_to("/dev/full")
    out, err = program("evaluate.py", SUDOKU6, "--puzzle", PUZZLE, flag, tmp_path / name, code=2)
    assert ANSWER in out and err.count("\n") == 1 and "No space left" in err


def test_a_picture_is_whole_or_the_old_one(tmp_path, monkeypatch):
    question = ask(PUZZLE, "sudoku", tinytrm.load(SUDOKU6).config, (2, 3))
    thought, path = thought_of(question, [question.inputs] * 2), tmp_path / "p.png"
    path.write_text("old")

    def fails(figure, file, **_):
        file.write(b"half")
        raise OSError("no more room")

    monkeypatch.setattr(pictures.Figure, "savefig", fails)
    with pytest.raises(OSError, match="no more room"):
        one.save_strip(thought, path)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


# ------------------------------------------------------------------------------------------------
# Pictures, by their pixels


def cells(frame, side):
    """The pixels of each cell of a square board."""
    height, width = frame.shape[:2]
    edge = 0.04 / 2.0 * width
    size = (width - 2 * edge) / (side + 0.12)
    left, top = edge + 0.06 * size, height - edge - (side + 0.06) * size
    for i in range(side * side):
        x, y = left + i % side * size, top + i // side * size
        yield frame[round(y) + 1:round(y + size) - 1, round(x) + 1:round(x + size) - 1]


def has(pixels, colour) -> bool:
    wanted = [int(colour[k:k + 2], 16) for k in (1, 3, 5)]
    return bool((pixels == wanted).all(-1).sum() >= 3)


def frames_of(thought):
    draw, inputs, answers, labels, titles, shape = one._story(thought, "{k}")
    story = pictures.story(inputs, answers, labels, titles)
    return list(pictures._frames(draw, [("q", inputs), *story], shape, 225))


def question_and_answers(kind, rng):
    """A question with its label, and four answers that change from step to step, none the last."""
    if kind == "sudoku":
        (x,), (y,) = sudoku.generate(1, (2, 3), seed=int(rng.integers(99)))
        question, low, high = Question(kind, x, y, (2, 3)), 1, 8
    elif kind == "maze":
        (x,), (y,) = maze.generate(1, side=6, min_path=8, seed=int(rng.integers(99)))
        question, low, high = Question(kind, x, y), 1, 6
    elif kind == "arc":  # full squares, so that each cell of the board is one
        x, y = rng.integers(2, 12, (2, 36))
        question, low, high = Question(kind, x, y), 2, 12
    else:
        x, y = rng.integers(1, 30, (2, 36))
        question, low, high = Question(kind, x, np.where(rng.random(36) < 0.2, 0, y)), 0, 30
    answers = [np.where(rng.random(36) < 0.4, rng.integers(low, high, 36), question.labels)
               for _ in range(4)]
    return question, answers


@pytest.mark.parametrize("kind", ["sudoku", "maze", "arc", "tokens"])
def test_every_mark_is_where_it_belongs(kind):
    """Struck through where wrong, framed where changed, grey where given; and nowhere else."""
    question, answers = question_and_answers(kind, np.random.default_rng(3))
    x, labels = question.inputs, question.labels
    for k, frame in enumerate(frames_of(thought_of(question, answers))[1:]):
        answer, before = answers[k], answers[k - 1] if k else answers[k]
        for i, pixels in enumerate(cells(frame, 6)):
            judged = labels[i] > 0
            given = kind == "sudoku" and x[i] > 1
            wrong = judged and answer[i] != labels[i]
            missed = kind == "maze" and wrong and labels[i] == maze.PATH
            changed = judged and answer[i] != before[i] and not given
            assert has(pixels, pictures.RED) == (wrong and not missed), (kind, k, i)
            assert has(pixels, pictures.ORANGE) == changed, (kind, k, i)
            if kind == "sudoku":
                assert has(pixels, pictures.GREY) == given
                assert has(pixels, pictures.BLUE) == (not given and not wrong)
            if kind == "arc":
                assert has(pixels, pictures.ARC_COLOURS[answer[i] - 2])


def test_without_labels_nothing_is_struck_through():
    question, answers = question_and_answers("tokens", np.random.default_rng(0))
    for frame in frames_of(thought_of(question._replace(labels=None), answers)):
        assert not has(frame, pictures.RED)


def test_an_arc_answer_that_lacks_cells():
    """Empty places where the label has cells are wrong; what is beyond both grids is nothing."""
    label, answer = (arc.encode(np.full(s, 3), side=6) for s in ((6, 5), (2, 2)))
    question = Question("arc", arc.encode(np.full((6, 6), 1), side=6), label)
    frame = frames_of(thought_of(question, [answer]))[1]
    red = np.array([has(c, pictures.RED) for c in cells(frame, 6)]).reshape(6, 6)
    assert not red[:2, :2].any() and red.sum() == 26 and not red[:, 5].any()


def test_a_film_of_a_9x9_sudoku(tmp_path):
    """As wide as a README's column, small, in the drawn colours, longest at its ends."""
    rng, box = np.random.default_rng(0), (3, 3)
    (x,), (y,) = sudoku.generate(1, box, seed=2)
    answers = [np.where((rng.random(81) < 0.6 - 0.04 * k) & (x == 1), rng.integers(2, 11, 81), y)
               for k in range(15)] + [y, y]
    one.save_gif(thought_of(Question("sudoku", x, None, box), answers), tmp_path / "f.gif")
    assert (tmp_path / "f.gif").stat().st_size < 300_000
    with Image.open(tmp_path / "f.gif") as film:
        assert 420 <= film.width <= 480 and film.n_frames == 18 and film.info["loop"] == 0
        pauses = []
        for k in range(film.n_frames):
            film.seek(k)
            pauses.append(film.info["duration"])
            pixels = np.asarray(film.convert("RGB"))
            assert (pixels[0] == 255).all() and has(pixels, pictures.GREY)
            assert has(pixels, pictures.RED) == (0 < k < 16)
    assert pauses[0] > 2 * pauses[1] and pauses[-1] > 2 * pauses[-2] and len({*pauses}) == 3


@pytest.mark.parametrize("kind, cells, high", [("sudoku", 256, 18), ("maze", 900, 6),
                                               ("arc", 900, 12), ("tokens", 50, 1000)])
def test_large_ones(kind, cells, high, tmp_path):
    """Side 16 and 30, numbers of three digits that are no square: nothing is cut off."""
    rng = np.random.default_rng(0)
    x, a, b = rng.integers(1 if kind != "arc" else 2, high, (3, cells))
    a = np.where(rng.random(cells) < 0.9, b, a)  # marks are slow to draw, and some are left
    question = Question(kind, x, None if kind == "sudoku" else b, (4, 4))
    thought = Thought(question, np.stack([a, b]), np.zeros(2), False, question.labels, None, "")
    if kind != "arc":
        one.save_gif(thought, tmp_path / "p.gif")
        with Image.open(tmp_path / "p.gif") as film:
            assert 400 <= film.width <= 1000 and film.n_frames == 3
    if kind != "maze":
        one.save_strip(thought, tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as picture:
            edge = np.asarray(picture.convert("L"))
        assert 1000 <= edge.shape[1] <= 2500
        assert all((line > 200).all() for line in (edge[:3], edge[-3:], edge[:, -2:]))


# ------------------------------------------------------------------------------------------------
# The notebooks' drawing is the same


@pytest.fixture(scope="module")
def draw():
    import matplotlib
    matplotlib.use("Agg")
    sys.path.insert(0, str(ROOT / "notebooks"))
    import draw
    return draw


def test_every_call_of_the_notebooks_is_understood(draw):
    """Without running them: each draw.NAME is there and takes what it gets."""
    calls = 0
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "code":
                continue
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                        and node.value.id == "draw"):
                    assert hasattr(draw, node.attr), f"{path.name}: draw.{node.attr}"
                if (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                        and getattr(node.func.value, "id", "") == "draw"):
                    calls += 1
                    starred = any(isinstance(a, ast.Starred) for a in node.args)
                    bind = inspect.signature(getattr(draw, node.func.attr))
                    getattr(bind, "bind_partial" if starred else "bind")(
                        *[0] * (len(node.args) - starred), **{k.arg: 0 for k in node.keywords})
    assert calls > 20


def test_rows_and_strips_of_the_notebooks(draw):
    question, answers = question_and_answers("sudoku", np.random.default_rng(0))
    draw.strip(draw.sudoku, question.inputs, answers, question.labels, columns=3)
    assert [ax.get_title() for ax in draw.plt.gcf().axes] == [f"step {k}" for k in range(1, 5)] + [
        "", ""]
    draw.row(draw.arc, ("a", [[1, 2]]), ("nothing", np.zeros((0, 0), int)), digits=False)
    draw.sudoku(draw.plt.figure().subplots(), np.ones(36), shade=np.linspace(0, 1, 36))
    draw.row(draw.tokens, ("t", [[0, 1, 2]]), columns=9, size=1.05)
    draw.plt.close("all")


def test_the_animation_of_the_readme(draw, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(draw, "ROOT", tmp_path)
    draw.main(str(SUDOKU6), PUZZLE)
    assert (tmp_path / "assets" / "thinking.gif").read_bytes()[:3] == b"GIF"
    x, y = sudoku.generate(30, (2, 3), seed=0)
    sudoku.write_csv(tmp_path / "some.csv", x, y, (2, 3))
    draw.main(str(SUDOKU6), str(tmp_path / "some.csv"))
    chosen = re.findall(r"^[.\d]{36}$", capsys.readouterr().out, re.M)
    assert chosen[0] == PUZZLE and chosen[1] in {write(p, "sudoku") for p in x}
    shutil.copy(ARC, tmp_path / "arc.pt")
    with pytest.raises(ValueError, match="no model of Sudoku"):
        draw.main(str(tmp_path / "arc.pt"))
    done = run([sys.executable, ROOT / "notebooks" / "draw.py", "nothing"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_puzzle_that_takes_its_time(draw, monkeypatch):
    """The one nearest to the steps wanted: right after steps 1, 5 (not at 4), 9, and never."""
    y = np.ones((4, 9), int)
    answers = [np.where(np.array([[False], [k == 4], [k < 9], [True]]), 2, y) for k in range(1, 17)]
    model = SimpleNamespace(think=lambda *_: ((torch.from_numpy(a), 0, 0) for a in answers))
    assert [draw.slow(model, y, y, wanted=w) for w in (1, 2, 4, 6, 8, 16)] == [0, 0, 1, 1, 2, 2]


# ------------------------------------------------------------------------------------------------
# The model that is shipped


def test_the_shipped_9x9_model_solves_the_puzzle_in_the_readme():
    model = ROOT / "assets/sudoku9.pt"
    assert model.stat().st_size < 2_000_000
    puzzle = re.search(r"assets/sudoku9.pt --puzzle ([.0-9]{81})", (ROOT / "README.md").read_text())
    said = json.loads(program("evaluate.py", model, "--puzzle", puzzle[1], "--json")[0])
    answer = said["answer"]
    assert all(c in (".", a) for c, a in zip(puzzle[1], answer))
    rows = [answer[i:i + 9] for i in range(0, 81, 9)]
    boxes = ["".join(rows[3 * i + a][3 * j:3 * j + 3] for a in range(3))
             for i in range(3) for j in range(3)]
    for unit in [*rows, *map("".join, zip(*rows)), *boxes]:
        assert sorted(unit) == list("123456789")
