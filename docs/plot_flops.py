"""Draw accuracy on held-out Sudoku-Extreme against the FLOPs of training, on a logarithmic axis.

    python docs/plot_flops.py docs/flops.png docs/curves/flops.csv

A row of the file is a run: recipe, the 10^15 FLOPs of its matrix products (forward, and twice that
for calls with gradient, as `train.py --dry-run` counts them), exact accuracy in % after 16 steps,
and where it is from. Runs of a recipe are joined, but not if its name begins with "published" or
"predicted"; the latter's marks are hollow.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from matplotlib.figure import Figure


def read(path: Path) -> dict[str, list[tuple[float, float]]]:
    """{recipe: [(10^15 FLOPs, exact accuracy in %)]}, cheapest first."""
    runs: dict[str, list[tuple[float, float]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            point = float(row["pflop"]), float(row["exact"])
            runs.setdefault(row["recipe"], []).append(point)
    return {recipe: sorted(points) for recipe, points in runs.items()}


def main(words: list[str]) -> int:
    if len(words) != 2:
        print(f"error: {__doc__.splitlines()[2].strip()}", file=sys.stderr)
        return 2
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    ax = figure.subplots()
    for k, (recipe, points) in enumerate(read(Path(words[1])).items()):
        line = "none" if recipe.startswith(("published", "predicted")) else "-"
        fill = "none" if recipe.startswith("predicted") else "full"
        ax.plot(*zip(*points), linestyle=line, marker="os^d*Pv"[k % 7], ms=6, color=f"C{k}",
                fillstyle=fill, label=recipe)
    ax.set_xscale("log")
    ax.set(xlabel="$10^{15}$ FLOPs of training", ylim=(-3, 100),
           ylabel="exact, % of held-out puzzles")
    ax.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(words[0], dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
