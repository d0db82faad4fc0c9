"""Evaluate a trained model on puzzles it has not seen.

    python evaluate.py runs/sudoku6                      # the held-out puzzles of the run
    python evaluate.py runs/sudoku6 --steps 64 --halt    # think longer; stop when sure
    python evaluate.py runs/sudoku6 --rollouts 8         # think 8 times; the surest answer counts
    python evaluate.py runs/sudoku9 --data more.csv --json
    python evaluate.py runs/sudoku6 runs/other --html page.html   # look at them, side by side
    python evaluate.py runs/sudoku6 --puzzle .4...53.........426...........5..3..   # step by step
    python evaluate.py runs/sudoku6 --number 7 --picture steps.png --gif steps.gif
    python evaluate.py runs/arc1 --submission submission.json
    python evaluate.py runs/arc1 --pool runs/arc1/milestone-*.pt
    python evaluate.py --official CKPT --task arc1 --n 4 --T 3 --data PATH --identifiers FILE

Under torchrun the processes share the work; every puzzle counts once.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from data.arc import Votes
from support.checkpoints import about_of, load_model
from support.console import (
    Parser,
    check_picture,
    check_target,
    count,
    count_or_none,
    guarded,
    say,
)
from support.cost import advice_on_memory, compile_net, compiles
from support.official import CELLS, load_official, official_task
from support.processes import choose_device, device_of, join_processes, leave
from support.puzzle import (
    Question,
    as_json,
    ask,
    held_out,
    in_words,
    save_gif,
    save_strip,
    think_about,
)
from support.report import Run, collect, write_page
from support.rollouts import rollouts, search
from support.scoring import Seen, arc_result, batch_of, describe, score, vote
from support.tasks import Task, reopen, sample
from tinytrm import TRM, rank_and_world


def parser() -> Parser:
    """The flags."""
    p = Parser(description=__doc__)
    p.add_argument("run", nargs="*", type=Path, help="a run folder, a checkpoint in it, or a file "
                   "made by tinytrm.save, which can be asked a --puzzle; with --html several, "
                   "side by side")
    p.add_argument("--data", type=Path, help="a CSV, a folder with test.csv, or the root of the "
                   "ARC folders (default: the run's)")
    p.add_argument("--steps", type=count,
                   help="supervision steps (default: the model's eval_steps, 16 in the paper)")
    p.add_argument("--halt", action="store_true", help="let each puzzle stop as soon as its q > 0")
    p.add_argument("--puzzles", type=count, help="a fixed sample of so many (default: all)")
    p.add_argument("--batch_size", type=count, help="puzzles at a time (256; fewer if trained "
                   "with --micro_batch, or if they do not fit into a CPU's caches)")
    p.add_argument("--device", help="cpu, cuda, mps (default: the best there is)")
    p.add_argument("--compile", action=argparse.BooleanOptionalAction,
                   help="torch.compile the network (default: on CUDA)")
    p.add_argument("--json", action="store_true", help="print one JSON object (of each run) and "
                   "nothing else")
    p.add_argument("--html", type=Path, metavar="FILE", help="write a page to look at: figures, "
                   "charts, puzzles step by step")
    g = p.add_argument_group("one puzzle, step by step, instead of a score")
    g.add_argument("--puzzle", metavar="STRING", help="answer this Sudoku (digits, . or 0 for an "
                   "empty cell) or maze ('# SG', as in the data files; / may stand between rows); "
                   "for a model of one's own: numbers")
    g.add_argument("--number", type=count, metavar="N", help="a held-out puzzle, numbered as on "
                   "the page of --html; as on that of train.py with --puzzles 1000 (1)")
    g.add_argument("--picture", type=Path, metavar="FILE", help="write the steps side by side: "
                   "out.png, .svg, .pdf")
    g.add_argument("--gif", type=Path, metavar="FILE", help="write the steps as an animation")
    g = p.add_argument_group("test-time compute (Sudoku and mazes)")
    g.add_argument("--rollouts", type=count, metavar="K", help="think K times about each puzzle; "
                   "choose an answer by q, by who is sure first, by vote and, in Sudoku, by the "
                   "rules; all but the first time about a symmetric copy, where there are any")
    g.add_argument("--guesses", type=count, metavar="G", help="Sudoku: instead, again and again "
                   "until the answer keeps the rules, at most K times; each time up to G cells of "
                   "the last answer stand as if they were given (2 did better than 6)")
    g = p.add_argument_group("ARC")
    g.add_argument("--copies", type=count_or_none,
                   help="augmented copies of each test input that vote (default: all)")
    g.add_argument("--submission", type=Path, metavar="FILE", help="write Kaggle's submission.json")
    g.add_argument("--pool", type=Path, nargs="+", action="extend", metavar="RUN",
                   help="further checkpoints of the same run that vote too")
    g = p.add_argument_group("the authors' checkpoints")
    g.add_argument("--official", type=Path, metavar="FILE",
                   help="a state dict of the authors' code, instead of a run")
    g.add_argument("--task", choices=CELLS, help="what it was trained for")
    g.add_argument("--n", "--L_cycles", dest="n", type=count, help="its L_cycles")
    g.add_argument("--T", "--H_cycles", dest="T", type=count, help="its H_cycles")
    g.add_argument("--heads", type=count, help="(8)")
    g.add_argument("--puzzle_tokens", type=count, help="its puzzle_emb_len (16)")
    g.add_argument("--identifiers", type=Path, metavar="FILE",
                   help="ARC: the identifiers.json written beside its data set")
    return p


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags' values. Exits with code 2 and one line where they make no sense together."""
    p = parser()
    args = p.parse_args(argv)
    args.run, args.beside = (args.run or [None])[0], args.run[1:]
    if (args.run is None) == (args.official is None):
        p.error("give either a run folder or --official FILE")
    if args.official is None:
        p.useless(args, "task n T heads puzzle_tokens identifiers", "without --official")
    for name in ("task", "n", "T"):
        if args.official and getattr(args, name) is None:
            p.error(f"--official needs --{name}, which the file does not tell")
    args.single = any(v is not None for v in (args.puzzle, args.number, args.picture, args.gif))
    if args.single:
        p.useless(args, "html submission pool copies rollouts guesses compile "
                  "batch_size", "with --puzzle, --number, --picture or --gif")
        args.compile = False
    if args.puzzle is not None:
        p.useless(args, "number data puzzles identifiers", "with --puzzle")
    if args.html is None and args.beside:
        p.error("several runs are evaluated at a time for --html FILE only")
    if args.beside:
        p.useless(args, "submission pool", "with several runs")
    if args.rollouts is None:
        p.useless(args, "guesses", "without --rollouts K")
    elif args.html:
        p.error("--html shows puzzles thought about once; leave out --rollouts")
    elif args.halt:
        p.error('--rollouts takes all steps; see its line "by first" for halting')
    return args


def suits(task: Task, args: argparse.Namespace) -> None:
    """Raise ValueError for flags that do nothing for this task."""
    names = "puzzles rollouts" if task.kind == "arc" else "copies submission pool identifiers"
    for name in names.split():
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} does nothing for {task.kind}")
    if args.guesses and not task.keeps_rules:
        raise ValueError("--guesses does nothing but for Sudoku, where an answer can be checked")
    if args.rollouts and not task.disguise:
        raise ValueError("--rollouts does nothing here: these puzzles have no symmetric copies")


def open_model(args: argparse.Namespace, device: torch.device) -> tuple[TRM, Task]:
    """The model, `ready`, and its task."""
    if args.official:
        model, task = official_task(args.official, args.task, args.data, args.identifiers,
                                    **official_fields(args))
    else:
        model = load_model(args.run)
        task = reopen(model, args.data)
    suits(task, args)
    if task.test is not None and args.puzzles:
        task.test = sample(task.test, args.puzzles)
    return ready(model, args, device), task


def ready(model: TRM, args: argparse.Namespace, device: torch.device) -> TRM:
    """The model on the device, compiled if that is wanted."""
    model.to(device)
    if compiles(args.compile, device):
        size = args.batch_size or batch_of(model)
        with advice_on_memory(size, "--batch_size"):
            compile_net(model, size, training=False)
    return model


def official_fields(args: argparse.Namespace) -> dict[str, int]:
    """What the authors' files do not tell, as far as it was given."""
    names = "n", "T", "heads", "puzzle_tokens"
    return {k: v for k in names if (v := getattr(args, k)) is not None}


def open_single(args: argparse.Namespace) -> tuple[TRM, Question]:
    """The model, and the puzzle that it shall think about: that of --puzzle, or a held-out one."""
    if args.puzzle is None:
        model, task = open_model(args, torch.device("cpu"))
        return model, held_out(task, args.number or 1)
    if args.official:
        kind = args.task.rstrip("12")
        model = load_official(args.official, seq_len=CELLS[args.task], **official_fields(args))
        return model, ask(args.puzzle, kind, model.config)
    model = load_model(args.run)
    about = about_of(model)
    return model, ask(args.puzzle, about.get("kind", "tokens"), model.config, about.get("box"))


def single(args: argparse.Namespace, device: torch.device) -> None:
    """Think about one puzzle; print the steps, write the pictures. Raises ValueError, OSError."""
    model, question = open_single(args)
    thought = think_about(model.to(device), question, args.steps, args.halt)
    if rank_and_world()[0] == 0:
        say(json.dumps(as_json(thought)) if args.json else in_words(thought))
        if args.picture:
            save_strip(thought, args.picture)
        if args.gif:
            save_gif(thought, args.gif)


def run(args: argparse.Namespace) -> None:
    """Load, evaluate, print; then write what was asked for. Raises ValueError, OSError."""
    device = choose_device(args.device)
    join_processes(device)
    check_target("--submission", args.submission)
    check_target("--html", args.html)
    check_target("--picture", args.picture)
    check_target("--gif", args.gif)
    check_picture("--picture", args.picture)
    check_picture("--gif", args.gif, "gif")
    if args.single:
        return single(args, device)
    for path in args.beside:
        if not path.exists():
            raise ValueError(f"{path}: no such run")
    pages = [one(args, device)]
    for path in args.beside:
        args.run = path
        if compiles(args.compile, device):
            torch.compiler.reset()  # else it gives up at its ninth version of TRM.net
        pages.append(one(args, device))
    if args.html and rank_and_world()[0] == 0:
        write_page(args.html, pages)


def one(args: argparse.Namespace, device: torch.device) -> Run | None:
    """Evaluate one model; for --html, what it thought."""
    model, task = open_model(args, device)
    how = dict(steps=args.steps, batch_size=args.batch_size or batch_of(model))
    seen, page = Seen(), None
    with advice_on_memory(how["batch_size"], "--batch_size"):
        if args.rollouts:
            result = (search(task, model, args.rollouts, args.guesses, **how) if args.guesses else
                      rollouts(task, model, args.rollouts, **how))
        elif task.kind == "arc":
            result, seen.votes = pooled(args, task, model,
                                        dict(how, halt=args.halt, copies=args.copies))
        else:
            result = score(task, model, halt=args.halt, seen=seen if args.html else None, **how)
        result["remarks"] = [*task.remarks, *result.get("remarks", ())]
        if rank_and_world()[0] == 0:
            title = f"{args.run}\n" if args.beside and not args.json else ""
            say(title + (json.dumps(result) if args.json else describe(result)))
            if args.html:
                if args.halt:
                    result["remarks"].append("the figures are of answers at the first q > 0 "
                                             "(--halt); the puzzles below think on")
                page = collect(args.run or args.official, task, model, result, seen,
                               args.run, **how)
    if rank_and_world()[0] == 0:
        if args.submission:
            seen.votes.write_submission(args.submission)
    return page


def pooled(args: argparse.Namespace, task: Task, model: TRM, how: dict) -> tuple[dict, Votes]:
    """ARC: the votes of the model and of --pool's, and what they come to."""
    for path in args.pool or ():  # all of them, before the work
        if about_of(load_model(path)).get("sha256") != task.about["sha256"]:
            raise ValueError(f"--pool {path}: its puzzle ids are not those of "
                             f"{args.run or args.official}")
    votes, seen = vote(task, model, **how)
    for path in args.pool or ():
        more, count = vote(task, ready(load_model(path), args, device_of(model)), **how)
        votes.merge(more)
        seen += count
    result = dict(arc_result(task, votes, seen), checkpoints=1 + len(args.pool or ()))
    if args.pool:
        result["remarks"] = [f"pooled votes of {result['checkpoints']} checkpoints, not comparable "
                             "with one alone"]
    return result, votes


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: that of `guarded`."""
    return guarded(run, parse_args(argv))


if __name__ == "__main__":
    leave(main())
