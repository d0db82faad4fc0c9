"""Pictures for the notebooks: puzzles, as `support.pictures` draws them, curves and tables.

`python notebooks/draw.py` draws the README's animation again, assets/thinking.gif, from
notebooks/models/sudoku6.pt. To draw it from another model, and of a puzzle written as in a data
file, or of one of a CSV file that takes about eight steps:

    python notebooks/draw.py runs/sudoku9 PUZZLE
    python notebooks/draw.py runs/sudoku9 data/sudoku-extreme/test.csv
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import ArrayLike

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `import draw` also makes tinytrm importable
from support.pictures import (  # noqa: E402
    ARC_COLOURS,
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    STYLE,
    arc,
    maze,
    story,
    sudoku,
    tokens,
)

__all__ = [
    "ARC_COLOURS", "BLUE", "GREY", "INK", "ORANGE", "RED", "ROOT", "arc", "calibration", "loops",
    "maze", "mean", "percentages", "powers_of_two", "row", "strip", "sudoku", "timeline", "tokens",
]
plt.rcParams.update(STYLE)


# ------------------------------------------------------------------------------------------------
# Several grids


def row(draw: Callable, *pictures: tuple, columns: int = 6, size: float = 1.9,
        **options: Any) -> None:
    """Grids side by side, in rows of `columns`. Each of the pictures is (title, what `draw` gets);
    `draw` is `sudoku`, `maze`, `arc` or `tokens`, and the options are passed on to it."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    shape = dict(figsize=(size * columns, (size + 0.25) * rows), squeeze=False)
    _, axes = plt.subplots(rows, columns, **shape)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (title, *arguments) in zip(axes.flat, pictures):
        draw(ax, *arguments, title=title, **options)


def strip(draw: Callable, inputs: ArrayLike, answers: Sequence, labels: ArrayLike | None = None,
          titles: list[str] | None = None, columns: int = 6, size: float = 1.9) -> None:
    """One picture for each of the answers (steps, cells) to the question `inputs` (cells,), changed
    cells framed. `draw` is `sudoku` or `maze`."""
    titles = titles or [f"step {k + 1}" for k in range(len(answers))]
    row(draw, *story(inputs, answers, labels, titles), columns=columns, size=size)


# ------------------------------------------------------------------------------------------------
# Curves and tables


def mean(ax: Axes, x: float | str, values: ArrayLike, fmt: str = "o", color: str = BLUE) -> None:
    """The mean of the values (K,) at x, a number or a name, with a bar of one standard error each
    way. For booleans that is a share p and sqrt(p * (1 - p) / K)."""
    error = np.std(values) / len(values) ** 0.5
    ax.errorbar(x, np.mean(values), error, fmt=fmt, color=color, capsize=3)


def wilson(p: np.ndarray | float, K: int) -> np.ndarray:
    """The ends (2, ...) of the Wilson interval of one standard error of shares p of K: of none or
    all of them, too, it is no point."""
    middle, half = (K * p + 0.5) / (K + 1), np.sqrt(K * p * (1 - p) + 0.25) / (K + 1)
    return np.stack([middle - half, middle + half])


def calibration(ax: Axes, belief: np.ndarray, right: np.ndarray, title: str = "",
                edges: Sequence[float] = (0, 0.15, 0.3, 0.5, 0.7, 0.9, 1)) -> None:
    """Share right against belief, for the answers of each bin between two edges.

    belief (K,) 0..1, right (K,) booleans. Beside each point the number K of its answers, and as a
    bar its Wilson interval.
    """
    for low, high in zip(edges, edges[1:]):
        inside = (belief > low) & (belief <= high)
        if K := inside.sum():
            b, p = belief[inside].mean(), right[inside].mean()
            ax.plot([b, b], wilson(p, K), color=BLUE)
            ax.plot(b, p, "o", color=BLUE)
            ax.annotate(K, (b, p), (5, -9), textcoords="offset points", fontsize=8)
    ax.plot([0, 1], [0, 1], "k:", lw=0.8)
    ax.set(xlabel="sigmoid(q)", ylabel="share right", ylim=(-0.1, 1.05), title=title)
    ax.label_outer()


def powers_of_two(ax: Axes, numbers: ArrayLike, label: str) -> None:
    """A logarithmic x axis with ticks at these numbers only."""
    ax.set(xscale="log", xlabel=label)
    ax.set_xticks(numbers, numbers)
    ax.minorticks_off()


def percentages(shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], ylabel: str,
                xlabel: str) -> None:
    """A table of shares (R, C), 0..1, between the names of its rows (R,) and columns (C,)."""
    _, ax = plt.subplots(figsize=(0.62 * len(columns), 0.55 * len(rows)))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(columns)), columns, rotation=60)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    for (y, x), share in np.ndenumerate(shares):
        ink = "w" if share > 0.5 else "k"
        ax.text(x, y, f"{share:.0%}", ha="center", va="center", color=ink)


def timeline(ax: Axes, steps: np.ndarray, early: np.ndarray, first: int = 0, title: str = "",
             slots: int = 10, width: int = 18) -> None:
    """Which puzzle is in which slot: the first `slots` slots, from optimizer step `first` on.

    steps (optimizer steps, slots): how many supervision steps each slot's puzzle has had, so that 1
    is a fresh one; each puzzle is a bar with its number. early, the same shape: True where a puzzle
    was stopped early, an arrow. On the axis optimizer steps are counted from 1.
    """
    fresh = steps == 1
    number = np.where(fresh, fresh.cumsum().reshape(fresh.shape), 0)
    for i, s in np.ndindex(width, slots):
        i += first
        colour = ("#8fb1d8", "#d5e1ef")[fresh[:i + 1, s].sum() % 2]
        ax.barh(s, 1, left=i + 0.5, height=0.8, color=colour)
        if fresh[i, s]:
            ax.text(i + 0.57, s, number[i, s], va="center", fontsize=7)
        if early[i, s]:
            ax.plot(i + 1.4, s, ">", color=ORANGE, ms=5)
    ax.set(xlim=(first + 0.4, first + width + 0.6), ylim=(slots - 0.4, -0.6),
           xticks=range(first + 1, first + width + 1), yticks=range(slots),
           xlabel="optimizer step", ylabel="slot")
    ax.set_title(title, fontsize=10)


# ------------------------------------------------------------------------------------------------
# The three loops


def loops() -> None:
    """The three nested loops, N_sup supervision steps of T cycles of n + 1 calls: values along
    solid arrows, the gradient along dashed ones, and bars where it ends."""
    _, ax = plt.subplots(figsize=(9.5, 5.6))
    ax.set(xlim=(-1.1, 19.8), ylim=(-0.45, 10.3))
    ax.axis("off")
    say = lambda x, y, text, **o: ax.text(x, y, text, **dict(dict(ha="center", va="center"), **o))

    def box(x, y, text, fill="white", hatch=None):
        ax.add_patch(Rectangle((x, y), 2.2, 1, fc=fill, ec=INK, lw=1, hatch=hatch))
        say(x + 1.1, y + 0.5, text, bbox=dict(fc=fill, lw=0, pad=1) if hatch else None)

    def arrow(start, end, gradient=False):
        style = dict(color=RED, ls="--", lw=1.6) if gradient else dict(color=INK, lw=1.2)
        ax.annotate("", end, start, arrowprops=dict(style, arrowstyle="-|>", shrinkA=0, shrinkB=0))

    def values(xs, y, names):  # arrows into each of the boxes at xs and out of the last one
        for x, name in zip([*xs, xs[-1] + 3.4], names):
            arrow((x - 1.2, y + 0.5), (x, y + 0.5))
            say(x - 0.6, y + 0.78, name, fontsize=9)

    def back(x, y, length, end=False):  # the gradient, below the boxes; a bar where it ends
        arrow((x, y), (x - length, y), gradient=True)
        if end:
            ax.plot([x - length] * 2, [y - 0.3, y + 0.3], color=RED, lw=3)

    xs = [1.2, 4.6, 11.4, 14.8]
    for x, top, bottom in ((xs[1], 7.3, 5.6), (xs[3], 3.75, 3.05)):  # what is looked into below
        ax.add_patch(Polygon([(x, top), (x + 2.2, top), (17, bottom), (1.2, bottom)], color=GREY,
                             alpha=0.5, lw=0, zorder=0))
    # supervision steps
    y = 8
    say(-1, y + 1.8, "$N_{sup}$ supervision steps, each with a loss", ha="left", weight="bold")
    for x, k in zip(xs, ("1", "2", "$N_{sup}-1$", "$N_{sup}$")):
        box(x, y, f"step {k}", GREY)
        arrow((x + 1.6, y + 1), (x + 1.6, y + 1.55))
        say(x + 1.75, y + 1.35, "loss", ha="left", fontsize=9)
        back(x + 2.2, y - 0.35, 2.2, end=True)
    values(xs[:2], y, ["$y_0, z_0$", "$y, z$", "$y, z$"])
    values(xs[2:], y, ["$y, z$", "$y, z$", "answer"])
    say(9.1, y + 0.5, "...")
    say(-1, y - 0.95, "after each step: detach, and an optimizer step. No gradient goes from one "
        "step to the one before.", ha="left", fontsize=9)
    # cycles of one step
    y = 4.5
    say(-1, y + 1.4, "one step: $T$ cycles", ha="left", weight="bold")
    for x, k in zip(xs, ("1", "2", "$T-1$", "$T$")):
        box(x, y, f"cycle {k}", "white" if k != "$T$" else GREY, "//" if k != "$T$" else None)
    values(xs[:2], y, ["$y, z$"] * 3)
    values(xs[2:], y, ["$y, z$"] * 3)
    say(xs[3] + 2.8, y + 0.2, "loss", fontsize=9)
    say(9.1, y + 0.5, "...")
    back(xs[3] + 2.2, y - 0.35, 2.2, end=True)
    say(-1, y - 0.55, "hatched: without gradient (no_grad)", ha="left", fontsize=9)
    # calls of the last cycle
    y = 1
    say(-1, y + 1.75, "the last cycle: $n$ latent calls and an answer call of one network",
        ha="left", weight="bold")
    for x, k in zip(xs, ("1", "2", "$n$", "")):
        box(x, y, f"latent {k}" if k else "answer", GREY)
        arrow((x + 1.6, y + 1.45), (x + 1.6, y + 1))  # the answer call does not see the question
        say(x + 1.75, y + 1.25, "$x, y$" if k else "$y$", ha="left", fontsize=9)
    values(xs[:2], y, ["$z$"] * 3)
    values(xs[2:], y, ["$z$", "$z$", "$y, z$"])
    say(xs[3] + 2.8, y + 0.2, "loss", fontsize=9)
    say(9.1, y + 0.5, "...")
    for x in xs[1:]:
        back(x + 2.2, y - 0.35, 3.2)
    back(xs[0] + 2.2, y - 0.35, 2.2, end=True)
    back(9.9, y - 0.35, 2.9)
    say(-1, y - 1.05, "dashed: the gradient, through all $n + 1$ calls, and in each to the "
        "weights; bars: where it ends", ha="left", fontsize=9)


# ------------------------------------------------------------------------------------------------
# The README's animation


def main(model: str = str(ROOT / "notebooks/models/sudoku6.pt"), puzzle: str = "") -> None:
    """assets/thinking.gif: `model` thinks about `puzzle`, by default one that takes about eight
    steps among 2000 fresh ones. Raises ValueError, OSError."""
    import tinytrm
    from data import sudoku as puzzles
    from support.puzzle import ask, in_words, save_gif, think_about, write

    thinker = tinytrm.load(model)
    box = tuple(getattr(thinker, "extra", {}).get("about", {}).get("box") or ())
    if len(box) != 2:
        raise ValueError(f"{model}: no model of Sudoku, made by train.py")
    if not puzzle or puzzle.endswith(".csv"):
        many = puzzles.read_csv(puzzle, box) if puzzle else puzzles.generate(2000, box, seed=7)
        inputs, labels = many[0][:2000], many[1][:2000]
        puzzle = write(inputs[slow(thinker, inputs, labels)], "sudoku")
    thought = think_about(thinker, ask(puzzle, "sudoku", thinker.config, box))
    path = ROOT / "assets/thinking.gif"
    path.parent.mkdir(exist_ok=True)
    save_gif(thought, path)
    print(f"{puzzle}\n\n{in_words(thought)}\n\n{path}: {path.stat().st_size / 1000:.0f} kB")


def slow(model: Any, inputs: np.ndarray, labels: np.ndarray, wanted: int = 8) -> int:
    """Which of the puzzles (N, cells) takes about so many steps until its answer stays right."""
    import torch

    x = torch.from_numpy(inputs.astype(np.int64))
    answers = np.stack([a.numpy() for a, *_ in model.think(x, x[:, 0] * 0)])
    wrong = (answers != labels).any(2)  # (steps, N)
    needed = np.where(wrong[-1], -len(wrong), len(wrong) + 1 - wrong[::-1].argmax(0))
    return int(np.abs(np.where(wrong.any(0), needed, 1) - wanted).argmin())


if __name__ == "__main__":
    from support.console import guarded

    sys.exit(guarded(main, *sys.argv[1:3]))
