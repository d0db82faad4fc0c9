"""ARC-AGI-1 and ARC-AGI-2: reading, augmentation, the training stream, test questions, voting.

An ARC task shows a few pairs of coloured grids, input and output, that follow one rule, and asks
for the output of one or more test inputs. A grid has 1..30 rows and columns of colours 0..9. It
lies in a square of `side` x `side` cells (30; less for toy tasks), flattened to L = side * side:

    0 padding    1 end of grid: the row just below and the column just right of it, where they fit
    c + 2 for colour c (12 tokens in all)

TRM has no few-shot input: it trains on the demonstration pairs of the very tasks it is asked about,
and an embedding per puzzle id says which rule to follow. Each task is copied about 1000 times, with
its grids turned or mirrored and its colours permuted, and every copy is a puzzle of its own.

    corpus   which pairs are trained on, which test inputs asked (none is both, but KNOWN_LEAK)
    Table    puzzle id -> (task, dihedral, colours): all that is stored of a copy
    ArcPuzzles   the training stream, grids augmented as they are drawn
    queries  every copy of every test input; `Votes` undoes the augmentation, counts and ranks

Here tasks are read and gathered into corpora. Grids stand in `data.arc_grid`, the table and the
stream in `data.arc_table`, questions and votes in `data.arc_votes`; all is offered here too.

Measured on one CPU core, ARC-1 (ARC-2): read in 0.9 s (1.2); 876,401 (1,191,722) puzzle ids drawn
in 7.6 s (7.2) and held in 13 MB (18), where the authors write about 877,000
ids x 4 pairs x 1800 bytes = 6 GB; a training batch of 768 in 35 ms; a question asked and its answer
undone and counted in 85 microseconds.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.arc_grid import (
    PLAIN,
    SIDE,
    TOKENS,
    Corpus,
    Task,
    augment,
    decode,
    encode,
    pack,
    render,
    restore,
)
from data.arc_table import (
    ArcPuzzles,
    Table,
    build_table,
    copy_hashes,
    distinct_copies,
    table_from_identifiers,
)
from data.arc_votes import Votes, queries, questions
from data.files import read_json
from data.grid import DIHEDRAL, INVERSE

__all__ = [
    "DIHEDRAL", "INVERSE", "PLAIN", "PUBLIC", "SIDE", "TOKENS", "ArcPuzzles", "Corpus", "Table",
    "Task", "Votes", "augment", "build_table", "copy_hashes", "corpus", "decode", "distinct_copies",
    "encode", "load_tasks", "own_corpus", "queries", "questions", "render", "restore",
    "table_from_identifiers",
]

Source = str | Path | dict  # of tasks: a folder, a Kaggle file, or {name: task} as in such a file

# The public collections: (places to look at, tasks there, are the test inputs asked?). Folders are
# as `git clone` leaves them; files are Kaggle's, of 2024 (ARC-1) or 2025 (ARC-2: the same names),
# or the authors' copies of them, where a 2 tells ARC-2's apart.
CONCEPT = (("ConceptARC/corpus", "arc-agi_concept_challenges.json"), 160, False)
PUBLIC = {
    "arc1": (
        (("ARC-AGI/data/training", "arc-agi_training_challenges.json"), 400, False),
        (("ARC-AGI/data/evaluation", "arc-agi_evaluation_challenges.json"), 400, True),
        CONCEPT,
    ),
    "arc2": (
        (("ARC-AGI-2/data/training", "arc-agi_training2_challenges.json",
          "arc-agi_training_challenges.json"), 1000, False),
        (("ARC-AGI-2/data/evaluation", "arc-agi_evaluation2_challenges.json",
          "arc-agi_evaluation_challenges.json"), 120, True),
        CONCEPT,
    ),
}
# ARC-1 asks one question whose answer its own training set gives away: task 070dd51e is task
# 40853293 once more. The published figures include it, so it stays; any other is an error.
KNOWN_LEAK = ("070dd51e", "40853293")
UNMIXED = "ARC-2's training set holds ARC-1's evaluation tasks, so the two are never mixed"

# ------------------------------------------------------------------------------------------------
# Reading tasks


def _grid(value, where):
    """JSON value -> (h, w) uint8. Raises ValueError if it is no rectangle of colours."""
    rows = value if isinstance(value, list) else []
    if not rows or not all(isinstance(row, list) and row for row in rows):
        raise ValueError(f"{where}: a grid is a list of rows, a row a list of colours; none empty")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"{where}: row {i} has {len(row)} cells, row 0 has {len(rows[0])}")
        wrong = [c for c in row if type(c) is not int or not 0 <= c <= 9]
        if wrong:
            raise ValueError(f"{where}: row {i} holds {reprlib.repr(wrong[0])}; colours are the "
                             f"integers 0..9")
    if max(len(rows), len(rows[0])) > SIDE:
        raise ValueError(f"{where}: {len(rows)}x{len(rows[0])} cells; at most {SIDE}x{SIDE} fit")
    return np.array(rows, np.uint8)


def _pairs(task, kind, where):
    """[(input, output or None)] of the list `kind`, "train" or "test", of a task as in JSON."""
    items = task.get(kind) if isinstance(task, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError(f"{where}: no ARC task, it lacks a list {kind!r} of input/output pairs")
    pairs = []
    for i, pair in enumerate(items):
        spot = f"{where} {kind}[{i}]"
        if not isinstance(pair, dict) or "input" not in pair:
            raise ValueError(f"{spot}: no 'input'")
        output = pair.get("output")
        pairs.append((_grid(pair["input"], f"{spot}.input"),
                      None if output is None else _grid(output, f"{spot}.output")))
    return pairs


def _task(name, task, where, asked):
    """A validated Task from JSON; only tests that are asked may lack their outputs."""
    pairs, tests = _pairs(task, "train", where), _pairs(task, "test", where)
    if not asked:
        pairs, tests = pairs + tests, []
    missing = sum(output is None for _, output in pairs)
    if missing:
        raise ValueError(f"{where}: {missing} of the pairs to train on lack an output; add it (for "
                         f"Kaggle: the _solutions.json beside it) or list it as evaluation")
    return Task(name, pairs, tests)


def _kaggle(path):
    """{name: task} of a `*_challenges.json`, with outputs from the `*_solutions.json` beside it."""
    tasks = read_json(path)
    solved = path.with_name(path.name.replace("_challenges", "_solutions"))
    solutions = read_json(solved) if solved != path and solved.exists() else {}
    if not isinstance(tasks, dict) or not isinstance(solutions, dict):
        raise ValueError(f"{path}: expected {{name: task}}, as in Kaggle's _challenges.json")
    for name, outputs in solutions.items():
        tests = _pairs(tasks.get(name), "test", f"{path} {name}")
        if not isinstance(outputs, list) or len(outputs) != len(tests):
            raise ValueError(f"{solved}: {name} needs {len(tests)} outputs, one per test input")
        for pair, output in zip(tasks[name]["test"], outputs):
            pair["output"] = output
    return tasks


def load_tasks(source: Source, asked: bool = False) -> list[Task]:
    """The tasks of a folder (one JSON file each, subfolders too), of a Kaggle `_challenges.json`,
    or of a dict as in such a file; sorted by place.

    `asked`: the test inputs are questions, and outputs may be missing; otherwise all pairs are
    trained on. Raises ValueError for anything that is not ARC.
    """
    if isinstance(source, dict):
        return [_task(name, task, f"task {name}", asked) for name, task in sorted(source.items())]
    path = Path(source)
    if path.is_file():
        tasks = sorted(_kaggle(path).items())
        return [_task(name, task, f"{path} {name}", asked) for name, task in tasks]
    files = sorted(path.rglob("*.json"))
    if not files:
        raise ValueError(f"{path}: no such file, or no JSON files in this folder")
    return [_task(file.stem, read_json(file), file, asked) for file in files]


def _check_leaks(tasks, origin):
    """Refuse a question that is, output and all, among the pairs trained on."""
    trained = {pack(x) + pack(y): task.name for task in tasks.values() for x, y in task.pairs}
    for task in tasks.values():
        for i, (x, y) in enumerate(task.tests):
            other = None if y is None else trained.get(pack(x) + pack(y))
            if other and (task.name, other) != KNOWN_LEAK:
                raise ValueError(f"test {i} of task {task.name} in {origin[task.name]} is also a "
                                 f"pair of task {other} in {origin[other]}, which is trained on; "
                                 f"remove one of them")


def _gather(name, sources):
    """Corpus of [(source, asked, how many tasks it must hold or None)]."""
    tasks, origin = {}, {}
    for source, asked, count in sources:
        loaded = load_tasks(source, asked)
        path = "the tasks given" if isinstance(source, dict) else source
        if count not in (None, len(loaded)):
            raise ValueError(f"{path}: {len(loaded)} tasks, but the public collection has {count}")
        for task in loaded:
            if task.name in tasks:
                raise ValueError(f"task {task.name} is in {origin[task.name]} and again in {path}; "
                                 f"name every task once ({UNMIXED})")
            tasks[task.name], origin[task.name] = task, path
    _check_leaks(tasks, origin)
    return Corpus(name, tasks)


def corpus(name: str, root: str | Path) -> Corpus:
    """The public corpus "arc1" or "arc2" in the folder `root`, with ConceptARC, as in the paper.

    ARC-1: 960 tasks, 3988 pairs trained on, 400 tasks with 419 test inputs asked. ARC-2: 1280
    tasks, 120 asked. Raises ValueError.
    """
    if not isinstance(name, str) or name not in PUBLIC:
        raise ValueError(f"corpus {name!r}: one of {', '.join(PUBLIC)}; {UNMIXED}")
    sources = []
    for places, count, asked in PUBLIC[name]:
        path = next((p for p in (Path(root, place) for place in places) if p.exists()), None)
        if path is None:
            raise ValueError(f"{root}: holds no {places[0]}; `git clone` the repositories there")
        sources.append((path, asked, count))
    return _gather(name, sources)


def own_corpus(training: Sequence[Source], evaluation: Sequence[Source],
               name: str = "own") -> Corpus:
    """A corpus of one's own tasks: lists of folders, Kaggle files or dicts as in such files.

    All pairs of `training` are trained on; of `evaluation` the "train" pairs are, and the "test"
    inputs asked. For Kaggle: training and evaluation challenges, then the test challenges. Raises
    ValueError.
    """
    roles = [(source, False) for source in training] + [(source, True) for source in evaluation]
    return _gather(name, [(source, asked, None) for source, asked in roles])
