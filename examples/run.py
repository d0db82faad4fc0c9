"""Tasks of your own: rows are made here, four lines learn them, and rows never seen are asked.

    python examples/run.py flood                    # some minutes on two cores
    python examples/run.py sort add --seed 1 --baseline
"""
from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

import numpy as np
import torch

import tinytrm
from examples.baseline import solve_plain, train_plain
from examples.tasks import LOOKS, TASKS, split
from support.console import Parser, count, count_or_none, guarded, say
from support.scoring import beside
from tinytrm import TRM, Puzzles
from tinytrm_beyond import for_data

AFTER = (1, 2, 4, 8, 16, 64)  # supervision steps whose accuracy is reported
SHOWN = 6  # steps of one answer


def parser() -> Parser:
    """The flags."""
    lines = [textwrap.fill(described(name), 88, initial_indent=f"  {name:10}",
                           subsequent_indent=" " * 12) for name in TASKS]
    p = Parser(description=__doc__, epilog="\n".join(["tasks:", *lines]))
    p.add_argument("names", nargs="+", metavar="NAME", choices=TASKS, help="tasks, see below")
    p.add_argument("--seed", type=count_or_none, default=0, help="of rows and weights (0)")
    p.add_argument("--steps", type=count, help="of the optimizer (default: what for_data says)")
    p.add_argument("--baseline", action="store_true", help="train a plain transformer, too, with "
                   "as many parameters and as many seconds")
    return p


def described(name: str) -> str:
    """What a task is, in a line."""
    return " ".join(TASKS[name].__doc__.split())


def learn(name: str, seed: int, steps: int | None, baseline: bool) -> None:
    """Train on a task; say how good the model is on held-out rows, and show one answer."""
    say(f"{name}: {described(name)}")
    learned, asked = (Puzzles(*rows) for rows in split(name, seed))
    config = for_data(learned, seed=seed, **({"steps": steps} if steps else {}))
    begun = time.perf_counter()
    model = tinytrm.train(config, learned)
    seconds = time.perf_counter() - begun

    by_step = tinytrm.evaluate(model, asked, steps=max(AFTER))["by_step"]
    after = ", ".join(f"{k}: {by_step[k - 1]:.1%}" for k in AFTER)
    answers = tinytrm.solve(model, asked.inputs, asked.ids).answers
    parameters = sum(p.numel() for p in [*model.parameters(), model.puzzle_table])
    say(f"learned   {len(learned):,} rows in {seconds:.0f} s, {parameters:,} parameters\n"
        f"asked     {len(asked):,} rows that were not among them; all cells right:\n"
        f"          after step {after}\n"
        f"          {exact(answers, asked):.1%} as solve answers")
    if baseline:
        plain, _ = train_plain(learned, config.vocab_size, parameters, seconds, seed)
        size = sum(p.numel() for p in plain.parameters())
        say(f"          {exact(solve_plain(plain, asked), asked):.1%} by a plain transformer with "
            f"{size:,} parameters, in as many seconds")
    say(f"\n{story(name, model, asked)}\n")


def exact(answers: np.ndarray, puzzles: Puzzles) -> float:
    """Share of the rows whose labelled cells are all right, 0..1."""
    return float(((answers == puzzles.labels) | (puzzles.labels == 0)).all(1).mean())


# ------------------------------------------------------------------------------------------------
# One answer


def story(name: str, model: TRM, puzzles: Puzzles) -> str:
    """A row, and its answer after each step that changed it: of the first hundred rows that end
    right, the one that took longest to come right; if there is none, the first."""
    inputs, labels, ids = (torch.from_numpy(t[:100].astype(np.int64)) for t in (
        puzzles.inputs, puzzles.labels, puzzles.ids))
    answers = torch.stack([a for a, *_ in model.think(inputs, ids)])  # (S, rows, cells)
    right = ((answers == labels) | (labels == 0)).all(-1).numpy()
    row = int(np.where(right[-1], right.argmax(0), -1).argmax())
    steps, wanted = answers[:, row].numpy(), labels[row].numpy()
    changes = 1 + np.flatnonzero((steps[1:] != steps[:-1])[:, wanted > 0].any(1))
    turns = [0, *changes.tolist()]
    if len(turns) > SHOWN:
        turns = [*turns[:SHOWN - 1], turns[-1]]
    columns, question, answer = LOOKS[name]
    pictures = [["question", *draw(inputs[row].numpy(), question, columns)]]
    for k in turns:
        wrong = (steps[k] != wanted) & (wanted > 0)
        said = f"step {k + 1}: " + (f"{wrong.sum()} wrong" if wrong.any() else "right")
        pictures.append([said, *draw(np.where(wanted > 0, steps[k], -1), answer, columns, wrong)])
    if not right[-1, row]:
        pictures.append(["wanted", *draw(np.where(wanted > 0, wanted, -1), answer, columns)])
    rule = f" under rule {ids[row]}" if model.config.num_puzzle_ids > 1 else ""
    return f"held-out row {row + 1}{rule}; x = wrong\n\n{arrange(pictures)}"


def draw(tokens: np.ndarray, alphabet: str, columns: int, wrong: np.ndarray | None = None
         ) -> list[str]:
    """The lines of a picture: a character for each token (-1: none), an x behind what is wrong."""
    marks = np.zeros(len(tokens), bool) if wrong is None else wrong
    cells = [(alphabet + " ")[t] + " x"[int(bad)] for t, bad in zip(tokens, marks)]
    return ["".join(cells[i:i + columns]) for i in range(0, len(cells), columns)]


def arrange(pictures: list[list[str]]) -> str:
    """Grids side by side, sequences below each other."""
    if len(pictures[0]) > 2:
        return beside(pictures).rstrip()
    return "\n".join(f"{head:18}{line}".rstrip() for head, line in pictures)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after an error that the user can mend."""
    args = parser().parse_args(argv)

    def run() -> None:
        for name in args.names:
            learn(name, args.seed, args.steps, args.baseline)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
