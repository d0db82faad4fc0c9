"""The authors' settings, which are the defaults of Config, and laptop-sized ones.

For mazes and ARC the paper says n = 6; n = 4 is the L_cycles of the authors' README.
"""
from __future__ import annotations

from typing import Any, NamedTuple

from tinytrm import Config


class Preset(NamedTuple):
    """Where the settings of a run start from."""

    kind: str  # of puzzle: "sudoku", "maze" or "arc"
    config: Config
    corpus: str = ""  # ARC: "arc1", "arc2" or "mini"
    copies: int = 1000  # ARC: augmented ones of each task; of one's own always 1000


_arc: dict[str, Any] = dict(seq_len=900, vocab_size=12, mixer="attention", n=4, weight_decay=0.1,
                            puzzle_lr=1e-2, puzzle_weight_decay=0.1)
_laptop: dict[str, Any] = dict(puzzle_tokens=1, width_multiple=32, T=2, N_sup=2, halt_weight=0.1,
                               warmup=50, cosine=True, weight_decay=0.1, ema=0.98)
# What Config.for_data says of grids, and why: docs/your_data.md.
_grids: dict[str, Any] = dict(mixer="attention", puzzle_tokens=1, width_multiple=32, n=1, T=1,
                              halting="chance", keep="surest", halt_weight=0.1, loss="softmax",
                              cosine=True, weight_decay=0.1, puzzle_weight_decay=0.1)

PRESETS = {
    "sudoku": Preset("sudoku", Config()),
    # Meant for ten minutes of one GPU, and not run yet. What it is scaled up from, and what it
    # should reach: docs/experiments.md.
    "sudoku-fast": Preset("sudoku", Config(**{**_laptop, "T": 1, "ema": 0.999, "warmup": 1000},
                                           dim=256, n=4, batch_size=256, steps=60_000, lr=2e-3,
                                           loss="softmax")),
    "sudoku-att": Preset("sudoku", Config(mixer="attention")),
    "maze": Preset("maze", Config(seq_len=900, vocab_size=6, mixer="attention", n=4)),
    # The data decides num_puzzles.
    "arc1": Preset("arc", Config(**_arc, num_puzzles=876_401, steps=518_000), "arc1"),
    "arc2": Preset("arc", Config(**_arc, num_puzzles=1_191_722, steps=723_000), "arc2"),
    "sudoku4": Preset("sudoku", Config(**_laptop, seq_len=16, vocab_size=6, dim=32, n=2,
                                       batch_size=64, steps=300, lr=5e-3)),
    "sudoku6": Preset("sudoku", Config(**{**_laptop, "T": 1, "ema": 0.99}, seq_len=36, vocab_size=8,
                                       dim=64, n=2, batch_size=48, steps=1200, lr=6e-3,
                                       loss="softmax")),
    # Every digit has its own features, and all share the weights. Two steps a puzzle teach most at
    # first; without late ones after that it gets worse again, the longer it is trained. train.py
    # keeps the share that `brief` has of `steps`, where another number of steps is given.
    "sudoku9": Preset("sudoku", Config(**{**_laptop, "T": 1, "N_sup": 16, "ema": 0.999,
                                          "warmup": 200}, halting="chance", brief=8000, symbols=9,
                                       dim=32, expansion=2.0, n=3, batch_size=32, steps=24_500,
                                       lr=4e-3, loss="softmax")),
    "maze-mini": Preset("maze", Config(**{**_laptop, "T": 1, "N_sup": 16, "ema": 0.99}, seq_len=36,
                                       vocab_size=6, dim=64, n=3, halting="chance", keep="surest",
                                       batch_size=96, steps=1600, lr=4e-3)),
    "arc-mini": Preset("arc", Config(**_grids, seq_len=16, columns=4, vocab_size=12, dim=64,
                                     heads=2, num_puzzles=200, puzzle_lr=3e-2, batch_size=64,
                                     steps=8000, lr=2e-3, warmup=500, ema=0.99), "mini", 15),
    # ARC-1's tasks whose grids are 10x10 at most: 77 that are asked, 217 others. These settings
    # fill 90 minutes of two slow cores, which teach it next to nothing: docs/experiments.md.
    "arc10": Preset("arc", Config(**_grids, seq_len=100, columns=10, vocab_size=12, dim=64,
                                  heads=2, num_puzzles=85_677, puzzle_lr=3e-2, batch_size=32,
                                  steps=41_200, lr=2e-3, warmup=1000, ema=0.999), "arc1", 300),
}
