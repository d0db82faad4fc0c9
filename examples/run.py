"""Tasks of one's own: rows are made here, four lines learn them, and rows never seen are asked.

    python examples/run.py flood                    # some minutes on two cores
    python examples/run.py sort add --seeds 0 1 2 --baseline
    python examples/run.py life --steps 500 --set mixer=mlp dim=32
    python examples/run.py --all --seeds 0 1 2 --baseline --json >> results.jsonl
    python examples/run.py --table results.jsonl    # the mean of all seeds, in Markdown
"""
from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import statistics
import sys
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

import numpy as np
import torch

import tinytrm
from examples.baseline import solve_plain, train_plain
from examples.tasks import LOOKS, TASKS, split
from support.console import Parser, count, count_or_none, guarded, say
from support.scoring import beside
from tinytrm import TRM, Config, Puzzles, solve, train
from tinytrm_beyond import for_data

AFTER = (1, 2, 4, 8, 16, 64)  # supervision steps whose accuracy is reported
SHOWN = 6  # steps of one answer
FIELDS = {f.name for f in dataclasses.fields(Config)}


def parser() -> Parser:
    """The flags."""
    lines = [textwrap.fill(described(name), 88, initial_indent=f"  {name:10}",
                           subsequent_indent=" " * 12) for name in TASKS]
    p = Parser(description=__doc__, epilog="\n".join(["tasks:", *lines]))
    p.add_argument("names", nargs="*", metavar="NAME", help="tasks, see below")
    p.add_argument("--all", action="store_true", help="all of them")
    p.add_argument("--seed", "--seeds", type=count_or_none, nargs="+", dest="seeds", metavar="S",
                   help="of rows and weights; several train as many models (0)")
    p.add_argument("--baseline", action="store_true", help="train a plain transformer, too, with "
                   "as many parameters and as many seconds")
    p.add_argument("--steps", type=count, metavar="N", help="steps of the optimizer (what "
                   "for_data says)")
    p.add_argument("--set", type=field, nargs="+", action="extend", metavar="FIELD=VALUE",
                   help="other fields of tinytrm.Config")
    p.add_argument("--json", action="store_true", help="print one line of JSON for each model, and "
                   "nothing else")
    p.add_argument("--table", type=Path, metavar="FILE", help="train nothing; print what --json "
                   "has printed into this file as a table")
    return p


def described(name: str) -> str:
    """What a task is, in a line."""
    return " ".join(TASKS[name].__doc__.split())


def field(text: str) -> tuple[str, Any]:
    """A flag's value: "dim=32" -> ("dim", 32)."""
    name, equals, value = text.partition("=")
    if not equals or name not in FIELDS:
        raise argparse.ArgumentTypeError("must be FIELD=VALUE with a field of tinytrm.Config, not "
                                         f"{text!r}")
    if name in ("steps", "seed"):
        raise argparse.ArgumentTypeError(f"{name} has a flag of its own, --{name}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags' values. Exits with code 2 and one line where they make no sense together."""
    p = parser()
    args = p.parse_args(argv)
    if args.table:
        p.useless(args, "all seeds baseline steps set json", "with --table")
        if args.names:
            p.error(f"{args.names[0]} does nothing with --table")
        return args
    if args.all == bool(args.names):
        p.error("give either names of tasks or --all, or --table FILE")
    for name in args.names:
        if name not in TASKS:
            p.error(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    args.fields = dict(args.set or []) | ({"steps": args.steps} if args.steps else {})
    return args


# ------------------------------------------------------------------------------------------------
# One model


def learn(name: str, seed: int, fields: dict[str, Any], baseline: bool, quiet: bool
          ) -> tuple[TRM, Puzzles, dict[str, Any]]:
    """Train on a task: the model, the held-out rows, and a result that JSON can hold."""
    data: tuple[Any, ...] = split(name, seed)
    puzzles, asked = (Puzzles(*rows) for rows in data)
    config = for_data(puzzles, seed=seed, **fields)
    begun = time.perf_counter()
    model = train(config, puzzles, **dict(on_step=None) if quiet else {})
    seconds = time.perf_counter() - begun
    answers = solve(model, asked.inputs, asked.ids).answers
    by_step = tinytrm.evaluate(model, asked, steps=max(AFTER))["by_step"]
    parameters = parameters_of(model)
    dtype = str(tinytrm.compute_dtype(config, model.y_init.device)).removeprefix("torch.")
    result = dict(task=name, seed=seed, fields=fields, learned=len(puzzles), asked=len(asked),
                  parameters=parameters, steps=config.steps, seconds=round(seconds, 2),
                  exact=exact(answers, asked), by_step={str(k): by_step[k - 1] for k in AFTER},
                  threads=torch.get_num_threads(), dtype=dtype, torch=torch.__version__)
    if baseline:
        begun = time.perf_counter()
        plain, steps = train_plain(puzzles, config.vocab_size, parameters, seconds, seed)
        result["plain"] = dict(
            exact=exact(solve_plain(plain, asked), asked), steps=steps,
            seconds=round(time.perf_counter() - begun, 2),
            parameters=sum(p.numel() for p in plain.parameters()))
    return model, asked, result


def parameters_of(model: TRM) -> int:
    """How many weights are trained: those of the optimizer and the puzzle table."""
    return sum(p.numel() for p in [*model.parameters(), model.puzzle_table])


def exact(answers: np.ndarray, puzzles: Puzzles) -> float:
    """Share of the rows whose labelled cells are all right, 0..1."""
    return float(((answers == puzzles.labels) | (puzzles.labels == 0)).all(1).mean())


def in_words(result: dict[str, Any]) -> str:
    """A result for the terminal."""
    lines = [f"learned   {result['learned']:,} rows in {result['seconds']:.0f} s, "
             f"{result['parameters']:,} parameters",
             f"asked     {result['asked']:,} rows that were not among them; all cells right:",
             "          after step " + ", ".join(f"{k}: {v:.1%}" for k, v in
                                                 result["by_step"].items()),
             f"          {result['exact']:.1%} as solve answers"]
    if plain := result.get("plain"):
        lines.append(f"          {plain['exact']:.1%} by a plain transformer with "
                     f"{plain['parameters']:,} parameters, in {plain['seconds']:.0f} s")
    return "\n".join(lines)


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


# ------------------------------------------------------------------------------------------------
# The table


def read(path: Path) -> list[dict[str, Any]]:
    """What --json has printed into a file. Raises ValueError, naming the line, and OSError."""
    results, raw = [], path.read_bytes()  # PowerShell 5.1 redirects in UTF-16
    text = raw.decode("utf-16" if raw[:2] == b"\xff\xfe" else "utf-8-sig", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            result = json.loads(line)
            table([result])  # has all that a table needs
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{path}, line {number}: is not what --json prints") from None
        results.append(result)
    if not results:
        raise ValueError(f"{path}: is empty")
    return results


def table(results: Iterable[dict[str, Any]]) -> str:
    """Results as a Markdown table, a line for each task and choice of fields: means over the seeds,
    and standard deviations if there are several. Of two results with the same seed the last counts.
    Raises KeyError or TypeError for what is no result."""
    groups: dict[str, dict[int, dict[str, Any]]] = {}
    for r in results:
        changed = ", ".join(f"{k}={v}" for k, v in sorted(r["fields"].items()))
        label = f"{r['task']} ({changed})" if changed else r["task"]
        groups.setdefault(label, {})[r["seed"]] = r
    head = ["task", "TRM", *(f"{k} step{'s' * (k > 1)}" for k in AFTER), "plain transformer",
            "seconds", "parameters", "seeds"]
    lines = [head, ["---"] * len(head)]
    for label, seeds in groups.items():
        group = list(seeds.values())
        plain = [r["plain"]["exact"] for r in group if "plain" in r]
        lines.append([label, percent([r["exact"] for r in group]),
                      *(f"{statistics.mean(r['by_step'][str(k)] for r in group):.1%}"[:-1]
                        for k in AFTER),
                      percent(plain if len(plain) == len(group) else []),
                      mean_sd([r["seconds"] for r in group], 0),
                      f"{group[0]['parameters']:,}", ", ".join(map(str, sorted(seeds)))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(shares: list[float]) -> str:
    """0..1 each -> mean and standard deviation in percent, or nothing."""
    return mean_sd([100 * s for s in shares], 1) if shares else ""


def mean_sd(values: list[float], digits: int) -> str:
    """Mean, and standard deviation of the sample if there are several."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


# ------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> None:
    """Whatever the flags say."""
    if args.table:
        return say(table(read(args.table)))
    for name in TASKS if args.all else args.names:
        for seed in args.seeds or [0]:
            if not args.json:
                say(f"{name}: {described(name)}")
            model, asked, result = learn(name, seed, args.fields, args.baseline, args.json)
            say(json.dumps(result) if args.json else
                f"{in_words(result)}\n\n{story(name, model, asked)}\n")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after an error of the user's."""
    return guarded(run, parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
