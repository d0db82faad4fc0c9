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
from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `import draw` also makes tinytrm importable

GREY, BLUE, RED, ORANGE, INK = "#e4e4e0", "#1f5fa8", "#c0271c", "#f28e1c", "#222222"
ARC_COLOURS = [  # as on the ARC website
    "#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00",
    "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25",
]  # fmt: skip

plt.rcParams.update({
    "figure.dpi": 80, "savefig.dpi": 80, "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True,
})  # fmt: skip


def _square(ax, side: int, title: str) -> None:
    ax.set(xlim=(-0.06, side + 0.06), ylim=(side + 0.06, -0.06), aspect="equal")
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
    _square(ax, side, title)
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
            ax.text(
                x + 0.5, y + 0.54, token - 1, ha="center", va="center", fontsize=60 / side,
                color=INK if given else RED if wrong else BLUE, weight="bold" if given else None,
            )  # fmt: skip
        if wrong:  # also a clue, if the answer has another digit in its place
            ax.plot([x + 0.2, x + 0.8], [y + 0.8, y + 0.2], color=RED, lw=1.3)
        if previous is not None and previous[i] != token and not given:
            frame = Rectangle((x + 0.07, y + 0.07), 0.86, 0.86, fill=False, ec=ORANGE, lw=1.8)
            ax.add_patch(frame)
    for k in range(side + 1):
        ax.plot([0, side], [k, k], color=INK, lw=1.6 if k % rows == 0 else 0.4)
        ax.plot([k, k], [0, side], color=INK, lw=1.6 if k % columns == 0 else 0.4)


def maze(ax, inputs, answer=None, labels=None, title="", **_):
    """Draw one maze: walls dark, S and G, the path as dots; wrong dots are struck through.

    Tokens: 1 wall, 2 free, 3 start, 4 goal, 5 path. With labels, labelled path cells that the
    answer misses are small rings.
    """
    inputs = np.asarray(inputs)
    side = int(np.sqrt(len(inputs)))
    _square(ax, side, title)
    for i, x, y in _cells(side):
        if inputs[i] == 1:
            ax.add_patch(Rectangle((x, y), 1, 1, color="#55554f", lw=0))
        if inputs[i] in (3, 4):
            ax.add_patch(Rectangle((x, y), 1, 1, color=GREY, lw=0))
            ax.text(x + 0.5, y + 0.54, "SG"[inputs[i] - 3], ha="center", va="center",
                    weight="bold", fontsize=60 / side)  # fmt: skip
        elif answer is not None and answer[i] == 5:
            wrong = labels is not None and labels[i] != 5
            ax.plot(x + 0.5, y + 0.5, "o", ms=24 / side, color=RED if wrong else BLUE)
            if wrong:
                ax.plot([x + 0.2, x + 0.8], [y + 0.8, y + 0.2], color=RED, lw=1.3)
        elif answer is not None and labels is not None and labels[i] == 5:
            ax.plot(x + 0.5, y + 0.5, "o", ms=24 / side, mfc="none", mec=INK, mew=0.8)
    ax.add_patch(Rectangle((0, 0), side, side, fill=False, ec=INK, lw=1.2))


def arc(ax, grid, title="", digits=True):
    """Draw one ARC grid (rows, columns) of colours 0..9, each with its digit."""
    grid = np.asarray(grid)
    height, width = grid.shape
    ax.set(xlim=(-0.06, width + 0.06), ylim=(height + 0.06, -0.06), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=10)
    for (y, x), colour in np.ndenumerate(grid):
        cell = Rectangle((x, y), 1, 1, fc=ARC_COLOURS[colour], ec="#888888", lw=0.5)
        ax.add_patch(cell)
        if digits and colour:
            ink = "black" if colour in (3, 4, 5, 7, 8) else "white"
            ax.text(x + 0.5, y + 0.54, colour, ha="center", va="center", color=ink,
                    fontsize=min(9, 50 / max(height, width)))  # fmt: skip


def tokens(ax, grid, title=""):
    """Draw a grid (rows, columns) of tokens as plain numbers; padding (0) is pale, 1 is hatched."""
    grid = np.asarray(grid)
    height, width = grid.shape
    ax.set(xlim=(-0.06, width + 0.06), ylim=(height + 0.06, -0.06), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=10)
    for (y, x), token in np.ndenumerate(grid):
        fill = dict(fc=GREY if token > 1 else "white", hatch="////" if token == 1 else None)
        ax.add_patch(Rectangle((x, y), 1, 1, ec="#bbbbbb", lw=0.5, **fill))
        ax.text(x + 0.5, y + 0.54, token, ha="center", va="center", fontsize=54 / max(height, width),
                color=INK if token else "#bbbbbb", weight="bold" if token else None)  # fmt: skip


def strip(draw, inputs, answers, labels=None, titles=None, columns=6, size=1.9):
    """A row of pictures, one for each answer (steps, cells), changed cells framed. `draw` is
    `sudoku` or `maze`. Returns the figure."""
    count = len(answers)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, min(columns, count), figsize=(size * min(columns, count), (size + 0.25) * rows),
        squeeze=False,
    )  # fmt: skip
    for ax in axes.flat:
        ax.axis("off")
    for k, (ax, answer) in enumerate(zip(axes.flat, answers)):
        previous = answers[k - 1] if k else None
        title = titles[k] if titles else f"step {k + 1}"
        draw(ax, inputs, answer, labels, previous=previous, title=title)
    return figure


def animate(path, draw, inputs, answers, labels=None, titles=None, size=3.2, seconds=0.9):
    """Write the same pictures as an animated GIF; the question comes first, the last stays."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure, ax = plt.subplots(figsize=(size, size + 0.3))
    last = len(answers)

    def frame(k):
        ax.clear()
        if k == 0:
            draw(ax, inputs, title="the question")
            return
        k = min(k, last) - 1
        draw(ax, inputs, answers[k], labels, previous=answers[k - 1] if k else None,
             title=titles[k] if titles else f"step {k + 1}")  # fmt: skip

    film = FuncAnimation(figure, frame, frames=last + 3)
    film.save(path, writer=PillowWriter(fps=1 / seconds), dpi=80)
    plt.close(figure)


def answers_by_cycle(model, inputs, steps):
    """Decode y after every cycle, T times per supervision step: inputs (B, cells) tokens ->
    answers (steps * T, B, cells)."""
    import torch

    x = model.embed(inputs, model.puzzle_rows(inputs[:, 0] * 0))
    y, z = model.start(len(inputs))
    weights = [[w.to(y.dtype) for w in layer.values()] for layer in model.layers]
    answers = []
    with torch.no_grad():
        for _ in range(steps * model.config.T):
            y, z = model.latent_recursion(x.to(y.dtype), y, z, weights)
            cells = y[model.config.puzzle_tokens :]
            logits = torch.nn.functional.linear(cells.float(), model.output_head)
            answers.append(logits.argmax(-1).T.numpy())
    return np.stack(answers)


def main() -> None:
    """The README's animation: among 500 fresh puzzles one that takes about eight cycles."""
    import torch

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
              f"cycle {k + 1}: solved" for k, a in enumerate(frames)]  # fmt: skip
    path = ROOT / "assets/thinking.gif"
    path.parent.mkdir(exist_ok=True)
    animate(path, sudoku, inputs[i], frames, labels[i], titles)
    print(f"{path}: {len(frames)} cycles, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
