"""What train.py and evaluate.py must know of each kind of puzzle: its data, its score, its picture.

A new kind of puzzle is one more function here that returns a `Task`. From Python none of this is
needed: `tinytrm.train(config, Puzzles(inputs, labels))` takes any token grids.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from data import arc, arc_mini, maze, sudoku
from data.official import load_official
from tinytrm import Config, Puzzles

HERE = Path(__file__).parent  # made or downloaded data goes here unless --data names another place


@dataclass
class Task:
    """One kind of puzzle, ready to be trained on and evaluated."""

    kind: str  # "sudoku", "maze" or "arc"
    config: Config  # of the model, now with the size of the puzzle table
    train: Any  # Puzzles, or what has their `check` and `draw`; None when only evaluating
    test: Puzzles | None  # held-out puzzles; None for ARC, which is scored by voting
    about: dict  # plain values, kept with the model, from which `reopen` finds the data again
    render: Callable | None = None  # (inputs, answers, labels, color) of one puzzle -> text
    judges: dict = field(default_factory=dict)  # other ways to be right, see evaluate.score
    disguise: Callable | None = None  # exact symmetries, as data.sudoku.disguise
    corpus: Any = None  # ARC: tasks and questions
    table: Any = None  # ARC: what each puzzle id stands for

    def tensors(self) -> dict:
        """What must be kept with the model besides `about`: the meaning of the puzzle ids."""
        if self.table is None:
            return {}
        columns = {
            k: torch.from_numpy(getattr(self.table, k)) for k in ("task", "dihedral", "colours")
        }
        return dict(puzzle_ids=columns)


def first(puzzles: Puzzles, count: int) -> Puzzles:
    """The first so many puzzles."""
    return Puzzles(
        puzzles.inputs[:count], puzzles.labels[:count], puzzles.ids[:count], puzzles.augment
    )


def _portable(path: Path) -> str:
    """How a checkpoint names its data: below the repository relative to it, else as given."""
    path = Path(path)
    inside = path.is_absolute() and path.is_relative_to(HERE.parent)
    return str(path.relative_to(HERE.parent) if inside else path)


def open_task(preset: str, config: Config, data: Path | None) -> Task:
    """The task of a preset, for training. Raises ValueError or OSError with one line."""
    kind = preset.split("-")[0].rstrip("0123456789")
    task = dict(sudoku=_sudoku, maze=_maze, arc=_arc)[kind](preset, config, data)
    try:
        task.train.check(task.config)
        if task.test is not None:
            task.test.check(task.config)
    except ValueError as e:
        raise ValueError(f"{task.about['data']}: {e}") from None
    return task


def reopen(model, data: Path | None = None) -> Task:
    """The task of a loaded model, with its held-out puzzles or those in `data`."""
    about = getattr(model, "extra", {}).get("about")
    if not about:
        raise ValueError("this model does not say what it was trained on; give --task and --data")
    path, config = Path(data or about["data"]), model.config
    if data is None and not path.exists():
        path = HERE.parent / path  # as `_portable` wrote it
    if about["kind"] == "arc":
        corpus = _corpus(about["corpus"], path)
        table = arc.Table(
            about["tasks"],
            *(model.extra["puzzle_ids"][k].numpy() for k in ("task", "dihedral", "colours")),
        )
        if table.sha256() != about["sha256"] or len(table) != config.num_puzzles:
            raise ValueError(
                "the checkpoint's puzzle ids are not those it was trained with: a damaged file"
            )
        return Task("arc", config, None, None, about, corpus=corpus, table=table)
    if data is None or path.is_dir():
        path = _split(path)[1]
    reader = (
        _read_maze if about["kind"] == "maze" else lambda p: _read_sudoku(p, tuple(about["box"]))
    )
    inputs, labels, looks = reader(path)
    task = Task(about["kind"], config, None, Puzzles(inputs, labels), about, **looks)
    try:
        task.test.check(config)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None
    return task


# ------------------------------------------------------------------------------------------------
# Sudoku and mazes: CSV files, read, generated or downloaded


def _sudoku(preset: str, config: Config, data: Path | None) -> Task:
    side = _side(config)
    box = sudoku.default_box(side)
    if data is None and side == 9:
        data = sudoku.download(HERE / "sudoku-extreme")
    elif data is None:  # only 36 different minimal 4x4 puzzles exist
        counts = (24, 12) if side == 4 else (1000, 1000)
        data = _generated(
            f"sudoku{side}-seed{config.seed}",
            counts,
            lambda n: sudoku.generate(n, box, seed=config.seed),
            lambda path, x, y: sudoku.write_csv(path, x, y, box, "generated"),
        )
    return _from_csv(
        "sudoku",
        config,
        data,
        lambda path: _read_sudoku(path, None),
        sudoku.augmenter(box),
        box=list(box),
    )


def _maze(preset: str, config: Config, data: Path | None) -> Task:
    side, augment = _side(config), maze.augment
    if data is None:
        # Small mazes are cheap, so there are many of them, and none needs to be turned around: a
        # copy of a maze has another labelled path among the shortest ones, see maze.augment.
        count, augment = (20_000, None) if side < 20 else (1000, augment)
        data = _generated(
            f"maze{side}-seed{config.seed}",
            (count, 1000),
            lambda n: maze.generate(n, side, seed=config.seed),
            maze.write_csv,
        )
    return _from_csv("maze", config, data, _read_maze, augment)


def _read_sudoku(path: Path, box: tuple[int, int] | None):
    inputs, labels, box = sudoku.read_csv(path, box)
    render = lambda x, y, labels, color: sudoku.render(x, y, box, labels, color)
    return inputs, labels, dict(render=render, disguise=partial(sudoku.disguise, box=box))


def _read_maze(path: Path):
    inputs, labels, _ = maze.read_csv(path)
    return (
        inputs,
        labels,
        dict(render=maze.render, judges={"valid_path_accuracy": maze.valid_paths}),
    )


def _side(config: Config) -> int:
    side = math.isqrt(config.seq_len)
    if side * side != config.seq_len:
        raise ValueError(f"seq_len {config.seq_len} is not a square grid")
    return side


def _generated(name: str, counts: tuple[int, int], generate: Callable, write: Callable) -> Path:
    """The folder of a generated data set, made now unless it is there. No puzzle is a symmetric
    copy of another, so the held-out ones are new to the model in every sense."""
    folder, start = HERE / name, time.time()
    if not (folder / "test.csv").is_file():
        inputs, labels = generate(sum(counts))
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "train.csv", inputs[: counts[0]], labels[: counts[0]])
        write(
            folder / "test.csv", inputs[counts[0] :], labels[counts[0] :]
        )  # last: it marks the end
        print(
            f"generated {sum(counts)} puzzles in {time.time() - start:.1f} s: {folder}", flush=True
        )
    return folder


def _split(data: Path) -> tuple[Path, Path]:
    """The training and held-out files of a folder: train.csv (or what download drew), test.csv."""
    if not data.exists():
        raise FileNotFoundError(f"{data}: no such file or folder")
    drawn = sorted(data.glob("train-*-seed*.csv"))
    files = (drawn[0] if drawn else data / "train.csv"), data / "test.csv"
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{data}: there is no {file.name} in it; give a folder with train.csv "
                "and test.csv, or one CSV file"
            )
    return files


def _from_csv(
    kind: str, config: Config, data: Path, read: Callable, augment: Callable, **about
) -> Task:
    """A Task of a folder with train.csv and test.csv, or of one CSV: a tenth is held out."""
    if Path(data).is_file():
        inputs, labels, looks = read(data)
        if len(inputs) < 2:
            raise ValueError(
                f"{data}: holds one puzzle; training and held-out puzzles need at least two"
            )
        held = np.random.default_rng(config.seed).permutation(len(inputs)) < math.ceil(
            len(inputs) / 10
        )
        parts = inputs[~held], labels[~held], inputs[held], labels[held]
    else:
        train, test = _split(Path(data))
        parts = *read(train)[:2], *read(test)[:2]
        looks = read(test)[2]
    x, y, x_test, y_test = parts
    return Task(
        kind,
        config,
        Puzzles(x, y, augment=augment),
        Puzzles(x_test, y_test),
        dict(kind=kind, data=_portable(data), **about),
        **looks,
    )


# ------------------------------------------------------------------------------------------------
# ARC


def _corpus(name: str, data: Path):
    if name == "mini":
        return arc_mini.mini_corpus(data)
    if name in arc.PUBLIC:
        return arc.corpus(name, data)
    return arc.own_corpus([data / "training"], [data / "evaluation"])


def _arc(preset: str, config: Config, data: Path | None) -> Task:
    """arc1, arc2: the public folders below --data (default data/). A --data with `training` and
    `evaluation` folders in it is one's own corpus. arc-mini: a dozen generated tasks."""
    if data is not None and (data / "training").is_dir():
        name = "own"
    else:
        name = "mini" if preset == "arc-mini" else preset
        data = data or (HERE / f"arc-mini-seed{config.seed}" if name == "mini" else HERE)
    corpus = _corpus(name, data)
    table = arc.build_table(corpus, 15 if name == "mini" else 1000, config.seed)
    config = dataclasses.replace(config, num_puzzles=len(table))
    about = dict(
        kind="arc",
        data=_portable(data),
        corpus=name,
        tasks=table.tasks,
        sha256=table.sha256(),
    )
    return Task(
        "arc",
        config,
        arc.ArcPuzzles(corpus, table, _side(config)),
        None,
        about,
        corpus=corpus,
        table=table,
    )


# ------------------------------------------------------------------------------------------------
# The authors' checkpoints


def official_task(args) -> tuple[Any, Task]:
    """The model in `--official FILE` and its task, from the arguments of evaluate.py."""
    cells = dict(sudoku=81, maze=900, arc1=900, arc2=900)[args.task]
    model = load_official(
        args.official,
        seq_len=cells,
        n=args.n,
        T=args.T,
        heads=args.heads,
        puzzle_tokens=args.puzzle_tokens,
    )
    if args.data is None:
        raise ValueError(f"--official needs --data: where the {args.task} puzzles are")
    model.extra = dict(about=dict(kind=args.task, data=str(args.data), box=[3, 3]))
    if args.task in ("sudoku", "maze"):
        return model, reopen(model, args.data)
    if args.identifiers is None:
        raise ValueError(
            "--official for ARC needs --identifiers, which says what puzzle each row of its "
            "table stands for"
        )
    corpus = arc.corpus(args.task, args.data)
    table = arc.table_from_identifiers(
        args.identifiers, corpus.tasks, rows=model.config.num_puzzles
    )
    return model, Task(
        "arc", model.config, None, None, dict(sha256=table.sha256()), corpus=corpus, table=table
    )
