"""Pictures of puzzles being thought about, in one visual language for all notebooks.

    given cell            bold, on grey
    right answer          blue, on white
    wrong answer          red, struck through
    cell that has changed framed in orange

No state is told by colour alone. `python notebooks/draw.py` draws the README's animation again:
assets/thinking.gif, from notebooks/models/sudoku6.pt.
"""
from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.patches import Polygon, Rectangle

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `import draw` also makes tinytrm importable

GREY, BLUE, RED, ORANGE, INK = "#e4e4e0", "#1f5fa8", "#c0271c", "#f28e1c", "#222222"
ARC_COLOURS = ["#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00",  # as on the ARC website
               "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25"]

plt.rcParams.update({
    "figure.dpi": 80, "savefig.dpi": 80, "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True,
})


# ------------------------------------------------------------------------------------------------
# One grid on one matplotlib axis


def _board(ax, height: int, width: int, title: str) -> None:
    """An axis without scales for a grid of cells of size 1, row 0 on top."""
    ax.set(xlim=(-0.06, width + 0.06), ylim=(height + 0.06, -0.06), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=10)


def _cells(side: int):
    """index, column, row of every cell."""
    return ((i, i % side, i // side) for i in range(side * side))


def sudoku(ax, inputs, answer=None, labels=None, previous=None, title="", shade=None, box=None):
    """Draw one Sudoku on a matplotlib axis.

    inputs, answer, labels, previous: tokens (cells,); answer None draws the question alone. With
    labels, wrong cells are struck through; with previous (an earlier answer), changed cells are
    framed. shade (cells,), 0..1, darkens the open cells, whatever it means.
    """
    inputs = np.asarray(inputs)
    side = int(np.sqrt(len(inputs)))
    rows, columns = box or {4: (2, 2), 6: (2, 3), 9: (3, 3)}[side]
    _board(ax, side, side, title)
    for i, x, y in _cells(side):
        given = inputs[i] > 1
        if given:
            ax.add_patch(Rectangle((x, y), 1, 1, color=GREY, lw=0))
        elif shade is not None:
            strength = 0.7 * float(np.clip(shade[i], 0, 1))
            ax.add_patch(Rectangle((x, y), 1, 1, color=ORANGE, alpha=strength, lw=0))
        token = inputs[i] if given or answer is None else answer[i]
        wrong = labels is not None and answer is not None and answer[i] != labels[i]
        if token > 1:
            colour = INK if given else RED if wrong else BLUE
            ax.text(x + 0.5, y + 0.54, token - 1, ha="center", va="center", fontsize=60 / side,
                    color=colour, weight="bold" if given else None)
        if wrong:  # also a clue, if the answer has another digit in its place
            ax.plot([x + 0.2, x + 0.8], [y + 0.8, y + 0.2], color=RED, lw=1.3)
        if previous is not None and previous[i] != token and not given:
            frame = Rectangle((x + 0.07, y + 0.07), 0.86, 0.86, fill=False, ec=ORANGE, lw=1.8)
            ax.add_patch(frame)
    for k in range(side + 1):
        ax.plot([0, side], [k, k], color=INK, lw=1.6 if k % rows == 0 else 0.4)
        ax.plot([k, k], [0, side], color=INK, lw=1.6 if k % columns == 0 else 0.4)


def maze(ax, inputs, answer=None, labels=None, previous=None, title=""):
    """Draw one maze: walls dark, S and G, the path as dots; wrong dots are struck through.

    inputs, answer, labels: tokens (cells,), 1 wall, 2 free, 3 start, 4 goal, 5 path. With labels,
    labelled path cells that the answer misses are small rings. previous is not shown.
    """
    inputs = np.asarray(inputs)
    side = int(np.sqrt(len(inputs)))
    _board(ax, side, side, title)
    for i, x, y in _cells(side):
        if inputs[i] == 1:
            ax.add_patch(Rectangle((x, y), 1, 1, color="#55554f", lw=0))
        if inputs[i] in (3, 4):
            ax.add_patch(Rectangle((x, y), 1, 1, color=GREY, lw=0))
            ax.text(x + 0.5, y + 0.54, "SG"[inputs[i] - 3], ha="center", va="center",
                    weight="bold", fontsize=60 / side)
        elif answer is not None and answer[i] == 5:
            wrong = labels is not None and labels[i] != 5
            ax.plot(x + 0.5, y + 0.5, "o", ms=24 / side, color=RED if wrong else BLUE)
            if wrong:
                ax.plot([x + 0.2, x + 0.8], [y + 0.8, y + 0.2], color=RED, lw=1.3)
        elif answer is not None and labels is not None and labels[i] == 5:
            ax.plot(x + 0.5, y + 0.5, "o", ms=24 / side, mfc="none", mec=INK, mew=0.8)
    ax.add_patch(Rectangle((0, 0), side, side, fill=False, ec=INK, lw=1.2))


def arc(ax, grid, title="", digits=True):
    """Draw one ARC grid (rows, columns) of colours 0..9, each with its digit. A grid without cells
    leaves the place empty."""
    grid = np.asarray(grid)
    _board(ax, *grid.shape, title)
    for (y, x), colour in np.ndenumerate(grid):
        cell = Rectangle((x, y), 1, 1, fc=ARC_COLOURS[colour], ec="#888888", lw=0.5)
        ax.add_patch(cell)
        if digits and colour:
            ink = "black" if colour in (3, 4, 5, 7, 8) else "white"
            ax.text(x + 0.5, y + 0.54, colour, ha="center", va="center", color=ink,
                    fontsize=min(9, 50 / max(grid.shape)))


def tokens(ax, grid, title=""):
    """Draw a grid (rows, columns) of tokens as plain numbers; padding (0) is pale, 1 is hatched."""
    grid = np.asarray(grid)
    _board(ax, *grid.shape, title)
    for (y, x), token in np.ndenumerate(grid):
        fill = dict(fc=GREY if token > 1 else "white", hatch="////" if token == 1 else None)
        ax.add_patch(Rectangle((x, y), 1, 1, ec="#bbbbbb", lw=0.5, **fill))
        ax.text(x + 0.5, y + 0.54, token, ha="center", va="center", fontsize=54 / max(grid.shape),
                color=INK if token else "#bbbbbb", weight="bold" if token else None)


# ------------------------------------------------------------------------------------------------
# Several grids


def row(draw, *pictures, columns=6, size=1.9, **options):
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


def strip(draw, inputs, answers, labels=None, titles=None, columns=6, size=1.9):
    """One picture for each of the answers (steps, cells) to the question `inputs` (cells,), changed
    cells framed. `draw` is `sudoku` or `maze`."""
    titles = titles or [f"step {k + 1}" for k in range(len(answers))]
    before = [None, *answers[:-1]]
    pictures = [(t, inputs, a, labels, b) for t, a, b in zip(titles, answers, before)]
    row(draw, *pictures, columns=columns, size=size)


def animate(path, draw, inputs, answers, labels=None, titles=None, size=3.2, seconds=0.9):
    """Write the same pictures as an animated GIF; the question comes first, the last stays."""
    figure, ax = plt.subplots(figsize=(size, size + 0.3))
    last = len(answers)

    def frame(k):
        ax.clear()
        if k == 0:
            draw(ax, inputs, title="the question")
            return
        k = min(k, last) - 1
        draw(ax, inputs, answers[k], labels, previous=answers[k - 1] if k else None,
             title=titles[k] if titles else f"step {k + 1}")

    film = FuncAnimation(figure, frame, frames=last + 3)
    film.save(path, writer=PillowWriter(fps=1 / seconds), dpi=80)
    plt.close(figure)


# ------------------------------------------------------------------------------------------------
# Curves and tables


def mean(ax, x, values, fmt="o", color=BLUE):
    """The mean of the values (K,) at x, a number or a name, with a bar of one standard error each
    way. For booleans that is a share p and sqrt(p * (1 - p) / K)."""
    error = np.std(values) / len(values) ** 0.5
    ax.errorbar(x, np.mean(values), error, fmt=fmt, color=color, capsize=3)


def calibration(ax, belief, right, title="", edges=(0, 0.15, 0.3, 0.5, 0.7, 0.9, 1)):
    """Share right against belief, for the answers of each bin between two edges.

    belief (K,) 0..1, right (K,) booleans. Beside each point the number K of its answers. The bars
    are Wilson intervals of one standard error: also a bin with 0 of K right gets one.
    """
    for low, high in zip(edges, edges[1:]):
        inside = (belief > low) & (belief <= high)
        if K := inside.sum():
            b, p = belief[inside].mean(), right[inside].mean()
            middle, half = (K * p + 0.5) / (K + 1), np.sqrt(K * p * (1 - p) + 0.25) / (K + 1)
            ax.plot([b, b], [middle - half, middle + half], color=BLUE)
            ax.plot(b, p, "o", color=BLUE)
            ax.annotate(K, (b, p), (5, -9), textcoords="offset points", fontsize=8)
    ax.plot([0, 1], [0, 1], "k:", lw=0.8)
    ax.set(xlabel="sigmoid(q)", ylabel="share right", ylim=(-0.1, 1.05), title=title)
    ax.label_outer()


def powers_of_two(ax, numbers, label):
    """A logarithmic x axis with ticks at these numbers only."""
    ax.set(xscale="log", xlabel=label)
    ax.set_xticks(numbers, numbers)
    ax.minorticks_off()


def percentages(shares, rows, columns, ylabel, xlabel):
    """A table of shares (R, C), 0..1, between the names of its rows (R,) and columns (C,)."""
    _, ax = plt.subplots(figsize=(0.62 * len(columns), 0.55 * len(rows)))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(columns)), columns, rotation=60)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    for (y, x), share in np.ndenumerate(shares):
        ink = "w" if share > 0.5 else "k"
        ax.text(x, y, f"{share:.0%}", ha="center", va="center", color=ink)


def timeline(ax, steps, early, first=0, title="", slots=10, width=18):
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


def loops():
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
    values(xs[2:], y, ["$y, z$", "$y, z$", "loss"])
    say(9.1, y + 0.5, "...")
    back(xs[3] + 2.2, y - 0.35, 2.2, end=True)
    say(-1, y - 0.55, "hatched: without gradient (no_grad)", ha="left", fontsize=9)
    # calls of the last cycle
    y = 1
    say(-1, y + 1.75, "the last cycle: $n$ latent calls and an answer call of one network",
        ha="left", weight="bold")
    for x, k in zip(xs, ("1", "2", "$n$", "")):
        box(x, y, f"latent {k}" if k else "answer", GREY)
        if k:  # the answer call does not see the question
            arrow((x + 1.6, y + 1.45), (x + 1.6, y + 1))
            say(x + 1.75, y + 1.25, "$x$", ha="left", fontsize=9)
    values(xs[:2], y, ["$y, z$", "$z$", "$z$"])
    values(xs[2:], y, ["$z$", "$z$", "$y$, loss"])
    say(9.1, y + 0.5, "...")
    for x in xs[1:]:
        back(x + 2.2, y - 0.35, 3.2)
    back(xs[0] + 2.2, y - 0.35, 2.2, end=True)
    back(9.9, y - 0.35, 2.9)
    say(-1, y - 1.05, "dashed: the gradient, through all $n + 1$ calls, and in each to the "
        "weights; bars: where it ends", ha="left", fontsize=9)


# ------------------------------------------------------------------------------------------------
# The README's animation


def answers_by_cycle(model, inputs, steps):
    """Decode y after every cycle, T times per supervision step: inputs (B, cells) tokens ->
    answers (steps * T, B, cells)."""
    (y, z), answers = model.start(len(inputs)), []
    with torch.no_grad():
        x = model.embed(inputs, model.puzzle_table[inputs[:, 0] * 0]).to(y.dtype)
        for _ in range(steps * model.config.T):
            y, z = model.latent_recursion(x, y, z)
            answers.append(model.output_head(y).argmax(-1).numpy())
    return np.stack(answers)


def main() -> None:
    """The README's animation: among 500 fresh puzzles one that takes about eight cycles."""
    import tinytrm
    from data import sudoku as puzzles

    model = tinytrm.load(ROOT / "notebooks/models/sudoku6.pt")
    inputs, labels = puzzles.generate(500, (2, 3), seed=7)
    answers = answers_by_cycle(model, torch.from_numpy(inputs.astype(np.int64)), 6)
    wrong = (answers != labels).sum(2)  # (cycles, puzzles)
    needed = np.where(wrong[-1] == 0, (wrong > 0).sum(0), 0)  # cycles before it stays right
    i = int(np.abs(needed - 8).argmin())
    frames = answers[: needed[i] + 1, i]
    titles = [f"cycle {k + 1}: {w} wrong" if (w := (a != labels[i]).sum()) else
              f"cycle {k + 1}: solved" for k, a in enumerate(frames)]
    path = ROOT / "assets/thinking.gif"
    path.parent.mkdir(exist_ok=True)
    animate(path, sudoku, inputs[i], frames, labels[i], titles)
    print(f"{path}: {len(frames)} cycles, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
