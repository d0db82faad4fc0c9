"""Draw accuracy on held-out puzzles against training time, from the metrics.csv of several runs.

    python docs/plot_curves.py docs/curves.png plain='runs/plain-*' fast='runs/fast-*'
    python docs/plot_curves.py docs/curves.png plain='runs/plain-*':0.18 fast='runs/fast-*':0.12

Each name is a recipe and a pattern of run folders, one per seed, made with `--eval_every`. A number
behind a colon is seconds per step: time is then steps times that, for runs that were not timed on
an idle machine. Prints the mean accuracy of the seeds, and when it first reached 95 and 99.5 %.
"""

from __future__ import annotations

import csv
import sys
from glob import glob
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def read_run(folder: Path, per_step: float | None) -> np.ndarray:
    """(points, 2): seconds, exact accuracy in %."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["held_out_exact"]]
    return np.array([
        (int(r["step"]) * per_step if per_step else float(r["seconds"]),
         100 * float(r["held_out_exact"]))
        for r in rows
    ])  # fmt: skip


def reached(curve: np.ndarray, level: float) -> str:
    """When a curve first reached this level, between its points."""
    above = np.flatnonzero(curve[:, 1] >= level)
    if not len(above):
        return "never"
    i = above[0]
    if i == 0:
        return f"{curve[0, 0]:.0f} s"
    (t0, a0), (t1, a1) = curve[i - 1 : i + 1]
    return f"{t0 + (t1 - t0) * (level - a0) / (a1 - a0):.0f} s"


def main(words: list[str]) -> int:
    if len(words) < 2 or not all("=" in w for w in words[1:]):
        print(f"error: {__doc__.splitlines()[2].strip()}", file=sys.stderr)
        return 2
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    for k, word in enumerate(words[1:]):
        name, _, pattern = word.partition("=")
        pattern, _, per_step = pattern.partition(":")
        folders = sorted(glob(pattern))
        if not folders:
            print(f"error: no run folders match {pattern}", file=sys.stderr)
            return 2
        runs = [read_run(Path(f), float(per_step) if per_step else None) for f in folders]
        grid = np.unique(np.concatenate([r[:, 0] for r in runs]))  # runs may differ in eval_every
        grid = grid[grid <= min(r[-1, 0] for r in runs)]
        mean = np.stack([grid, np.mean([np.interp(grid, *r.T) for r in runs], 0)], 1)
        for run in runs:
            ax.plot(*run.T, color=f"C{k}", alpha=0.3, lw=1)
        label = f"{name} ({len(runs)} seed{'s' * (len(runs) > 1)})"
        ax.plot(*mean.T, color=f"C{k}", lw=2, marker="os^d"[k % 4], ms=4, label=label)
        print(f"{label}: 95 % after {reached(mean, 95)}, 99.5 % after {reached(mean, 99.5)}, "
              f"at last {mean[-1, 1]:.2f} % after {mean[-1, 0]:.0f} s")  # fmt: skip
    ax.axhline(95, color="grey", lw=0.8, ls=":")
    ax.set(xlabel="seconds of training", ylabel="exact, % of held-out puzzles", ylim=(0, 101))
    ax.legend(frameon=False, loc="lower right")
    figure.savefig(words[0], dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
