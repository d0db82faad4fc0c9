"""The page of --html: the right numbers, nothing of the data as markup, hands on in a browser."""
import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import tinytrm
from conftest import ROOT, program, tiny, toy_puzzles
from data import arc, maze, sudoku
from data.arc_mini import mini_corpus
from support.presets import PRESETS
from support.report import (
    BINS,
    SCRIPTS,
    SHOWN,
    collect,
    facts,
    finite,
    halting,
    judged,
    look,
    pack,
    reliability,
    short_names,
    shown,
    write_page,
)
from support.report import (
    page as write_a_page,
)
from support.scoring import Seen, arc_result, describe, score, vote
from support.tasks import Task, reopen
from tinytrm import Puzzles

HOSTILE = ("</script><script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 1\">"
           "&amp;'")


def data_of(path) -> list:
    """What a page knows."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text,
                                re.S)[1])


def unpack(text, width, cells) -> list[int]:
    tokens = [int(text[i:i + width], 36) for i in range(0, len(text), width)]
    return tokens + [0] * (cells - len(tokens))


# ------------------------------------------------------------------------------------------------
# One run of each kind: tokens, some of which are learned, Sudoku, mazes and ARC


@pytest.fixture(scope="module")
def copying():
    """A model that has learned to copy, and puzzles of which a quarter want something else."""
    x = toy_puzzles(160, vocab=6).inputs
    labels = np.where(np.arange(160)[:, None] % 4 == 3, x % 5 + 1, x)
    labels[:, 0] = 0  # not labelled
    config = tiny(steps=150, lr=1e-2, batch_size=32, halt_weight=2.0, num_puzzle_ids=1, n=1, T=1,
                  ema=0.9)
    return tinytrm.train(config, Puzzles(x, x)), Puzzles(x, labels)


@pytest.fixture(scope="module")
def tasks():
    """kind -> (task, untrained model)."""
    found = {}
    x, y = sudoku.generate(20, (2, 2), clues=8, seed=1)
    found["sudoku"] = Task("sudoku", tiny(seq_len=16, vocab_size=6), None, Puzzles(x, y),
                           dict(data="made", box=[2, 2]))
    x, y = maze.generate(12, side=6, seed=1)
    found["maze"] = Task("maze", tiny(seq_len=36, vocab_size=6), None, Puzzles(x, y),
                         dict(data="made"), judges={"valid_path_accuracy": maze.valid_paths})
    corpus, config = mini_corpus(), PRESETS["arc-mini"].config
    first = corpus.asked[0]
    several = [first._replace(name=HOSTILE), *(t for t in corpus.tasks.values() if t is not first)]
    corpus = arc.Corpus("mini", {task.name: task for task in several})
    table = arc.build_table(corpus, 3)
    config = dataclasses.replace(config, dim=16, heads=2, num_puzzle_ids=len(table), eval_steps=3)
    found["arc"] = Task("arc", config, None, None, dict(data=HOSTILE), corpus=corpus, table=table)
    return {kind: (task, tinytrm.TRM(task.config).eval()) for kind, task in found.items()}


@pytest.fixture(scope="module")
def runs(copying, tasks):
    """The runs of a page with all kinds; two on the same puzzles."""
    some = [look(HOSTILE, *copying), look("untrained", tinytrm.TRM(copying[0].config), copying[1])]
    for kind, (task, model) in tasks.items():
        votes = None
        if kind == "arc":
            votes, count = vote(task, model)
            result = arc_result(task, votes, count)
        else:
            result = score(task, model)
        some.append(collect(kind, task, model, dict(result, remarks=["beware"]), Seen(votes)))
    return some


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, runs)
    return path


def test_one_missing_answer_leaves_no_score(tasks):
    task, model = tasks["arc"]
    first, *others = task.corpus.asked
    hidden = first._replace(tests=[(x, None) for x, _ in first.tests])
    corpus = arc.Corpus("mini", {t.name: t for t in (hidden, *others)})
    votes, count = vote(task, model)
    result = arc_result(dataclasses.replace(task, corpus=corpus), votes, count)
    assert result["pass_at"] == {} and result["missing"] == len(first.tests)
    assert f"answers to score against are missing: {len(first.tests)}" in describe(result)


def test_words_of_anothers_own_in_a_model_do_no_harm(copying, tmp_path):
    """`tinytrm.save` takes any: also those that train.py uses."""
    model, held_out = copying
    puzzles = tinytrm.Puzzles(held_out.inputs[:3].astype(np.uint64), held_out.labels[:3])
    for words in dict(about="my notes", trained="2024-05"), dict(about={"author": "I"}):
        tinytrm.save(tmp_path / "model.pt", model, **words)
        mine = tinytrm.load(tmp_path / "model.pt")
        with pytest.raises(ValueError, match="does not say what it was trained on"):
            reopen(mine)
        write_a_page(tmp_path / "page.html", mine, puzzles)
        assert data_of(tmp_path / "page.html")[0]["runs"][0]["result"]["puzzles"] == 3


def test_runs_on_the_same_puzzles_are_grouped(page):
    assert [(g["kind"], len(g["runs"])) for g in data_of(page)] == [
        ("tokens", 2), ("sudoku", 1), ("maze", 1), ("arc", 1)]


def test_figures_are_those_of_evaluate(page, copying):
    run = data_of(page)[0]["runs"][0]
    want = tinytrm.evaluate(*copying)
    assert 0.5 < want["exact_accuracy"] < 0.9, "the model of this test should be right at times"
    assert run["result"] == want
    assert sum(map(sum, run["halting"])) == run["thought"] == 160
    assert sum(n for _, _, n in run["bins"]) == 160 * run["steps"]
    counts = run["counts"]
    assert counts["right"] == round(160 * want["exact_accuracy"])
    assert counts["right"] + counts["wrong"] == 160 and counts["sure"] > 0


def test_thoughts_are_those_of_think(page, copying):
    group, (model, puzzles) = data_of(page)[0], copying
    rows = [p["n"] - 1 for p in group["puzzles"]]
    solution = tinytrm.solve(model, puzzles.inputs[rows])
    for i, (row, p, t) in enumerate(zip(rows, group["puzzles"], group["runs"][0]["thoughts"])):
        read = [unpack(s, group["width"], group["cells"]) for s in (p["x"], p["t"])]
        assert read == [puzzles.inputs[row].tolist(), puzzles.labels[row].tolist()]
        last = [a for a in t["a"] if a][-1]
        assert unpack(last, group["width"], group["cells"]) == solution.answers[i].tolist()
        assert t["q"][-1] == pytest.approx(solution.q[i], rel=1e-3)
        right = (solution.answers[i] == puzzles.labels[row])[1:].all()
        assert t["s"][-1] == str(int(right)) and ("right" in t["m"]) == right


def test_a_kind_that_nobody_can_draw_is_shown_as_numbers(tasks):
    task, model = tasks["maze"]
    other = dataclasses.replace(task, kind="hexagons", judges={})
    assert collect("new", other, model, score(other, model)).kind == "tokens"


@pytest.mark.parametrize("kind", ["sudoku", "maze", "arc"])
def test_figures_of_the_other_kinds(page, tasks, kind):
    group = next(g for g in data_of(page) if g["kind"] == kind)
    (task, model), run = tasks[kind], group["runs"][0]
    want = json.loads(json.dumps(score(task, model)))
    assert {k: run["result"][k] for k in want} == want
    assert run["remarks"] == ["beware"] and len(run["result"]["by_step"]) == run["steps"]
    assert ["parameters", f"{sum(p.numel() for p in model.parameters()):,}"] in run["facts"]


def test_arc_shows_the_vote(page, tasks):
    group, (task, model) = data_of(page)[-1], tasks["arc"]
    votes, _ = vote(task, model)
    asked = [(t, i) for t in task.corpus.asked for i in range(len(t.tests))]
    assert len(asked) == len(group["puzzles"]) == group["runs"][0]["total"]
    assert any(HOSTILE in p["name"] for p in group["puzzles"])
    for (one, i), p, t in zip(asked, group["puzzles"], group["runs"][0]["thoughts"]):
        assert unpack(p["x"], 1, 16) == arc.encode(one.tests[i][0], side=4).tolist()
        tries = [arc.encode(g, side=4).tolist() for g in votes.ranked(one.name, i)[:2]]
        assert [unpack(a["t"], 1, 16) for a in t["attempts"]] == tries
        assert sum(a["votes"] for a in t["attempts"]) <= t["votes"] <= 4


def test_maze_answers_may_be_right_in_another_way():
    """An open 3x3 square has several shortest paths."""
    x = np.array([[3, 2, 2, 2, 2, 2, 2, 2, 4]])
    paths = [[3, 5, 5, 2, 2, 5, 2, 2, 4], [3, 2, 2, 5, 2, 2, 5, 5, 4], [3, 5, 2, 2, 2, 2, 2, 2, 4]]
    task = Task("maze", tiny(vocab_size=6), None, Puzzles(x, paths[:1]), {},
                judges={"valid_path_accuracy": maze.valid_paths})
    seen = Seen(answers=np.array(paths)[:, None], q=np.zeros((3, 1)))
    run = collect("m", task, tinytrm.TRM(task.config), {}, seen, steps=3)
    assert run.right[:, 0].tolist() == [1, 2, 0]


# ------------------------------------------------------------------------------------------------
# Thinking once is enough


def calls_of(model) -> list:
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_page_of_mazes_thinks_once(tasks):
    """It took three times as long: for the accuracy, for other shortest paths, and for the page."""
    task, trained = tasks["maze"]
    model = tinytrm.TRM(task.config)
    model.load_state_dict(trained.state_dict())
    alone, calls, seen = score(task, model, batch_size=5), calls_of(model), Seen()
    assert score(task, model, batch_size=5, seen=seen) == alone
    shared = collect("m", task, model, alone, seen)
    assert len(calls) == 3 * model.config.eval_steps  # 12 mazes, 5 at a time
    fresh = collect("m", task, model, alone, batch_size=5)
    assert (shared.answers == fresh.answers).all() and np.allclose(shared.q, fresh.q, atol=1e-5)
    assert shared.page == fresh.page and seen.answers.dtype == np.uint8


@pytest.mark.parametrize("keep", ["last", "surest"])
def test_what_was_seen_is_what_think_yields(keep):
    """An untrained model whose answers and q change from step to step, and whose last answer is not
    its surest; judged is what it keeps."""
    model = tiny(keep=keep, seed=1).build()
    torch.nn.init.normal_(model.q_weight, generator=torch.Generator().manual_seed(0))
    x = toy_puzzles(160)
    puzzles = Puzzles(x.inputs, tinytrm.solve(model, x.inputs, x.ids, 5).answers, x.ids)
    puzzles.labels[:, 0] = 0  # not labelled; known by which of the two may be 0
    known = lambda inputs, answers, labels: ((answers == labels) | (labels == 0)).all(1)
    task = Task("tokens", model.config, None, puzzles, {}, judges=dict(known=known))
    seen = Seen()
    result = score(task, model, steps=5, batch_size=64, seen=seen)
    assert result["known"] == result["exact_accuracy"] == 1
    assert score(task, model, steps=5)["known"] == 1
    halted = score(task, model, 5, halt=True)
    assert halted["known"] == halted["exact_accuracy"] > 0.9
    steps = [*model.think(*map(torch.from_numpy, (puzzles.inputs, puzzles.ids)), 5)]
    for s, (answers, q, _) in enumerate(steps):
        assert (seen.answers[s] == answers.numpy()).all()
        assert np.allclose(seen.q[s], q.numpy(), atol=1e-5)
    assert (seen.q[1:] < seen.q[:-1]).any() == (keep == "last"), "else this says nothing"
    assert (seen.answers[0] != seen.answers[-1]).any()


def test_halting_and_too_much_to_keep_are_thought_about_anew(tasks, monkeypatch):
    task, model = tasks["maze"]
    halted, seen = score(task, model, halt=True), Seen()
    assert score(task, model, halt=True, seen=seen) == halted and seen == Seen()
    monkeypatch.setattr("support.scoring.MOST", 12 * 36 * 4 - 1)
    assert score(task, model, seen=seen) == score(task, model) and seen == Seen()


def test_more_processes_than_mazes(tasks, monkeypatch):
    """One of them has nothing to judge."""
    task, model = tasks["maze"]
    monkeypatch.setattr("support.scoring.rank_and_world", lambda: (12, 13))
    monkeypatch.setattr("support.scoring.total", lambda number, _: number)
    assert score(task, model)["valid_path_accuracy"] == 0


# ------------------------------------------------------------------------------------------------
# A model and puzzles of one's own


def test_one_call_for_puzzles_of_ones_own(copying, tmp_path):
    model, puzzles = copying
    names = [f"{HOSTILE} {i}" for i in range(160)]
    path = tmp_path / "mine.html"
    write_a_page(str(path), model, puzzles, 3, name=HOSTILE, names=names, columns=9,
                 symbols=["<b>", *"abcde"])
    (group,) = data_of(path)
    assert (group["columns"], group["symbols"]) == (9, ["<b>", *"abcde"])
    assert group["runs"][0]["steps"] == 3 and group["runs"][0]["name"] == HOSTILE
    assert all(p["name"] == names[p["n"] - 1] for p in group["puzzles"])
    assert group["runs"][0]["result"] == tinytrm.evaluate(model, puzzles, 3)


@pytest.mark.parametrize("looks, said", [
    (dict(names=["a"]), "names: give 160, not 1"), (dict(symbols="abc"), "symbols: give 6, not 3"),
    (dict(columns=4), "columns 4: rows of so many do not make 9 cells"),
    (dict(columns=-3), "columns -3")])
def test_looks_that_do_not_fit(looks, said, copying, tmp_path):
    with pytest.raises(ValueError, match=said):
        write_a_page(tmp_path / "mine.html", *copying, **looks)
    assert not list(tmp_path.iterdir())


def test_puzzles_that_do_not_fit(copying, tmp_path):
    with pytest.raises(ValueError, match="must have the shape \\(5, 9\\), not \\(5, 4\\)"):
        write_a_page(tmp_path / "mine.html", copying[0], toy_puzzles(5, cells=4))


# ------------------------------------------------------------------------------------------------
# Parts


def test_tokens_are_packed():
    assert pack(np.array([1, 0, 35, 10, 0, 0])) == "10za"
    assert pack(np.zeros(4, int)) == "0"
    assert unpack(pack(np.array([36, 0, 1295]), 2), 2, 4) == [36, 0, 1295, 0]


def test_halting_and_reliability():
    q = np.array([[1, -1, -1, -1], [1, 2, -2, np.nan]])
    right = np.array([[0, 0, 0, 0], [1, 1, 1, 0]], bool)
    assert halting(right, q) == [[0, 1, 1], [1, 0, 1]]  # the first halts while it is still wrong
    bins = reliability(right[1], q[1])
    assert sum(n for _, _, n in bins) == 3 and all(0 <= b <= 1 for b, *_ in bins)
    assert len(reliability(np.ones(99, bool), np.linspace(-50, 50, 99))) <= BINS
    marks = judged(right[1], right, q, np.ones(4, bool))
    assert marks["right"].tolist() == [1, 1, 1, 0] and not marks["sure"].any()
    assert marks["early"].tolist() == [1, 0, 0, 0]


def test_slow_ones_took_twice_the_median():
    right = np.zeros((8, 5), bool)
    for i, first in enumerate([0, 0, 1, 5, 8]):  # steps after which each comes right, and stays so
        right[first:, i] = True
    marks = judged(right[-1], right, np.ones(right.shape), np.ones(5, bool))
    assert marks["slow"].tolist() == [0, 0, 0, 1, 0] and marks["sure"].tolist() == [0, 0, 0, 0, 1]
    assert marks["early"].tolist() == [0, 0, 1, 1, 0], "the last never comes right"


def test_sure_too_early_is_wrong_at_the_first_sure_step():
    q = np.array([[-1., -1, 1, -1], [1, 1, 1, -1], [-1, 1, 1, -1]])
    right = np.array([[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)
    assert judged(right[-1], right, q, np.ones(4, bool))["early"].tolist() == [0, 1, 1, 0]


def test_another_right_answer_is_not_too_early():
    """A maze answered by another shortest path, and sure of it, before the labelled one."""
    x, model = toy_puzzles(6).inputs, tinytrm.TRM(tiny(eval_steps=3))
    answers = np.repeat(x[None], 3, 0)
    answers[0, :2], answers[0, 2] = 5, 4  # two know another way, one is wrong
    task = Task("tokens", model.config, None, Puzzles(x, x), {},
                judges=dict(way=lambda _, given, labels: (given == 5).all(1)))
    q = np.full((3, 6), 2.0)
    run = collect("ways", task, model, score(task, model), Seen(answers=answers, q=q), steps=3)
    assert run.marks["early"].tolist() == [0, 0, 1, 0, 0, 0]
    assert run.page["halting"] == [[5, 0, 0, 0], [1, 0, 0, 0]]


def test_only_the_grid_of_an_arc_answer_counts():
    square = np.array([[5, 6, 1], [7, 8, 1], [1, 1, 9]])
    assert shown(square.ravel(), 3).tolist() == [5, 6, 1, 7, 8, 1, 1, 1, 0]
    assert shown(np.ones(9, int), 3).tolist() == [0] * 9


def test_how_it_was_trained():
    """Also of models made before this was kept, and of those that train.py has not made."""
    task, model = Task("tokens", tiny(), None, toy_puzzles(), {}), tinytrm.TRM(tiny())
    rows = [dict(step="40", seconds="150.5")]
    assert "time" not in dict(facts(task, model, [], None))
    assert dict(facts(task, model, rows, None))["time"] == "2.5 min, evaluations apart"
    model.extra = dict(trained=dict(
        steps=9, seconds=9000.0, hardware=["unknown", "4 x NVIDIA H100"], gpu_hours=10.0, price=2.5,
        memory=41.2, dtype="bfloat16", torch="2.13.0", date="2026-01-02"))
    found = dict(facts(task, model, rows, None))
    assert found["trained"] == "9 steps of 8 puzzles, seed 0" and found["time"].startswith("2.5 h")
    assert found["trained on"] == ("unknown; then 4 x NVIDIA H100, bfloat16, torch 2.13.0, "
                                   "2026-01-02")
    assert found["cost"] == "10.0 GPU-hours, $25.00 at $2.5 each"


def test_what_is_no_number_is_null():
    value = {"a": [float("nan"), 1.5, {"b": float("inf")}]}
    assert finite(value) == {"a": [None, 1.5, {"b": None}]}


def test_a_model_gone_astray_has_a_page(tmp_path):
    model = tinytrm.TRM(tiny())
    model.q_bias.data.fill_(float("nan"))
    write_page(tmp_path / "page.html", [look("astray", model, toy_puzzles(5))])
    thought = data_of(tmp_path / "page.html")[0]["runs"][0]["thoughts"][0]
    assert thought["q"] == [None] * 4


@pytest.mark.parametrize("paths, names", [
    (["notebooks/models/sudoku6.pt"], ["sudoku6"]), (["runs/a/", "runs/b"], ["a", "b"]),
    (["x/a", None, "y/a"], ["x/a", "", "y/a"]), (["runs/a", "runs/a"], ["a", "a"]),
    (["runs/a", "runs/a/model.pt", "runs/a/milestone-00000020.pt"],
     ["a", "a/model", "a/milestone-00000020"]), ([None], [""])])
def test_paths_become_short_names(paths, names):
    assert short_names([p and Path(p) for p in paths]) == names


def test_wrong_and_slow_puzzles_are_among_the_shown(page):
    group = data_of(page)[0]
    marks = [t["m"] for t in group["runs"][0]["thoughts"]]
    assert len(marks) == SHOWN and [p["n"] for p in group["puzzles"]] == sorted(
        p["n"] for p in group["puzzles"])
    assert sum("wrong" in m for m in marks) >= 25 and sum("right" in m for m in marks) >= 25


def test_nothing_becomes_markup(page):
    text = page.read_text(encoding="utf-8")
    assert "hacked" in text and "window.hacked = 1</script>" not in text and "<img" not in text
    assert text.count("</script>") == 2 and "{{" not in text.split("<script>")[0]
    code = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S)
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "@import",
                 "fetch(", "src="):
        assert word not in code, word
    assert set(re.findall(r"https?://[^\"]*", code)) == {"http://www.w3.org/2000/svg",
                                                      "https://arxiv.org/abs/2510.04871"}


def test_large_pages_stay_small(tmp_path):
    config = tiny(seq_len=900, vocab_size=6, n=1, T=1, mixer="attention")
    random = np.random.default_rng(0).integers(1, 6, (2, 120, 900))
    model = tinytrm.TRM(config)
    run = look("large", model, Puzzles(random[0, :2], random[1, :2]), steps=1)
    run.page.update(total=120)
    run = dataclasses.replace(run, asked=run.asked._replace(
        inputs=random[0], labels=random[1], numbers=list(range(120)), names=[""] * 120,
        more=[{}] * 120), answers=np.random.default_rng(1).integers(1, 6, (64, 120, 900)),
        q=np.zeros((64, 120)), right=np.zeros((64, 120), np.uint8),
        marks={m: np.zeros(120, bool) for m in run.marks})
    write_page(tmp_path / "page.html", [run, dataclasses.replace(run, page=dict(run.page))])
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    assert 5 < len(data_of(tmp_path / "page.html")[0]["puzzles"]) < SHOWN


# ------------------------------------------------------------------------------------------------
# evaluate.py


@pytest.mark.parametrize("words, said", [
    ("gone/page.html", "--html gone/page.html: cannot be written there"),
    (".", "is a folder"),
    ("page.html --rollouts 2", "leave out --rollouts"),
    ("page.html --submission s.json", "--submission does nothing with several runs"),
])
def test_refused_before_the_work(refused, words, said):
    assert said in refused("evaluate.py", "run", "other", "--html", *words.split())


def test_several_runs_need_a_page(refused, trained):
    assert "--html FILE only" in refused("evaluate.py", trained[0], trained[0])
    assert "gone: no such run" in refused("evaluate.py", trained[0], "gone", "--html", "page.html")


def test_the_program_writes_it(trained, tmp_path):
    path, out = tmp_path / "page.html", trained[0]
    said, _ = program("evaluate.py", out, out / "checkpoint-00000020", "--html", path, "--device",
                      "cpu")
    (group,) = data_of(path)
    accuracy = [float(v) / 100 for v in re.findall(r"held out  ([\d.]+)%", said)]
    assert [r["result"]["exact_accuracy"] for r in group["runs"]] == pytest.approx(accuracy)
    assert [r["name"] for r in group["runs"]] == [out.name, f"{out.name}/checkpoint-00000020"]
    assert dict(group["runs"][0]["facts"])["model"] == str(out)
    assert group["runs"][0]["curves"]["means"][-1][0] == 25
    found = dict(group["runs"][0]["facts"])
    assert found["trained"] == "25 steps of 16 puzzles, seed 0"
    assert found["time"].endswith(" s, evaluations apart")
    assert found["trained on"].startswith("cpu") and f"torch {torch.__version__}" in (
        found["trained on"]) and found["memory"].endswith(" GiB at most, in one process")
    assert dict(group["runs"][1]["facts"])["trained"].startswith("20 steps")


# ------------------------------------------------------------------------------------------------
# In a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-extensions "
         "--disable-background-networking --disable-component-update --disable-sync "
         "--enable-logging=stderr --v=0 --virtual-time-budget=20000 --dump-dom").split()
WATCH = """<script>
window.trouble = [];
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  addEventListener(kind, e => trouble.push(kind + (e.message || e.reason || e.blockedURI)), true);
</script>"""
ACT = """<script>
const press = (key, on = document.getElementById("browser")) =>
  on.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const by = id => document.getElementById(id), text = id => by(id).textContent;
const picture = () => by("panels").innerHTML;
const titles = () => [...by("puzzle").options].map(o => o.text);
const slide = s => { by("step").value = s; by("step").oninput(); };
const search = word => { by("find").value = word; by("find").onchange(); };
const chosen = () => by("puzzle").selectedOptions[0].text;
const pick = mark => document.querySelector(`[value=${mark}]`).click();
const wait = time => new Promise(done => setTimeout(done, time));
(async () => {
  const seen = {};
  try { ACTIONS } catch (e) { trouble.push(String(e.stack)); }
  seen.trouble = trouble; seen.hacked = window.hacked || 0;
  seen.requests = performance.getEntriesByType("resource").map(e => e.name);
  document.body.replaceChildren(Object.assign(document.createElement("pre"),
    {id: "seen", textContent: JSON.stringify(seen)}));
})();
</script>"""


def in_browser(page, folder, actions, fragment="", script="", dark=False) -> dict:
    """Open a copy of the page, with a further script, act, and return what the actions put into
    `seen`."""
    copy = folder / "copy.html"
    text = page.read_text(encoding="utf-8").replace('<meta charset="utf-8">',
                                                    '<meta charset="utf-8">' + WATCH, 1)
    more = "<script>" + script.replace("</script", "<\\/script") + "</script>" if script else ""
    copy.write_text(text.replace("</html>", more + ACT.replace("ACTIONS", actions) + "</html>"),
                    "utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] * dark
    done = subprocess.run([CHROMIUM, *FLAGS, *scheme, f"--user-data-dir={folder / 'profile'}",
                           copy.as_uri() + fragment], capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert "CONSOLE" not in done.stderr, done.stderr
    assert (seen["trouble"], seen["requests"], seen["hacked"]) == ([], [], 0)
    return seen


browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


@browser
def test_hands_on_the_page(page, tmp_path):
    seen = in_browser(page, tmp_path, """
      seen.title = document.title;
      seen.heading = document.querySelector("#figures h2").textContent;
      seen.tile = document.querySelector("#figures b").textContent;
      seen.start = text("where");
      const pictures = [picture()];
      slide(2); pictures.push(picture()); seen.slider = text("where");
      press("ArrowRight"); pictures.push(picture()); seen.right = text("where");
      press("ArrowLeft"); seen.left = text("where"); seen.back = picture() === pictures[1];
      by("forth").click(); seen.forth = text("where");
      seen.distinct = new Set(pictures).size;
      const before = chosen(); press("j"); const after = chosen(); press("k");
      seen.puzzles = [before !== after, chosen() === before];
      press("ArrowDown"); seen.down = chosen() === after; press("ArrowUp");
      press("ArrowDown", document.body); seen.scrolls = chosen() === before;
      seen.live = text("live"); seen.finished = by("progress").hidden;
      pick("wrong"); seen.wrong = titles();
      pick("sure"); seen.sure = titles();
      pick("right"); seen.good = titles();
      search(seen.wrong[3].split(" ")[1]); seen.found = chosen();
      search("9999"); seen.none = text("found");
      slide(0); press(" "); seen.pause = text("play");
      await wait(2000); seen.played = text("where");
      press(" "); seen.play = text("play");
      await wait(1500); seen.stopped = text("where");
    """)
    assert seen["title"] == "TinyTRM on 3×3 grids" and seen["heading"] == HOSTILE
    group = data_of(page)[0]
    run, other = group["runs"]
    assert seen["tile"] == f"{100 * run['result']['exact_accuracy']:.1f} %"
    assert [seen[k] for k in ("start", "slider", "right", "left", "forth")] == [
        "step 1 of 4", "step 2 of 4", "step 3 of 4", "step 2 of 4", "step 3 of 4"]
    assert seen["back"] and seen["distinct"] == 3 and seen["puzzles"] == [True, True]
    assert seen["down"] and seen["scrolls"] and seen["finished"] and "step 3 of 4" in seen["live"]

    def numbers(titles):
        return [int(t.split()[1]) for t in titles]

    def those(test):
        return [p["n"] for p, a, b in zip(group["puzzles"], run["thoughts"], other["thoughts"])
                if test(a["m"], b["m"])]

    assert numbers(seen["wrong"]) == those(lambda a, b: "wrong" in a or "wrong" in b)
    assert numbers(seen["sure"]) == those(lambda a, b: "sure" in a or "sure" in b)
    assert numbers(seen["good"]) == those(lambda a, b: "right" in a and "right" in b) or not (
        those(lambda a, b: "right" in a and "right" in b))
    assert seen["found"] == seen["wrong"][3] and seen["none"] == "not in this page"
    assert "Pause" in seen["pause"] and "Play" in seen["play"]
    assert seen["played"] == seen["stopped"] == "step 2 of 4"


@browser
def test_a_puzzle_that_takes_long(tmp_path):
    """The page opens at it; Play hurries on where nothing changes; too early is not hidden."""
    x = toy_puzzles(12).inputs
    model, S = tinytrm.TRM(tiny(eval_steps=8)), 8
    right = np.repeat(x[None], S, 0)
    right[0, :4], right[:5, 7] = 0, 0  # four need two steps, one needs six
    q = np.full((S, 12), -3.0)
    q[0, :2], q[1:, :4], q[:, 4:7], q[5:, 7:] = 2, 2, 2, 2  # two are sure while still wrong
    task = Task("tokens", model.config, None, Puzzles(x, x), {})
    run = collect("long", task, model, score(task, model), Seen(answers=right, q=q), steps=S)
    run.page["result"]["by_step"] = run.right.mean(1).tolist()
    write_page(tmp_path / "page.html", [run])
    seen = in_browser(tmp_path / "page.html", tmp_path, """
      seen.first = chosen(); seen.where = text("where"); seen.sample = text("sample");
      seen.figures = text("figures"); seen.strip = text("panels"); seen.charts = text("charts");
      pick("early"); seen.early = titles(); seen.meaning = text("meaning");
      slide(0); seen.solved = text("panels").includes("the right answer");
      const begun = performance.now(); by("play").click();
      while (text("where") !== "step 8 of 8") await wait(20);
      seen.took = performance.now() - begun;
    """)
    assert seen["first"] == "puzzle 8 – right after 6 steps" and seen["where"] == "step 1 of 8"
    assert ("83.3 %right if it stopped when first sure; 16.7 % come right only later"
            in seen["figures"])
    assert seen["meaning"].startswith("sure too early: right at the end, but wrong when it was")
    assert [t.split(" – ") for t in seen["early"]] == [[f"puzzle {n}", "right after 2 steps"]
                                                       for n in (1, 2)]
    assert "would stop here" in seen["strip"] and "2 wrong" in seen["charts"]
    assert seen["sample"] == "12 of 12 puzzles can be looked at here." and not seen["solved"]
    assert 2 * 800 + 6 * 150 <= seen["took"] < 8 * 800 - 1000


@browser
def test_all_kinds_in_a_narrow_window(page, tmp_path):
    """Each kind's picture has what its answers say, changes with the step, and nothing sticks out
    of 390 pixels."""
    seen = in_browser(page, tmp_path, """
      document.documentElement.style.width = "390px";
      seen.kinds = {};
      for (const option of by("set").options) {
        by("set").value = option.value; by("set").onchange();
        const pictures = new Set(), wide = new Set();
        for (let s = 0; s <= Number(by("step").max); s++) {
          slide(s); pictures.add(picture());
          for (const e of document.querySelectorAll("main *"))
            if (!e.closest(".scroll, pre, #live") && e.getBoundingClientRect().right > 391)
              wide.add(e.outerHTML.slice(0, 100));
        }
        seen.kinds[option.text.split(":")[0]] = {
          pictures: pictures.size, wide: [...wide],
          strikes: by("panels").querySelectorAll("section:first-child .strike").length,
          said: document.querySelector(".state b").textContent, names: titles(),
          charts: by("charts").children.length, title: text("title")};
      }
    """)
    kinds = seen["kinds"]
    assert list(kinds) == ["3×3 grids", "4×4 Sudoku", "6×6 mazes", "ARC"]
    for name, kind in kinds.items():
        assert kind["wide"] == [] and kind["charts"] >= 3 and name in kind["title"], (name, kind)
        wrong = re.fullmatch(r"✗ (\d+) cells? wrong", kind["said"])
        assert kind["pictures"] >= 2
        if wrong and "mazes" not in name:  # a maze's missed cells are rings
            assert kind["strikes"] == int(wrong[1]) > 0
    assert kinds["ARC"]["names"][0].startswith(f"puzzle 1 {HOSTILE}"[:40])


@browser
def test_a_filter_that_nothing_passes_any_more(tmp_path):
    """A page in training is read again with the filter it had; it stayed empty, and stopped."""
    write_a_page(tmp_path / "mine.html", tinytrm.TRM(tiny()), toy_puzzles(7))  # never sure
    seen = in_browser(tmp_path / "mine.html", tmp_path, """
      seen.shown = document.querySelector("#filters :checked").value;
      seen.many = titles().length; seen.chosen = chosen();
    """, fragment="#show=sure&puzzle=3")
    assert (seen["shown"], seen["many"]) == ("all", 7) and seen["chosen"].startswith("puzzle 3")


@browser
def test_a_page_of_ones_own(copying, tmp_path):
    """Three columns or nine, letters for tokens, names that try to be markup."""
    names = [f"{HOSTILE} number {i + 1}" for i in range(160)]
    write_a_page(tmp_path / "mine.html", *copying, names=names, columns=9, symbols="-vwxyz")
    seen = in_browser(tmp_path / "mine.html", tmp_path, """
      seen.title = text("title");
      pick("wrong"); seen.wrong = titles(); seen.first = chosen();
      const pictures = [];
      for (const s of [0, 1]) { slide(s); pictures.push(picture()); }
      press("ArrowRight"); pictures.push(picture()); seen.where = text("where");
      press("j"); pictures.push(picture());
      seen.pictures = new Set(pictures).size;
      seen.cells = [...by("panels").querySelectorAll(".board text")].map(t => t.textContent);
      seen.text = by("panels").querySelector("pre").textContent;
      search("number 7"); seen.found = chosen();
    """)
    (group,) = data_of(tmp_path / "mine.html")
    assert seen["title"] == "TinyTRM on sequences of 9 tokens"
    wrong = [p["n"] for p, t in zip(group["puzzles"], group["runs"][0]["thoughts"])
             if "wrong" in t["m"]]
    assert [int(t.split()[1]) for t in seen["wrong"]] == wrong and HOSTILE in seen["first"]
    assert seen["where"] == "step 2 of 4" and seen["pictures"] == 4
    assert set(seen["cells"]) <= set("-vwxyz") and len(seen["cells"]) == 27
    assert re.fullmatch(r"([ x][-vwxyz][ \n]){9}", seen["text"])
    first = next(p for p in group["puzzles"] if "number 7" in p["name"])
    assert seen["found"].split()[1] == str(first["n"])


AXE = Path(os.environ.get("AXE") or ROOT / "node_modules/axe-core/axe.min.js")


@browser
@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm install --no-save axe-core")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(dark, runs, tmp_path):
    """The accessibility rules of axe-core, on every kind of page, with all that can be unfolded."""
    runs[0].page["progress"] = "step 3 of 4"
    try:
        write_page(tmp_path / "page.html", runs)
    finally:
        del runs[0].page["progress"]
    seen = in_browser(tmp_path / "page.html", tmp_path, """
      seen.found = {};
      for (const option of by("set").options) {
        by("set").value = option.value; by("set").onchange(); slide(2);
        for (const details of document.querySelectorAll("details")) details.open = true;
        await wait(300);
        const done = await axe.run(document, {resultTypes: ["violations"]});
        seen.found[option.text] = done.violations.map(v =>
          [v.id, v.impact, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))]);
        seen.rules = done.passes.length;
      }
      seen.dark = matchMedia("(prefers-color-scheme: dark)").matches;
    """, script=AXE.read_text(encoding="utf-8"), dark=dark)
    assert seen["dark"] == dark and seen["rules"] > 20 and len(seen["found"]) == 4
    assert not any(seen["found"].values()), json.dumps(seen["found"], indent=1)


@browser
def test_a_link_to_one_picture(page, tmp_path):
    n = data_of(page)[0]["puzzles"][7]["n"]
    seen = in_browser(page, tmp_path, "seen.at = [chosen().split(' ')[1], text('where')];",
                      f"#puzzle={n}&step=3")
    assert seen["at"] == [str(n), "step 3 of 4"]


def test_the_template_is_readable():
    for name in ("report.html", *(path.name for path in SCRIPTS)):
        lines = (ROOT / "support" / name).read_text(encoding="utf-8").splitlines()
        assert len(lines) < 500 and max(map(len, lines)) <= 120, name
