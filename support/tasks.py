"""What the programs must know of each kind of puzzle: its data, its score, its picture.

A new kind of puzzle is one more branch of `read_grids`, or a `Task` made in another way. From
Python none of this is needed: `tinytrm.train(config, Puzzles(inputs, labels))` takes any grids.
"""
from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import arc, arc_mini, maze, sudoku
from data.files import sha256
from data.grid import overlap, side_of
from support.checkpoints import about_of
from support.console import say
from support.presets import PRESETS
from tinytrm import TRM, Config, Puzzles

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"  # made or downloaded data goes here and nowhere else


@dataclass
class Task:
    """One kind of puzzle, ready to be trained on and evaluated."""

    kind: str  # "sudoku", "maze" or "arc"; "tokens": of one's own
    config: Config  # of the model, now with the size of the puzzle table
    train: Any  # Puzzles, or what has their `check` and `draw`; None when only evaluating
    test: Any  # held-out Puzzles; None for ARC, which is scored by voting
    about: dict  # plain values, kept with the model, from which `reopen` finds the data again
    render: Callable | None = None  # (inputs, answers, labels, colour) of one puzzle -> text
    judges: dict = field(default_factory=dict)  # other ways to be right, see scoring.score
    disguise: Callable | None = None  # exact symmetries, as data.sudoku.disguise
    keeps_rules: Callable | None = None  # (inputs, answers) -> (B,) bool; if so, it is a solution
    canonical: Callable | None = None  # the same bytes for symmetric copies
    solutions: Callable | None = None  # how many each puzzle has, where there should be one
    corpus: Any = None  # ARC: tasks and questions
    table: Any = None  # ARC: what each puzzle id stands for
    remarks: list[str] = field(default_factory=list)  # what one must know to read the score

    def extra(self) -> dict:
        """What must be kept with the model: `about`, and the meaning of its puzzle ids."""
        if self.table is None:
            return dict(about=self.about)
        columns = {k: torch.from_numpy(getattr(self.table, k)) for k in TABLE}
        return dict(about=self.about, puzzle_ids=columns)


TABLE = ("task", "dihedral", "colours")  # columns of an ARC table


def sample(puzzles: Puzzles, count: int) -> Puzzles:
    """A choice of so many puzzles, always the same."""
    rows = np.sort(np.random.default_rng(0).permutation(len(puzzles))[:count])
    return Puzzles(puzzles.inputs[rows], puzzles.labels[rows], puzzles.ids[rows], puzzles.augment)


def open_task(preset: str, config: Config, data: Path | None, augment_mazes: bool = False,
              hints: float = 0.0) -> Task:
    """The task of a preset, for training; hints as in data.sudoku.augment. Raises ValueError or
    OSError with one line."""
    kind, _, corpus, arc_copies = PRESETS[preset]
    if kind == "arc":
        task = _open_arc(corpus, config, data, arc_copies)
    else:
        task = _open_grids(kind, config, data, kind == "sudoku" or augment_mazes, hints)
    _check(task, task.train, task.test)
    return task


def reopen(model: TRM, data: Path | None = None) -> Task:
    """The task of a loaded model, with its held-out puzzles or those in `data`. Writes nothing."""
    extra: dict[str, Any] = getattr(model, "extra", {})
    about, config = about_of(model), model.config
    if not about:
        raise ValueError("this model does not say what it was trained on: not made by train.py; "
                         "evaluate it from Python, by tinytrm.evaluate or support.report.page")
    path = Path(data) if data else ROOT / about["data"]  # an absolute path stays what it is
    about = dict(about, data=_portable(path)) if data else about  # what errors and pages name
    if about["kind"] == "arc":
        table = arc.Table(about["tasks"], *(extra["puzzle_ids"][k].numpy() for k in TABLE))
        if table.sha256() != about["sha256"] or len(table) != config.num_puzzle_ids:
            raise ValueError("the checkpoint's puzzle ids are not those it was trained with: a "
                             "damaged file")
        if data and about["corpus"] == "mini":
            raise ValueError("--data does nothing here: the toy tasks are generated")
        corpus = _corpus(about["corpus"], path, side_of(config.seq_len))
        return Task("arc", config, None, None, about, corpus=corpus, table=table)
    if data is None and not path.exists():
        raise FileNotFoundError(f"{path}: the puzzles of this run are not there; name puzzles by "
                                "--data")
    path, was = path / "test.csv" if path.is_dir() else path, ROOT / about_of(model)["data"]
    own = path.resolve() in (was.resolve(), (was / "test.csv").resolve())  # named or not
    inputs, labels, looks = read_grids(about["kind"], path, about["box"])
    trained, split, remarks = sha256(path) == about["sha256"], about["split"], []
    if split is not None and trained:
        held = _held_out(len(inputs), split)
        inputs, labels = inputs[held], labels[held]
        remarks.append(f"the tenth of {path} that training held out")
    elif split is not None and own:
        raise ValueError(f"{path}: has changed since training, so that nobody knows which of its "
                         "puzzles were held out; name others by --data")
    elif trained:
        remarks.append(f"NOT HELD OUT: it was trained on these puzzles, {path}")
    elif own and _lacks(path.parent, about["sha256"]):
        remarks.append(f"PERHAPS NOT HELD OUT: the training puzzles in {path.parent} have changed "
                       "since")
    if own or (trained and split is not None):  # which is the same file elsewhere
        if about.get("copies"):
            remarks.append(f"{about['copies']} held-out puzzles are symmetric copies of training "
                           "ones")
        if about.get("several"):
            remarks.append(f"{about['several']} held-out puzzles had several solutions; only the "
                           "labelled one counts as right")
    task = Task(about["kind"], config, None, Puzzles(inputs, labels), about, remarks=remarks,
                **looks)
    _check(task, task.test)
    return task


def _lacks(folder: Path, digest: str) -> bool:
    """Whether there are files of training puzzles in a folder, but none with this SHA-256."""
    files = sorted(folder.glob("train*.csv"), key=lambda f: f.stat().st_size)  # one may be 0.7 GB
    return bool(files and digest) and all(sha256(f) != digest for f in files)


def _check(task: Task, *puzzles: Any) -> None:
    """Raise ValueError, naming the file, for puzzles that do not fit the model."""
    try:
        for some in puzzles:
            if some is not None:
                some.check(task.config)
        side, tokens = side_of(task.config.seq_len), task.config.vocab_size
        right = {"sudoku": side + 2, "maze": maze.VOCAB_SIZE}.get(task.kind, tokens)
        if tokens != right:
            raise ValueError(f"vocab_size is {right} for these puzzles, not {tokens}")
    except ValueError as e:
        raise ValueError(f"{task.about['data']}: {e}") from None


def copies(task: Task) -> np.ndarray:
    """Which held-out puzzles are symmetric copies of training puzzles: their numbers, from 1 on, in
    test.csv or in the one file. Raises ValueError where that cannot be told."""
    if task.test is None or task.canonical is None:
        return np.array([], int)
    try:
        found = overlap(task.train.inputs, task.test.inputs, task.canonical)
    except ValueError as e:
        raise ValueError(f"{task.about['data']}: {e}") from None
    numbers, split = np.arange(len(found)), task.about["split"]
    if split is not None:
        numbers = np.flatnonzero(_held_out(len(task.train) + len(found), split))
    return numbers[found] + 1


# ------------------------------------------------------------------------------------------------
# Sudoku and mazes: CSV files, read, generated or downloaded


def read_grids(kind: str, path: Path, box: list[int] | None = None
               ) -> tuple[np.ndarray, np.ndarray, dict]:
    """A CSV file: inputs and labels, (N, L) each, and fields of the Task."""
    if kind == "maze":
        inputs, labels, _ = maze.read_csv(path)
        return inputs, labels, dict(render=maze.render, canonical=maze.canonical,
                                    judges={"valid_path_accuracy": maze.valid_paths})
    inputs, labels, shape = sudoku.read_csv(path, (box[0], box[1]) if box else None)
    looks: dict[str, Callable] = dict(render=sudoku.render, disguise=sudoku.disguise,
                                      keeps_rules=sudoku.keeps_rules, canonical=sudoku.canonical,
                                      solutions=sudoku.count_solutions)
    return inputs, labels, {name: partial(f, box=shape) for name, f in looks.items()}


def _open_grids(kind: str, config: Config, data: Path | None, augment: bool, hints: float) -> Task:
    """A Task of a folder with train.csv and test.csv, or of one CSV: a tenth is held out."""
    side = side_of(config.seq_len)
    box = sudoku.default_box(side) if kind == "sudoku" else None
    split = None
    if data is None:
        train, test = _own_data(kind, side, config.seed)
    elif data.is_file():
        train, test, split = data, None, config.seed
    else:
        train, test = data / "train.csv", data / "test.csv"
        for file in (train, test):
            if not file.is_file():
                raise FileNotFoundError(f"{data}: there is no {file.name} in it; give a folder "
                                        "with train.csv and test.csv, or one CSV file")
    x, y, looks = read_grids(kind, train)
    if test:
        x_test, y_test, _ = read_grids(kind, test)
    elif len(x) < 2:
        raise ValueError(f"{data}: holds one puzzle; training and held-out puzzles need at least "
                         "two")
    else:
        held = _held_out(len(x), config.seed)
        x, y, x_test, y_test = x[~held], y[~held], x[held], y[held]
    about = dict(kind=kind, data=_portable(data or train.parent), sha256=sha256(train),
                 split=split, augmented=augment, hints=hints, box=list(box) if box else None)
    symmetries = sudoku.augmenter(box, hints) if box else maze.augment
    return Task(kind, config, Puzzles(x, y, augment=symmetries if augment else None),
                Puzzles(x_test, y_test), about, **looks)


def _own_data(kind: str, side: int, seed: int) -> tuple[Path, Path]:
    """Training and held-out files that are downloaded, or generated: then none of the puzzles is
    a symmetric copy of another."""
    if kind == "sudoku" and side == 9:
        return sudoku.download(DATA / "sudoku-extreme")[1:]
    folder = DATA / f"{kind}{side}-seed{seed}"
    files = folder / "train.csv", folder / "test.csv"
    if files[1].is_file():
        return files
    generate: Callable
    write: Callable
    if kind == "sudoku":
        box = sudoku.default_box(side)
        counts = (24, 12) if side == 4 else (1000, 1000)  # there are 36 minimal 4x4 puzzles
        generate, write = partial(sudoku.generate, box=box), partial(sudoku.write_csv, box=box)
    else:  # small mazes are cheap, so there are many of them, and none needs to be turned around
        counts = (20_000 if side < 20 else 1000, 1000)
        generate, write = partial(maze.generate, side=side), maze.write_csv
    say(f"generating {sum(counts):,} puzzles of {side}x{side} cells ...", end=" ")
    start = time.time()
    inputs, labels = generate(sum(counts), seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    write(files[0], inputs[:counts[0]], labels[:counts[0]])
    write(files[1], inputs[counts[0]:], labels[counts[0]:])  # last: it marks the end
    say(f"{time.time() - start:.1f} s: {_portable(folder)}")
    return files


def _held_out(count: int, seed: int) -> np.ndarray:
    """(count,) bool: the tenth of one file's puzzles that is not trained on."""
    return np.random.default_rng(seed).permutation(count) < math.ceil(count / 10)


def _portable(path: Path) -> str:
    """How a checkpoint names its data: inside the repository relative to it, else absolute."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


# ------------------------------------------------------------------------------------------------
# ARC


def _corpus(name: str, data: Path, side: int) -> Any:
    if name == "mini":
        return arc_mini.mini_corpus()
    if name in arc.PUBLIC:  # in a small square, those of its tasks that fit
        return arc.corpus(name, data).fitting(side)
    return arc.own_corpus([data / "training"], [data / "evaluation"])


def _open_arc(name: str, config: Config, data: Path | None, arc_copies: int) -> Task:
    """The public corpora below --data (default data/), one's own where that has `training` and
    `evaluation` folders, or a dozen toy tasks, which need no files."""
    if data is not None and (name == "mini" or (data / "training").is_dir()):
        name, arc_copies = "own", 1000
    side = side_of(config.seq_len)
    corpus = _corpus(name, data or DATA, side)
    table = arc.build_table(corpus, arc_copies, config.seed)
    config = dataclasses.replace(config, num_puzzle_ids=len(table))
    about = dict(kind="arc", data="toy tasks" if name == "mini" else _portable(data or DATA),
                 corpus=name, tasks=table.tasks, sha256=table.sha256())
    puzzles = arc.ArcPuzzles(corpus, table, side)
    return Task("arc", config, puzzles, None, about, corpus=corpus, table=table)
