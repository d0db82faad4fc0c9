"""Pictures of puzzles being thought about, in one visual language for programs and notebooks.

    given cell            bold, on grey
    right answer          blue, on white
    wrong answer          red, struck through
    cell that has changed framed in orange

No state is told by colour alone. Needs matplotlib. Each of PAINTERS draws one grid on an axis and
takes (ax, inputs, answer, labels, previous, title): tokens (cells,), answer None for the question
alone. With labels, what is wrong is struck through, but for label 0, "not labelled"; with previous,
an earlier answer, what has changed is framed.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from data.files import replacing
from data.grid import columns_of
from data.sudoku_rules import DIGITS, default_box

GREY, BLUE, RED, ORANGE, INK = "#e4e4e0", "#1f5fa8", "#c0271c", "#f28e1c", "#222222"
ARC_COLOURS = ["#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00",  # as on the ARC website
               "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25"]
STYLE: Any = {
    "figure.dpi": 80, "savefig.dpi": 80, "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True,
}
KEY = "framed: changed since the picture before", "struck through: wrong", "ring: missed"


# ------------------------------------------------------------------------------------------------
# One grid on one matplotlib axis


def _board(ax: Axes, height: int, width: int, title: str) -> None:
    """An axis without scales for a grid of cells of size 1, row 0 on top."""
    ax.set(xlim=(-0.06, width + 0.06), ylim=(height + 0.06, -0.06), aspect="equal")
    ax.axis("off")
    ax.set_title(title, fontsize=10)


def _cells(side: int) -> Iterator[tuple[int, int, int]]:
    """index, column, row of every cell."""
    return ((i, i % side, i // side) for i in range(side * side))


def _numbers(*tokens: ArrayLike | None) -> list:
    """Arrays of int, which do not wrap around as uint8 does; None stays None."""
    return [None if t is None else np.asarray(t).astype(int) for t in tokens]


def _marks(ax: Axes, x: int, y: int, side: int, wrong: bool, changed: bool, halo: bool = False
           ) -> None:
    """A stroke through a wrong cell and a frame in a changed one; with a halo, on any colour."""
    thin, thick = min(1.1, 10 / side), min(1.8, 16 / side)
    around: Any = lambda lw: dict(path_effects=[withStroke(linewidth=2 * lw, foreground="white")]
                                  * halo)
    if wrong:
        ax.plot([x + 0.2, x + 0.8], [y + 0.8, y + 0.2], color=RED, lw=thin, **around(thin))
    if changed:
        ax.add_patch(Rectangle((x + 0.07, y + 0.07), 0.86, 0.86, fill=False, ec=ORANGE, lw=thick,
                               **around(thick)))


def _write(ax: Axes, x: int, y: int, text: str | int, size: float, colour: str, bold: bool) -> None:
    ax.text(x + 0.5, y + 0.54, str(text), ha="center", va="center", fontsize=size, color=colour,
            weight="bold" if bold else None)


def sudoku(ax: Axes, inputs: ArrayLike, answer: ArrayLike | None = None,
           labels: ArrayLike | None = None, previous: ArrayLike | None = None, title: str = "",
           shade: ArrayLike | None = None, box: tuple[int, int] | None = None) -> None:
    """Draw one Sudoku. shade (cells,), 0..1, darkens the open cells, whatever it means; box: the
    most square one unless given."""
    asked, now, right, before = _numbers(inputs, answer, labels, previous)
    side = math.isqrt(len(asked))
    rows, columns = box or default_box(side)
    _board(ax, side, side, title)
    for i, x, y in _cells(side):
        given = asked[i] > 1
        if given:
            ax.add_patch(Rectangle((x, y), 1, 1, color=GREY, lw=0))
        elif shade is not None:
            strength = 0.7 * float(np.clip(np.asarray(shade)[i], 0, 1))
            ax.add_patch(Rectangle((x, y), 1, 1, color=ORANGE, alpha=strength, lw=0))
        token = asked[i] if given or now is None else now[i]
        # also a clue, if the answer has another digit in its place
        wrong = right is not None and now is not None and now[i] != right[i] > 0
        if token > 1:
            colour = INK if given else RED if wrong else BLUE
            _write(ax, x, y, DIGITS[token - 2], 66 / side, colour, given)
        changed = before is not None and before[i] != token and not given
        _marks(ax, x, y, side, wrong, changed)
    for k in range(side + 1):
        ax.plot([0, side], [k, k], color=INK, lw=1.6 if k % rows == 0 else 0.4)
        ax.plot([k, k], [0, side], color=INK, lw=1.6 if k % columns == 0 else 0.4)


def maze(ax: Axes, inputs: ArrayLike, answer: ArrayLike | None = None,
         labels: ArrayLike | None = None, previous: ArrayLike | None = None,
         title: str = "") -> None:
    """Draw one maze: walls dark, S and G, the path as dots. With labels, labelled path cells that
    the answer misses are small rings. Tokens: 1 wall, 2 free, 3 start, 4 goal, 5 path."""
    asked, now, right, before = _numbers(inputs, answer, labels, previous)
    side = math.isqrt(len(asked))
    _board(ax, side, side, title)
    for i, x, y in _cells(side):
        if asked[i] == 1:
            ax.add_patch(Rectangle((x, y), 1, 1, color="#55554f", lw=0))
        if asked[i] in (3, 4):
            ax.add_patch(Rectangle((x, y), 1, 1, color=GREY, lw=0))
            _write(ax, x, y, "SG"[asked[i] - 3], 84 / side, INK, True)
        path = now is not None and now[i] == 5
        missed = now is not None and not path and right is not None and right[i] == 5
        wrong = right is not None and now is not None and now[i] != right[i] > 0 and not missed
        if path:
            ax.plot(x + 0.5, y + 0.5, "o", ms=40 / side, color=RED if wrong else BLUE)
        elif missed:
            ax.plot(x + 0.5, y + 0.5, "o", ms=38 / side, mfc="none", mec=INK,
                    mew=min(0.8, 8 / side))
        changed = before is not None and before[i] != now[i]
        _marks(ax, x, y, side, wrong, changed, halo=True)
    ax.add_patch(Rectangle((0, 0), side, side, fill=False, ec=INK, lw=1.2))


def _arc_cell(ax: Axes, x: int, y: int, colour: int, size: float) -> None:
    """A cell of ARC; size 0: without its digit."""
    ax.add_patch(Rectangle((x, y), 1, 1, fc=ARC_COLOURS[colour], ec="#888888", lw=0.5))
    if size and colour:
        _write(ax, x, y, colour, size, "black" if colour in (3, 4, 5, 7, 8) else "white", False)


def arc(ax: Axes, grid: ArrayLike, title: str = "", digits: bool = True) -> None:
    """Draw one ARC grid (rows, columns) of colours 0..9, each with its digit. A grid without cells
    leaves the place empty."""
    grid = np.asarray(grid)
    _board(ax, grid.shape[0], grid.shape[1], title)
    for (y, x), colour in np.ndenumerate(grid):
        _arc_cell(ax, x, y, colour, digits * min(9, 50 / max(grid.shape)))


def extent(*tokens: np.ndarray) -> tuple[int, int]:
    """Rows and columns that hold every coloured cell of these ARC tokens (..., cells), (1, 1) at
    least."""
    side = math.isqrt(tokens[0].shape[-1])
    cells = np.concatenate([np.asarray(t).reshape(-1, side * side) for t in tokens]) > 1
    y, x = np.divmod(np.flatnonzero(cells.any(0)), side)
    return int(y.max(initial=0)) + 1, int(x.max(initial=0)) + 1


def arc_answer(ax: Axes, inputs: ArrayLike, answer: ArrayLike | None = None,
               labels: ArrayLike | None = None, previous: ArrayLike | None = None,
               title: str = "", shape: tuple[int, int] | None = None) -> None:
    """Draw an ARC question, or an answer with nothing beyond its edges, as tokens. shape: rows and
    columns to leave room for. Cells that the answer lacks, or has too many, are wrong."""
    asked, now, right, before = _numbers(inputs, answer, labels, previous)
    seen, side = asked if now is None else now, math.isqrt(len(asked))
    rows, columns = shape or extent(*(t for t in (seen, right, before) if t is not None))
    _board(ax, rows, columns, title)
    differs = lambda other, i: other is not None and (
        other[i] != seen[i] and max(other[i], seen[i]) > 1)
    for y, x in np.ndindex(rows, columns):
        i = y * side + x
        wrong = now is not None and differs(right, i)
        if seen[i] > 1:
            _arc_cell(ax, x, y, seen[i] - 2, min(9, 50 / max(rows, columns)))
        elif wrong:
            ax.add_patch(Rectangle((x, y), 1, 1, fill=False, ec="#888888", lw=0.5, ls=":"))
        _marks(ax, x, y, max(rows, columns, 9), wrong, differs(before, i), halo=True)


def tokens(ax: Axes, grid: ArrayLike, title: str = "") -> None:
    """Draw a grid (rows, columns) of tokens as plain numbers; padding (0) is pale, 1 is hatched."""
    grid = np.asarray(grid)
    _board(ax, grid.shape[0], grid.shape[1], title)
    for (y, x), token in np.ndenumerate(grid):
        ax.add_patch(Rectangle((x, y), 1, 1, ec="#bbbbbb", lw=0.5,
                               hatch="////" if token == 1 else None,
                               fc=GREY if token > 1 else "white"))
        _write(ax, x, y, token, 54 / max(grid.shape), INK if token else "#bbbbbb", bool(token))


def token_answer(ax: Axes, inputs: ArrayLike, answer: ArrayLike | None = None,
                 labels: ArrayLike | None = None, previous: ArrayLike | None = None,
                 title: str = "", columns: int = 0) -> None:
    """Draw a puzzle of one's own as numbers; what is not labelled is pale. columns: cells in a row
    (0: of a square if there is one, else all)."""
    asked, now, right, before = _numbers(inputs, answer, labels, previous)
    columns = columns or columns_of(len(asked))
    rows = -(-len(asked) // columns)
    longest = len(str(max(t.max() for t in (asked, now, right, before) if t is not None)))
    size = 54 / max(rows, columns, 4) * min(1, 2.4 / longest)
    _board(ax, rows, columns, title)
    for i, token in enumerate(asked if now is None else now):
        x, y, bare = i % columns, i // columns, now is None
        idle = token == 0 if bare or right is None else right[i] == 0
        wrong = not bare and right is not None and token != right[i] and not idle
        ax.add_patch(Rectangle((x, y), 1, 1, fc=GREY if bare else "white", ec="#bbbbbb", lw=0.5))
        colour = "#999999" if idle else INK if bare else RED if wrong else BLUE
        _write(ax, x, y, token, size, colour, bare and not idle)
        changed = before is not None and before[i] != token and not idle
        _marks(ax, x, y, max(rows, columns, 9), wrong, changed)


PAINTERS: dict[str, Callable[..., None]] = dict(sudoku=sudoku, maze=maze, arc=arc_answer,
                                                tokens=token_answer)


# ------------------------------------------------------------------------------------------------
# Several grids


def story(inputs: ArrayLike, answers: Sequence, labels: ArrayLike | None, titles: Sequence[str]
          ) -> list[tuple]:
    """What a painter gets of each of the answers (steps, cells), the one before among it, behind
    its title."""
    return [(title, inputs, answer, labels, before)
            for title, answer, before in zip(titles, answers, [None, *answers[:-1]])]


def save_strip(path: Path, draw: Callable, inputs: np.ndarray, answers: Sequence,
               labels: ArrayLike | None, titles: Sequence[str], shape: tuple[int, int]) -> None:
    """The question, then each of the answers, as a picture file of the kind that its name says.

    shape: rows and columns of a grid. The file appears whole or not at all. Raises OSError.
    """
    pictures = [("the question\n", inputs), *story(inputs, answers, labels, titles)]
    side, tall, above, below = max(shape), 1.8 * shape[0] / max(shape), 0.5, 0.25  # inches
    columns = min(len(pictures), 6 if side <= 9 else 4 if side <= 20 else 3)
    rows = -(-len(pictures) // columns)
    width, height = max(1.9 * columns, 4.6), rows * (above + tall) + below
    with rc_context({**STYLE, "figure.constrained_layout.use": False}), replacing(path) as file:
        figure = Figure((width, height), dpi=160 if side <= 9 else 300)
        for k, (title, *what) in enumerate(pictures):
            left, top = 0.05 + 1.9 * (k % columns), height - (k // columns + 1) * (above + tall)
            ax = figure.add_axes((left / width, top / height, 1.8 / width, tall / height))
            draw(ax, *what, title=title)
        known = 1 if labels is None else 3 if draw is maze else 2
        figure.text(0.05 / width, 0.1 / height, "; ".join(KEY[:known]), fontsize=8, color=INK)
        figure.savefig(file, format=path.suffix.removeprefix(".").lower(), dpi="figure")


def save_gif(path: Path, draw: Callable, inputs: np.ndarray, answers: Sequence,
             labels: ArrayLike | None, titles: Sequence[str], shape: tuple[int, int],
             seconds: float = 0.8) -> None:
    """The same as an animated GIF, 450 pixels wide for a 9x9 grid, with a longer pause on the
    question and at the end. shape: rows and columns of a grid. Raises OSError."""
    from PIL import Image  # matplotlib needs it, too

    side = max(shape)
    with rc_context({**STYLE, "figure.constrained_layout.use": False}):
        frames = list(_frames(draw, [("the question", inputs),
                                     *story(inputs, answers, labels, titles)], shape,
                              225 if side <= 9 else 320 if side <= 20 else 450))
    palette, pixels = _indexed(frames)
    images = [Image.fromarray(pixel) for pixel in pixels]
    for image in images:
        image.putpalette(palette.tobytes())
    pauses = [2.4 * seconds, *[seconds] * (len(images) - 2), 4 * seconds]
    with replacing(path) as file:
        images[0].save(file, format="GIF", save_all=True, append_images=images[1:], loop=0,
                       duration=[round(1000 * pause) for pause in pauses], optimize=True)


def _indexed(frames: Sequence[np.ndarray], most: int = 128) -> tuple[np.ndarray, list[np.ndarray]]:
    """A palette (colours, 3) of the most frequent colours of all frames (height, width, 3), one so
    that nothing flickers; and the frames as indices (height, width). What is not in it, shades on
    edges, becomes the nearest that is. (Pillow's own ways change the white of the ground.)"""
    shades = lambda codes: np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1)
    found = [np.unique(frame.astype(np.int32) @ [65536, 256, 1], return_inverse=True,
                       return_counts=True) for frame in frames]
    every, place = np.unique(np.concatenate([codes for codes, *_ in found]), return_inverse=True)
    times = np.bincount(place, np.concatenate([counts for *_, counts in found]))
    palette = shades(every[np.argsort(-times, kind="stable")[:most]])
    nearest = [((shade - palette) ** 2).sum(1).argmin() for shade in shades(every)]
    chosen = dict(zip(every.tolist(), nearest))
    pixels = [np.array([chosen[code] for code in codes.tolist()], np.uint8)[inverse]
              for codes, inverse, _ in found]
    return palette.astype(np.uint8), [p.reshape(f.shape[:2]) for p, f in zip(pixels, frames)]


def _frames(draw: Callable, pictures: Sequence[tuple], shape: tuple[int, int], dpi: int
            ) -> Iterator[np.ndarray]:
    """Each picture as pixels (height, width, 3), all boards in the same place."""
    width, margin, caption = 2.0, 0.04, 0.21  # inches
    board = (width - 2 * margin) * shape[0] / max(shape)
    height = math.ceil((board + 2 * margin + caption) * dpi) / dpi
    figure = Figure((width, height), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_axes((margin / width, margin / height, 1 - 2 * margin / width, board / height))
    text = figure.text(0.5, 1 - (margin + caption / 2) / height, "", fontsize=7, color=INK,
                       ha="center", va="center")
    for title, *arguments in pictures:
        ax.clear()
        draw(ax, *arguments, title="")
        text.set_text(title)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()
