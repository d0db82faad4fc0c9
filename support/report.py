"""Runs as one page to look at: figures, charts, and puzzles step by step, in one file of HTML.

    page("report.html", model, Puzzles(inputs, labels))  # any model on any puzzles
    write_page(path, [look("one", model, puzzles), look("two", another, puzzles)])  # side by side
    write_page(path, [collect("mine", task, model, score(task, model))])  # one of train.py's tasks

Here is what the page shows; report.html and report*.js show it. Nothing of the data becomes markup:
it travels as JSON with every <, > and & escaped, and the scripts only ever set text.
"""
from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data import arc
from data.files import replacing
from support import cost
from support.console import check_target, reason, say, warn
from support.folders import PAGE_FILE
from support.monitor import read_metrics
from support.processes import device_of
from support.scoring import MOST, Seen, batch_of, score, thoughts
from support.tasks import Task
from tinytrm import TRM, Config, Puzzles

PAGE = Path(__file__).with_suffix(".html")
SCRIPTS = [PAGE.with_name(name) for name in ("report_boards.js", "report_charts.js", "report.js")]
DRAWN = ("sudoku", "maze", "arc")  # kinds of puzzle that report_boards.js draws their own way
THOUGHT, SHOWN = 1000, 100  # puzzles thought through for the charts; those of them to look at
LIVE = 250  # the former while training, where the evaluation has not thought about them anyway
SIZE = 2_000_000  # characters of grids in a page at most; the page stays below 3 MB
BINS = 10  # of the belief sigmoid(q)
DIGITS = np.array(list("0123456789abcdefghijklmnopqrstuvwxyz"))


@dataclass
class Run:
    """What a model thought about N puzzles in S steps, and how good it is."""
    page: dict  # what the page says of the run as a whole
    kind: str  # "sudoku", "maze", "arc" or "tokens"
    box: list[int] | None  # rows and columns of a Sudoku's boxes
    asked: Asked
    answers: np.ndarray  # (S, N, cells)
    q: np.ndarray  # (S, N)
    right: np.ndarray  # (S, N) 1 right, 2 right in another way than the label, 0 wrong
    marks: dict[str, np.ndarray]  # (N,) bool each: see `judged`
    columns: int = 0  # cells in a row; 0: a square, or else a sequence
    symbols: list[str] = field(default_factory=list)  # how tokens are written; none: as numbers
    path: Path | None = None  # of the model


class Asked(NamedTuple):
    """N questions."""
    inputs: np.ndarray  # (N, cells) tokens
    labels: np.ndarray  # (N, cells); 0 is "not labelled", all 0 an answer that nobody knows
    ids: np.ndarray  # (N,)
    names: list[str]
    numbers: list[int]  # among all, from 1
    more: list[dict]  # ARC: examples, the first two attempts, the number of votes


# ------------------------------------------------------------------------------------------------
# What a model thinks


def page(path: str | Path, model: TRM, puzzles: Puzzles, steps: int | None = None,
         name: str = "this model", **looks: Any) -> None:
    """Write a page of what any model thinks about any puzzles; `looks` are names, columns and
    symbols as for `look`. Raises ValueError, OSError."""
    write_page(Path(path), [look(name, model, puzzles, steps, **looks)])


def look(name: str, model: TRM, puzzles: Puzzles, steps: int | None = None, *,
         names: Sequence[str] = (), columns: int = 0, symbols: Sequence[str] = ()) -> Run:
    """What any model thinks about any N puzzles, in so many steps (default: eval_steps).

    names: of the puzzles (N,), to be found by. columns: cells in a row (default: the model's
    `columns`; if it has none, a square if there is one, else a sequence). symbols: how each token
    0 .. V - 1 is written (default: as a number). Raises ValueError.
    """
    cells, V = model.config.seq_len, model.config.vocab_size
    if not columns:
        columns = getattr(model.config, "columns", 0)
    if columns and (columns < 1 or cells % columns):
        raise ValueError(f"columns {columns}: rows of so many do not make {cells} cells")
    for what, given, count in (("names", names, len(puzzles)), ("symbols", symbols, V)):
        if len(given) not in (0, count):
            raise ValueError(f"{what}: give {count}, not {len(given)}")
    task = Task("tokens", model.config, None, puzzles, dict(data="puzzles of one's own"))
    seen = Seen()
    run = collect(name, task, model, score(task, model, steps, seen=seen), seen, steps=steps)
    if len(names):
        run.asked = run.asked._replace(names=[str(names[n - 1]) for n in run.asked.numbers])
    return replace(run, columns=columns, symbols=list(map(str, symbols)))


def collect(name: str | Path, task: Task, model: TRM, result: dict, seen: Seen | None = None,
            folder: Path | None = None, steps: int | None = None,
            batch_size: int | None = None, most: int = THOUGHT, trained: dict | None = None) -> Run:
    """What `score` returned and saw, in the shape of a page. What it did not see is thought about
    now, for at most so many puzzles. name: a path is shortened on the page. folder: where a
    metrics.csv may be; trained: what `Monitor.trained` returns (default: what is kept with the
    model)."""
    steps, seen = steps or model.config.eval_steps, seen or Seen()
    most = max(1, min(most, MOST // (steps * model.config.seq_len)))
    batch_size = batch_size or batch_of(model)
    asked, total, answers, q = thought_about(task, model, seen, steps, batch_size, most)
    labels = asked.labels
    known = np.any(labels > 0, axis=1)  # (N,)
    if task.kind == "arc":  # what lies beyond the grid that a prediction shows says nothing
        side = math.isqrt(model.config.seq_len)
        answers = np.stack([[shown(a, side) for a in step] for step in answers])
        right = (answers == labels).all(2)
    else:
        right = ((answers == labels) | (labels == 0)).all(2)
    ways = right.astype(np.uint8)
    for judge in task.judges.values():
        ways[np.stack([judge(asked.inputs, a, labels) for a in answers]) & ~right] = 2
    good = ways > 0
    won = good[-1]
    if seen.votes:  # the vote is what counts
        won = np.array([any(a["right"] for a in m["attempts"]) for m in asked.more])
    marks, rows = judged(won, good, q, known), metrics_of(folder)
    path = name if isinstance(name, Path) else None
    about = dict(name=str(name), total=total, thought=len(labels), steps=steps,
                 known=bool(known.any()),
                 result=figures(result, right[:, known]), remarks=result.get("remarks", []),
                 counts={mark: int(some.sum()) for mark, some in marks.items()},
                 halting=halting(good[:, known], q[:, known]), curves=curves(rows),
                 bins=reliability(right[:, known].ravel(), q[:, known].ravel()),
                 facts=facts(task, model, rows, trained, steps))
    about["facts"] += [["model", str(path)]] if path else []
    kind = task.kind if task.kind in DRAWN else "tokens"  # a new one, which nobody can draw yet
    return Run(about, kind, task.about.get("box"), asked, answers, q, ways, marks, path=path)


def thought_about(task: Task, model: TRM, seen: Seen, steps: int, batch_size: int, most: int
                  ) -> tuple[Asked, int, np.ndarray, np.ndarray]:
    """Some questions; how many there are; answers (S, N, cells) and q (S, N) after each step."""
    known = seen.answers is not None
    if task.kind == "arc":
        asked = asked_arc(task, seen.votes, most)
        total = sum(len(t.tests) for t in task.corpus.asked)
    else:
        total = len(task.test)
        asked = asked_grids(task, min(total, THOUGHT if known else most))
    if known:
        rows = np.array(asked.numbers) - 1
        return asked, total, seen.answers[:, rows], seen.q[:, rows]
    puzzles = Puzzles(asked.inputs, np.ones_like(asked.inputs), asked.ids)
    parts = [part[:2] for part in thoughts(model, puzzles, steps, batch_size=batch_size)]
    answers, q = (np.concatenate(arrays, axis=1) for arrays in zip(*parts))
    return asked, total, answers, q


def asked_grids(task: Task, count: int) -> Asked:
    """So many of the held-out puzzles, evenly spread."""
    test, rows = task.test, np.arange(count) * len(task.test) // count
    return Asked(test.inputs[rows], test.labels[rows], test.ids[rows], [""] * count,
                 (rows + 1).tolist(), [{}] * count)


def asked_arc(task: Task, votes: arc.Votes | None, most: int) -> Asked:
    """The plain copy of each test input; with it examples and the first two attempts."""
    side, found = math.isqrt(task.config.seq_len), list[tuple]()
    tokens = lambda grid: arc.encode(grid, side=side)
    for one in task.corpus.asked:
        for i, (question, answer) in enumerate(one.tests):
            examples = [[pack(tokens(g)) for g in pair] for pair in one.pairs[:3]]
            more: dict[str, Any] = dict(examples=examples, attempts=[], votes=0)
            if votes:
                counts = votes.counts.get((one.name, i), {})
                more["votes"] = sum(n for n, _ in counts.values())
                for grid in votes.ranked(one.name, i)[:2]:
                    n, belief = counts[arc.pack(grid)]
                    more["attempts"].append(dict(
                        t=pack(tokens(grid)), votes=n, belief=round(belief / n / 2**32, 4),
                        right=answer is not None and np.array_equal(grid, answer)))
            label = np.zeros(side * side, np.uint8) if answer is None else tokens(answer)
            name = one.name if len(one.tests) == 1 else f"{one.name}, test {i + 1}"
            found.append((tokens(question), label, task.table.rows(one.name)[0], name,
                          len(found) + 1, more))
    inputs, labels, ids, *rest = zip(*found[:most])
    return Asked(np.stack(inputs), np.stack(labels), np.array(ids), *map(list, rest))


def shown(tokens: np.ndarray, side: int) -> np.ndarray:
    """ARC: the tokens of the grid that a prediction shows, and nothing beyond its edges."""
    grid = arc.decode(tokens, side)
    return arc.encode(grid, side=side) if grid.size else np.zeros(side * side, np.uint8)


# ------------------------------------------------------------------------------------------------
# Figures


def figures(result: dict, right: np.ndarray) -> dict:
    """What `score` says, and for ARC, as by_step, how often one copy alone is right."""
    keep = {k: v for k, v in result.items() if k != "remarks"}
    if right.size:
        keep.setdefault("by_step", right.mean(1).tolist())
    return keep


def judged(won: np.ndarray, right: np.ndarray, q: np.ndarray, known: np.ndarray
           ) -> dict[str, np.ndarray]:
    """What the page can be filtered by, (N,) bool each. won (N,): right as it counts, for ARC by
    the vote; right (S, N): after each step. Sure: at the end, but wrong. Early: right in the end,
    but wrong when it was sure for the first time. Slow: right in the end, but after more than twice
    the steps that half of the right ones need."""
    tail = np.logical_and.accumulate(right[::-1]).sum(0)  # (N,) steps for which it has been right
    needed, last = len(right) + 1 - tail, right[-1]
    middle = np.median(needed[last]) if last.any() else 0
    sure = q > 0
    early = sure.any(0) & ~right[sure.argmax(0), np.arange(len(won))]
    return dict(right=won & known, wrong=~won & known, sure=~won & known & (q[-1] > 0),
                early=early & last & known, slow=last & known & (needed > 2 * middle))


def halting(right: np.ndarray, q: np.ndarray) -> list[list[int]]:
    """How many puzzles would halt (q > 0) after step 1 .. S, and never: those that are right then,
    and those that are wrong. Who never halts keeps the last answer."""
    S, halts = len(q), q > 0
    first = np.where(halts.any(0), halts.argmax(0), S)  # (N,)
    good = right[np.minimum(first, S - 1), np.arange(len(first))]
    return [np.bincount(first[good == g], minlength=S + 1).tolist() for g in (True, False)]


def reliability(right: np.ndarray, q: np.ndarray) -> list[list[float]]:
    """[mean belief, share right, answers] of each bin of the belief sigmoid(q) that has any."""
    finite = np.isfinite(q)
    belief, good = 0.5 + 0.5 * np.tanh(0.5 * q[finite].astype(float)), right[finite]
    place = np.minimum((belief * BINS).astype(int), BINS - 1)
    return [[float(belief[place == b].mean()), float(good[place == b].mean()),
             int((place == b).sum())] for b in range(BINS) if (place == b).any()]


def curves(rows: list[dict[str, str]]) -> dict[str, list]:
    """At most 200 means of consecutive rows of metrics.csv, and every evaluation. Empty without."""
    means = []
    for part in np.array_split(np.arange(len(rows)), min(200, len(rows)) or 1):
        some = [rows[i] for i in part]
        columns = ([v for r in some if math.isfinite(v := float(r[key]))]  # not where none halted
                   for key in ("loss", "exact_accuracy"))
        means.append([int(some[-1]["step"]) if some else 0,
                      *(float(np.mean(column or [0])) for column in columns)])
    looks = [[int(r["step"]), float(r["held_out_exact"])] for r in rows if r["held_out_exact"]]
    return dict(means=means, looks=looks) if rows else {}


def metrics_of(folder: Path | None) -> list[dict[str, str]]:
    """The rows of the run's metrics.csv, be `folder` the run's or something in it."""
    for place in (folder, folder.parent) if folder else ():
        if rows := read_metrics(place / "metrics.csv"):
            return rows
    return []


def facts(task: Task, model: TRM, rows: list[dict[str, str]], trained: dict | None,
          steps: int | None = None) -> list[list[str]]:
    """Pairs of what and how much."""
    c, device = model.config, device_of(model)
    symbols = getattr(c, "symbols", 1)
    found = [["parameters", f"{sum(p.numel() for p in model.parameters()):,}"],
             ["network", f"{c.layers} layers, {c.mixer} mixer (how cells see each other), "
                         f"dim {f'{symbols} x ' * (symbols > 1)}{c.dim}"],
             ["in one step", f"n = {c.n} times the scratchpad, then the answer; all this "
                             f"T = {c.T} {'time' if c.T == 1 else 'times'}"],
             ["steps", f"trained with at most {c.N_sup} a puzzle (N_sup), thinks "
                       f"{steps or c.eval_steps} here"]]
    if c.num_puzzle_ids > 1:
        found.append(["puzzle table", f"{c.num_puzzle_ids:,} rows"])
    how = trained or getattr(model, "extra", {}).get("trained")
    if not isinstance(how, dict) or not {"steps", "seconds"} <= how.keys():
        how = {}  # a word of its own, of another program than train.py
    if not how and rows:  # a run of before this was kept
        how = dict(steps=int(rows[-1]["step"]), seconds=float(rows[-1]["seconds"]))
    if how:
        found += training(how, c)
    return [*found, ["evaluated on", f"{cost.hardware(device)}, {cost.dtype_name(c, device)}"],
            ["data", str(task.about.get("data", "")) or "unknown"]]


def training(how: dict, config: Config) -> list[list[str]]:
    """Steps, time and cost of what `Monitor.trained` has noted."""
    steps, seconds = how["steps"], how["seconds"]
    found = [["trained", f"{steps:,} steps of {config.batch_size:,} puzzles, seed {config.seed}"],
             ["time", f"{spell(seconds)}, evaluations apart"],
             ["compute", f"{cost.flops_per_step(config) * steps:.1e} FLOPs"]]
    if "hardware" in how:
        found.append(["trained on", f"{'; then '.join(how['hardware'])}, {how['dtype']}, "
                                    f"torch {how['torch']}, {how['date']}"])
        if how["memory"]:  # not known on Windows
            found.append(["memory", f"{how['memory']:.1f} GiB at most, in one process"])
    if how.get("gpu_hours"):
        dollars = how["gpu_hours"] * how["price"]
        found.append(["cost", f"{how['gpu_hours']:,.1f} GPU-hours, ${dollars:,.2f} at "
                              f"${how['price']:g} each"])
    return found


def spell(seconds: float) -> str:
    """A duration, in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


# ------------------------------------------------------------------------------------------------
# The page


def page_path(flag: str | bool | None, out: Path) -> Path | None:
    """Where `train.py --html` writes. Raises ValueError, before the work, if it could not."""
    if not flag:
        return None
    path = out / PAGE_FILE if flag is True else Path(flag)
    if path.parent.resolve() != out.resolve():  # that folder will be there by then
        check_target("--html", path)
    return path


@dataclass
class Live:
    """The page of a run that is still trained: `train.py --html`. Only one process has one."""
    path: Path
    task: Task
    folder: Path  # of the run, after which it is called

    def __call__(self, model: TRM, result: dict, seen: Seen, trained: dict, progress: str = ""
                 ) -> None:
        """Write it, with what `score` returned and saw; progress: how far the run has come, or ""
        at its end. Whatever fails is a warning: no page is worth the training."""
        begun = time.time()
        try:
            run = collect(self.folder, self.task, model, dict(result, remarks=result.get(
                "remarks", self.task.remarks)), seen, self.folder, most=LIVE, trained=trained)
            if progress:
                run.page["progress"] = f"{progress}; written {time.strftime('%a %H:%M:%S')}"
            write_page(self.path, [run])
        except Exception as e:
            return warn(f"--html {self.path} was not written: {reason(e)}")
        took = f" in {time.time() - begun:.1f} s" if time.time() - begun > 1 else ""
        if took or not progress:
            say(f"page      {self.path}{took}")


def short_names(paths: Sequence[Path | None]) -> list[str]:
    """Names for models: the end of each path, as much of it as tells them apart. A file in a run's
    folder is called after both."""
    inner = ("checkpoint-", "milestone-", "model.pt", "best.pt")
    whole = [p.resolve() if p else None for p in paths]

    def end(p: Path | None, length: int) -> str:
        parts = (p.with_suffix("") if p.suffix == ".pt" else p).parts if p else ()
        return "/".join(parts[-length - p.name.startswith(inner):]) if p else ""

    for length in range(1, max((len(p.parts) for p in whole if p), default=0)):
        names = [end(p, length) for p in whole]
        if len(set(names)) == len(set(whole)):
            return names
    return [str(p or "") for p in paths]


def write_page(path: Path, runs: Sequence[Run]) -> None:
    """The page of one run or of several, complete or not at all. Raises OSError."""
    groups: dict[tuple, list[Run]] = {}
    for run, name in zip(runs, short_names([run.path for run in runs])):
        run.page["name"] = name or run.page["name"]
    for run in runs:  # those that thought about the same puzzles are shown side by side
        same = (run.kind, str((run.box, run.columns, run.symbols)), run.asked.inputs.tobytes(),
                run.asked.labels.tobytes())
        groups.setdefault(same, []).append(run)
    data = [group(some, SIZE // len(groups)) for some in groups.values()]
    text = json.dumps(finite(data), separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page, *scripts = (file.read_text(encoding="utf-8") for file in (PAGE, *SCRIPTS))
    page = page.replace("{{script}}", "\n".join(scripts)).replace("{{data}}", text)
    with replacing(path) as file:
        file.write(page.encode())


def group(runs: Sequence[Run], size: int) -> dict:
    """Runs on the same puzzles, and some of these puzzles, in about `size` characters at most."""
    kind, asked = runs[0].kind, runs[0].asked
    N, cells = asked.inputs.shape
    most = max(int(t.max()) for r in runs for t in (asked.inputs, asked.labels, r.answers))
    width = next(w for w in range(1, 9) if most < 36**w)  # characters of a token
    each = width * cells * (2 + sum(len(r.answers) + 2 for r in runs) + 6 * (kind == "arc"))
    rows = choice(runs, max(1, min(SHOWN, size // each)))
    puzzles = [dict(n=asked.numbers[i], name=asked.names[i], x=pack(asked.inputs[i], width),
                    t=pack(asked.labels[i], width), examples=asked.more[i].get("examples", []))
               for i in rows]
    side, one = math.isqrt(cells), runs[0]
    columns = one.columns or (side if side * side == cells else cells)
    return dict(kind=kind, width=width, cells=cells, box=one.box, puzzles=puzzles, columns=columns,
                symbols=one.symbols,
                runs=[dict(r.page, thoughts=[thought(r, i, width) for i in rows]) for r in runs])


def choice(runs: Sequence[Run], count: int) -> list[int]:
    """Rows of `count` puzzles to look at: a fifth that some run is sure of and has wrong, a fifth
    wrong, a fifth sure too early, a fifth slow, as far as there are such, the others as they
    come."""
    order = np.random.default_rng(0).permutation(len(runs[0].asked.inputs))
    picked: dict[int, None] = {}
    for mark in ("sure", "wrong", "early", "slow", ""):
        some = np.any([r.marks[mark] for r in runs], 0)[order] if mark else slice(None)
        fresh = [i for i in order[some].tolist() if i not in picked]
        picked.update(dict.fromkeys(fresh[:count - len(picked) if not mark else count // 5]))
    return sorted(picked)


def thought(run: Run, i: int, width: int) -> dict:
    """What a run thought about puzzle i: answers ("": the one before) and q after each step; s,
    how right each was, or "" where nobody knows; m, its marks; ARC's attempts."""
    texts, more = [pack(a, width) for a in run.answers[:, i]], run.asked.more[i]
    known = run.asked.labels[i].any()
    return dict(a=["" if k and t == texts[k - 1] else t for k, t in enumerate(texts)],
                q=[float(f"{v:.4g}") for v in run.q[:, i]],
                s="".join(map(str, run.right[:, i])) if known else "",
                m=[name for name, mark in run.marks.items() if mark[i]],
                attempts=more.get("attempts", []), votes=more.get("votes", 0))


def pack(tokens: np.ndarray, width: int = 1) -> str:
    """Tokens (cells,) as base-36 numbers of `width` characters each; zeros at the end are left
    out, but for the first token."""
    last = int(np.flatnonzero(tokens).max(initial=0)) + 1
    tokens = tokens.astype(int)  # of what comes as uint64 the quotients would be floats
    places = 36 ** np.arange(width - 1, -1, -1)
    return "".join(DIGITS[tokens[:last, None] // places % 36].ravel().tolist())


def finite(value: Any) -> Any:
    """The same, with None for what is no number: JSON has no NaN."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
