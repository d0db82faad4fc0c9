"""One puzzle, thought about step by step: in words, as JSON, as pictures.

    question = ask(".4...53.........426...........5..3..", "sudoku", model.config)
    thought = think_about(model, question)        # or of held_out(task, 7)
    print(in_words(thought))
    save_strip(thought, Path("out.png")), save_gif(thought, Path("out.gif"))

For a model and a puzzle of one's own: Question("tokens", inputs, labels or None), arrays (cells,).
"""
from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data import arc, maze, sudoku
from data.grid import columns_of, side_of
from support.processes import device_of
from support.report import asked_arc, shown
from support.scoring import beside
from support.tasks import Task
from tinytrm import TRM, Config

LETTERS = dict(sudoku=".." + sudoku.DIGITS, maze="?" + maze.CHARACTERS)  # of tokens 0, 1, ...
MOST = 40  # steps shown, if each of more than that changes the answer
ROUNDS = 300  # of searching for a Sudoku's solutions: 0.1 s for 9x9, 3 s for 25x25


class Question(NamedTuple):
    """What is asked, and what is known of it."""

    kind: str  # "sudoku", "maze", "arc" or "tokens"
    inputs: np.ndarray  # (cells,) tokens
    labels: np.ndarray | None = None  # (cells,), 0 is "not labelled"; None: not known
    box: sudoku.Box = (0, 0)  # rows and columns of a Sudoku's boxes
    id: int = 0  # puzzle id
    name: str = ""
    remarks: tuple[str, ...] = ()
    columns: int = 0  # cells in a row of a grid of one's own; 0: a square, or else a sequence


@dataclass
class Thought:
    """What a model thought about a question in S steps, and what is to be said of it."""

    question: Question
    answers: np.ndarray  # (S, cells)
    q: np.ndarray  # (S,)
    halted: bool  # stopped by itself, before all steps were done
    labels: np.ndarray | None  # (cells,) what the answers are compared with, if anything
    valid: bool | None  # is the last answer right? None: nobody can tell
    verdict: str  # the same in words
    remarks: list[str] = field(default_factory=list)

    def wrong(self) -> list[int] | None:
        """Wrong cells after each step."""
        if self.labels is None:
            return None
        differs, judged = self.answers != self.labels, np.broadcast_to(self.labels > 0,
                                                                       self.answers.shape)
        if self.question.kind == "arc":  # the tokens around a grid are no cells
            judged = (self.answers > 1) | (self.labels > 1)
        return (differs & judged).sum(1).tolist()

    def turns(self) -> list[int]:
        """The steps worth a look, from 0: up to the last that changed the answer, MOST at most."""
        changed = np.flatnonzero((self.answers[1:] != self.answers[:-1]).any(1)) + 1
        last = int(changed.max(initial=0))
        return sorted({round(k) for k in np.linspace(0, last, min(last + 1, MOST))})


# ------------------------------------------------------------------------------------------------
# Questions


def ask(text: str, kind: str, config: Config, box: sudoku.Box | None = None) -> Question:
    """The question that a text means, written as in a data file; line breaks or '/' may stand
    between rows. Puzzles of any other kind: numbers with spaces or commas between them. Raises
    ValueError for what is no puzzle of this kind, or of another size than the model's.
    """
    if kind == "arc":
        raise ValueError("--puzzle: an ARC task is more than one grid, and has a puzzle id of its "
                         "own; look at one that the model knows, by --number")
    if kind not in LETTERS:
        remarks = ("thought about with puzzle id 0",) if config.num_puzzle_ids > 1 else ()
        return Question("tokens", _numbers(text, config), remarks=remarks,
                        columns=getattr(config, "columns", 0))
    side = side_of(config.seq_len)
    if kind == "maze":
        inputs = _letters(text, side, "maze", dict(zip(maze.CHARACTERS[:-1], range(1, maze.PATH))))
        _check_maze(inputs)
        return Question(kind, inputs)
    r, c = box or sudoku.default_box(side)
    inputs = _letters(text, side, "Sudoku", sudoku.alphabet(side))
    _check_clues(inputs, (r, c))
    return Question(kind, inputs, box=(r, c))


def _letters(text: str, side: int, what: str, alphabet: dict[str, int]) -> np.ndarray:
    """Text -> tokens (cells,). Raises ValueError."""
    rows = text.strip("\n/").replace("\r", "").replace("/", "\n").split("\n")
    fits = f"this model answers {what}s of {side}x{side} cells"
    if len(rows) > 1 and [len(row) for row in rows] != [side] * side:
        bad = next((k for k, row in enumerate(rows) if len(row) != side), len(rows))
        said = (f"row {bad + 1} has {len(rows[bad])} cells" if bad < len(rows) else
                f"there are {len(rows)} rows")
        raise ValueError(f"--puzzle: {said}; {fits}")
    letters = "".join(rows)
    if len(letters) != side * side:
        raise ValueError(f"--puzzle: has {len(letters)} characters, not {side * side}; {fits}")
    for i, letter in enumerate(letters):
        if letter not in alphabet:
            raise ValueError(f"--puzzle: character {i + 1} is {letter!r}; a {what} of this size is "
                             f"written in {''.join(alphabet)!r}")
    return np.array([alphabet[letter] for letter in letters])


def _numbers(text: str, config: Config) -> np.ndarray:
    """Text -> tokens (cells,). Raises ValueError."""
    words = re.sub(r"\b0+(?=\d)", "", text.replace(",", " ")).split()  # 007 is 7
    for i, word in enumerate(words):
        if not (word.isascii() and word.isdigit()) or int(word[:9]) >= config.vocab_size:
            raise ValueError(f"--puzzle: number {i + 1} is {word!r}; this model's tokens are 0 to "
                             f"{config.vocab_size - 1}")
    if len(words) != config.seq_len:
        raise ValueError(f"--puzzle: has {len(words)} numbers, not {config.seq_len} as this "
                         "model's puzzles")
    return np.array([int(word) for word in words])


def _check_clues(inputs: np.ndarray, box: sudoku.Box) -> None:
    """Raise ValueError, naming the cells, where a digit stands twice in a row, column or box."""
    geo = sudoku.geometry(box)
    for unit in geo.units:
        clues = inputs[unit]
        for digit in np.unique(clues[clues > 1]).tolist():
            if len(cells := unit[clues == digit]) > 1:
                here, there = (f"row {i // geo.side + 1}, column {i % geo.side + 1}"
                               for i in cells[:2])
                raise ValueError(f"--puzzle: contradicts itself: {sudoku.DIGITS[digit - 2]} in "
                                 f"{here}, and in {there}")


def _check_maze(inputs: np.ndarray) -> None:
    """Raise ValueError unless there is one S and one G."""
    for letter, token in (("S", maze.START), ("G", maze.GOAL)):
        if (found := int((inputs == token).sum())) != 1:
            raise ValueError(f"--puzzle: a maze has exactly one {letter}, this has {found}")


def held_out(task: Task, number: int) -> Question:
    """A held-out puzzle, numbered from 1 as on the page of --html. Raises ValueError."""
    data = task.about.get("data", "")
    if task.kind == "arc":
        total = sum(len(t.tests) for t in task.corpus.asked)
    else:
        total = len(task.test)
    if not 1 <= number <= total:
        raise ValueError(f"--number {number}: there are {total:,} held-out puzzles")
    name = f"held-out puzzle {number:,} of {total:,}"
    if task.kind == "arc":
        inputs, labels, ids, names, *_ = asked_arc(task, None, number)
        known = labels[-1] if labels[-1].any() else None
        return Question("arc", inputs[-1], known, id=int(ids[-1]), name=f"{name}: {names[-1]}",
                        remarks=("by the plain copy alone, without a vote",))
    inputs, labels, ids = (t[number - 1] for t in (task.test.inputs, task.test.labels,
                                                   task.test.ids))
    box = tuple(task.about.get("box") or (0, 0))
    remarks = (*([f"from {data}"] if data and not task.remarks else []), *task.remarks)
    kind = task.kind if task.kind in JUDGES else "tokens"
    return Question(kind, inputs, labels, box, int(ids), name, remarks)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------
# Answers


def think_about(model: TRM, question: Question, steps: int | None = None, halt: bool = False
                ) -> Thought:
    """Think, and judge the last answer: by the rules where there are any, else by the labels."""
    device = device_of(model)
    x = torch.from_numpy(np.asarray(question.inputs).astype(np.int64))[None].to(device)
    ids = torch.full((1,), question.id, device=device)
    thoughts = [*model.think(x, ids, steps, halt)]
    done = int(thoughts[-1][2])  # steps until it halted
    answers = np.stack([a[0].cpu().numpy() for a, *_ in thoughts[:done]])
    if question.kind == "arc":  # what lies beyond the grid that a prediction shows says nothing
        answers = np.stack([shown(a, math.isqrt(len(a))) for a in answers]).astype(int)
    q = np.array([float(t[1]) for t in thoughts[:done]])
    labels, valid, verdict, remarks = JUDGES[question.kind](question, answers[-1])
    return Thought(question, answers, q, done < len(thoughts), labels, valid, verdict,
                   [*question.remarks, *remarks])


Judged = tuple[np.ndarray | None, bool | None, str, list[str]]  # labels, valid, verdict, remarks


def judge_sudoku(question: Question, answer: np.ndarray) -> Judged:
    """Right is any grid that keeps the rules and the clues."""
    inputs, labels, box = question.inputs, question.labels, question.box
    moved = int(((inputs > 1) & (answer != inputs)).sum())
    if valid := bool(sudoku.keeps_rules(inputs[None], answer[None], box)[0]):
        verdict = "a valid solution: every row, column and box holds every digit"
    else:
        geo = sudoku.geometry(box)
        digits, _ = sudoku.tally(sudoku.masks(answer[None], box), geo.units)
        verdict = (f"no valid solution: {(digits != geo.full).sum()} of {len(geo.units)} rows, "
                   f"columns and boxes lack a digit")
        verdict += f", and clues are not kept: {moved}" if moved else ""
    remarks = []
    if labels is None:
        count = int(sudoku.count_solutions(inputs, box, rounds=ROUNDS))
        if count == 1:
            labels = sudoku.solve(inputs, box)
        elif count >= 0:
            remarks.append("the puzzle has several solutions" if count else
                           "the puzzle has NO solution: no answer can be right")
    elif valid and (answer != labels).any():
        remarks.append("another solution than the one in the data")
    return answer if valid else labels, valid, verdict, remarks


def judge_maze(question: Question, answer: np.ndarray) -> Judged:
    """Right is any shortest path."""
    inputs, labels = question.inputs[None], question.labels
    if labels is None:
        try:
            labels = maze.label(inputs)[0]
        except ValueError:
            return None, False, "no valid solution", ["NO way leads from S to G: no answer can be "
                                                      "right"]
    valid = bool(maze.valid_paths(inputs, answer[None], labels[None])[0])
    length = int((labels == maze.PATH).sum()) + 1
    path = f"a shortest path from S to G, {length} step{'s' * (length > 1)} long"
    verdict = f"a valid solution: {path}" if valid else f"no valid solution: not {path}"
    other = valid and question.labels is not None and (answer != labels).any()
    return (answer if valid else labels, valid, verdict,
            ["another shortest path than the labelled one"] * bool(other))


def judge_labels(question: Question, answer: np.ndarray) -> Judged:
    """Right is what the labels say."""
    labels = question.labels
    if labels is None:
        return None, None, "", []
    wrong = (answer != labels) & ((labels > 0) | (question.kind == "arc"))
    return labels, not wrong.any(), "wrong" if wrong.any() else "right", []


JUDGES: dict[str, Callable[[Question, np.ndarray], Judged]] = dict(
    sudoku=judge_sudoku, maze=judge_maze, arc=judge_labels, tokens=judge_labels)


# ------------------------------------------------------------------------------------------------
# In words


def write(tokens: np.ndarray, kind: str) -> Any:
    """Tokens (cells,) as in a data file: a text, or for ARC a list of rows, or a list of tokens."""
    if kind == "arc":
        return arc.decode(tokens, math.isqrt(len(tokens))).tolist()
    return ("".join(LETTERS[kind][t] for t in tokens) if kind in LETTERS
            else np.asarray(tokens).tolist())


def as_json(thought: Thought) -> dict:
    """What --json prints. valid is None where nobody can tell, and so is wrong, by step."""
    kind = thought.question.kind
    return dict(name=thought.question.name, kind=kind, puzzle=write(thought.question.inputs, kind),
                answer=write(thought.answers[-1], kind), valid=thought.valid,
                verdict=thought.verdict, steps=len(thought.q), halted=thought.halted,
                q=[round(v, 4) if math.isfinite(v) else None for v in thought.q.tolist()],
                wrong=thought.wrong(), answers=[write(a, kind) for a in thought.answers],
                remarks=thought.remarks)


def in_words(thought: Thought, colour: bool | None = None) -> str:
    """The steps as text pictures with q after each, and the last answer. colour: None asks the
    terminal."""
    colour = sys.stdout.isatty() if colour is None else colour
    question, turns, S = thought.question, thought.turns(), len(thought.q)
    pictures = [["the question", "", *_text(question, None, None, colour)]]
    for k in turns:
        head = f"step {k + 1}" + (f": {said}" if (said := _said(thought, k)) else "")
        pictures.append([head, f"q = {thought.q[k]:.2f}",
                         *_text(question, thought.answers[k], thought.labels, colour)])
    height = max(map(len, pictures))
    lines = [question.name, ""] if question.name else []
    lines.append(beside([p + [""] * (height - len(p)) for p in pictures]))
    if question.kind == "maze":
        lines += [maze.LEGEND, ""]
    elif question.kind != "arc" and thought.labels is not None:
        lines += ["x = wrong", ""]
    if (after := turns[-1] + 2) <= S:
        lines.append(f"step {S} changes nothing" if after == S else
                     f"steps {after} to {S} change nothing")
    belief = 0.5 + 0.5 * math.tanh(0.5 * thought.q[-1])
    lines.append(f"after step {S}" + (", where it halted" if thought.halted else "") +
                 f": q = {thought.q[-1]:.2f}, it is {belief:.1%} sure")
    if question.kind != "arc":
        answer = write(thought.answers[-1], question.kind)
        answer = answer if isinstance(answer, str) else " ".join(map(str, answer))
        lines.append("answer    " + (f"'{answer}'" if question.kind == "maze" else answer))
    lines += [f"          {said}" for said in (thought.verdict, *thought.remarks) if said]
    return "\n".join(lines)


def _said(thought: Thought, k: int) -> str:
    wrong = thought.wrong()
    return "" if wrong is None else f"{wrong[k]} wrong" if wrong[k] else "right"


def _text(question: Question, answer: np.ndarray | None, labels: np.ndarray | None, colour: bool
          ) -> list[str]:
    """The lines of one picture."""
    inputs = question.inputs
    if answer is None:
        answer, labels = inputs, None
    if question.kind == "sudoku":
        text = sudoku.render(inputs, answer, labels, colour, question.box)
    elif question.kind == "maze":
        text = maze.render(inputs, answer, labels, colour)
    elif question.kind == "arc":
        text = arc.render(arc.decode(answer, math.isqrt(len(answer))), colour=colour)
    else:
        width = len(str(max(inputs.max(), answer.max())))
        columns = question.columns or columns_of(len(answer))
        bad = np.zeros(len(answer), bool) if labels is None else (labels > 0) & (answer != labels)
        cells = [f"{t:>{width}}{'x' if b else ' '}" for t, b in zip(answer, bad)]
        text = "\n".join("".join(cells[i:i + columns]) for i in range(0, len(cells), columns))
    return text.splitlines()


# ------------------------------------------------------------------------------------------------
# As pictures


def _story(thought: Thought, caption: str) -> tuple[Any, ...]:
    """What the drawing functions take: painter, question, answers, labels, titles, and rows and
    columns of a grid."""
    from support import pictures

    question, steps = thought.question, thought.turns()
    if steps[-1] < len(thought.q) - 1:
        steps.append(len(thought.q) - 1)
    answers, cells = thought.answers[steps], len(question.inputs)
    titles = [caption.format(k=k + 1, q=thought.q[k], said=_said(thought, k)).rstrip(", \n")
              for k in steps]
    columns = question.columns or columns_of(cells)
    shape, draw = (-(-cells // columns), columns), pictures.PAINTERS[question.kind]
    if question.kind == "sudoku":
        draw = partial(draw, box=question.box)
    elif question.kind == "arc":
        known = [] if thought.labels is None else [thought.labels]
        shape = pictures.extent(question.inputs, answers, *known)
        draw = partial(draw, shape=shape)
    elif question.kind == "tokens":
        draw = partial(draw, columns=columns)
    return draw, question.inputs, answers, thought.labels, titles, shape


def save_strip(thought: Thought, path: Path) -> None:
    """A picture of the steps side by side. Raises OSError."""
    from support import pictures

    pictures.save_strip(path, *_story(thought, "step {k}, q = {q:.2f}\n{said}"))


def save_gif(thought: Thought, path: Path) -> None:
    """The steps one after the other. Raises OSError."""
    from support import pictures

    pictures.save_gif(path, *_story(thought, "after step {k}, q = {q:.2f}, {said}"))
