"""Where the settings of a run start from: the authors', which are the defaults of Config, and
laptop-sized ones.

For mazes and ARC the paper says n = 6. We take n = 4, the L_cycles of the authors' README.
"""
from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from tinytrm import Config
from tinytrm_beyond import BeyondConfig


class Preset(NamedTuple):
    """Where the settings of a run start from."""

    kind: str  # of puzzle: "sudoku", "maze" or "arc"
    config: Config
    corpus: str = ""  # ARC: "arc1", "arc2" or "mini"
    copies: int = 1000  # ARC: augmented copies of each task; of tasks of your own always 1000


# ------------------------------------------------------------------------------------------------
# The paper's

sudoku = Config()
maze = Config(mixer="attention", seq_len=900, vocab_size=6, n=4)
arc = Config(mixer="attention", seq_len=900, vocab_size=12, n=4, weight_decay=0.1, puzzle_lr=1e-2,
             puzzle_weight_decay=0.1)
# The data decides num_puzzle_ids; these are the numbers of the public corpora.
arc1 = replace(arc, num_puzzle_ids=876_401, steps=518_000)
arc2 = replace(arc, num_puzzle_ids=1_191_722, steps=723_000)

# ------------------------------------------------------------------------------------------------
# Sudoku on a laptop: narrow, with a high learning rate that falls, and two steps per puzzle

laptop = Config(puzzle_tokens=1, width_multiple=32, N_sup=2, halt_weight=0.1, warmup=50,
                cosine=True, weight_decay=0.1)
sudoku4 = replace(laptop, seq_len=16, vocab_size=6, dim=32, n=2, T=2, batch_size=64, steps=300,
                  lr=5e-3, ema=0.98)
sudoku6 = replace(laptop, seq_len=36, vocab_size=8, dim=64, n=2, T=1, batch_size=48, steps=1200,
                  lr=6e-3, ema=0.99, loss="softmax")
# Meant for ten minutes of one GPU, and not run yet. What it is scaled up from, and what it should
# reach: docs/experiments.md.
sudoku_fast = replace(laptop, dim=256, n=4, T=1, batch_size=256, steps=60_000, lr=2e-3, warmup=1000,
                      ema=0.999, loss="softmax")

# ------------------------------------------------------------------------------------------------
# With what the paper does not have

# Every digit has its own features, and all share the weights. Two steps a puzzle teach most at
# first; without late ones after that it gets worse again, the longer it is trained. If --steps is
# given, train.py keeps the share that two_step_phase has of it.
sudoku9 = BeyondConfig(puzzle_tokens=1, width_multiple=32, halt_weight=0.1, cosine=True,
                       weight_decay=0.1, symbols=9, dim=32, expansion=2.0, n=3, T=1,
                       batch_size=32, steps=24_500, two_step_phase=8000, halting="chance",
                       lr=4e-3, warmup=200, ema=0.999, loss="softmax")
maze_mini = BeyondConfig(puzzle_tokens=1, width_multiple=32, halt_weight=0.1, cosine=True,
                         weight_decay=0.1, seq_len=36, vocab_size=6, dim=64, n=3, T=1,
                         batch_size=96, steps=1600, halting="chance", keep="surest",
                         lr=4e-3, warmup=50, ema=0.99)
# What `for_data` says of grids, and why: docs/your_data.md.
small_arc = BeyondConfig(mixer="attention", puzzle_tokens=1, width_multiple=32, n=1, T=1,
                         vocab_size=12, dim=64, heads=2, halting="chance", keep="surest",
                         halt_weight=0.1, loss="softmax", lr=2e-3, cosine=True, weight_decay=0.1,
                         puzzle_lr=3e-2, puzzle_weight_decay=0.1)
arc_mini = replace(small_arc, seq_len=16, columns=4, num_puzzle_ids=200, batch_size=64, steps=8000,
                   warmup=500, ema=0.99)
# ARC-1's tasks whose grids are 10x10 at most: 77 that are asked, 217 others. These settings fill 90
# minutes of two slow cores, which teach it next to nothing: docs/experiments.md.
arc10 = replace(small_arc, seq_len=100, columns=10, num_puzzle_ids=85_677, batch_size=32,
                steps=41_200, warmup=1000, ema=0.999)

PRESETS = {
    "sudoku6": Preset("sudoku", sudoku6),
    "sudoku4": Preset("sudoku", sudoku4),
    "sudoku9": Preset("sudoku", sudoku9),
    "maze-mini": Preset("maze", maze_mini),
    "arc-mini": Preset("arc", arc_mini, "mini", 15),
    "arc10": Preset("arc", arc10, "arc1", 300),
    "sudoku-fast": Preset("sudoku", sudoku_fast),
    "sudoku": Preset("sudoku", sudoku),
    "sudoku-att": Preset("sudoku", replace(sudoku, mixer="attention")),
    "maze": Preset("maze", maze),
    "arc1": Preset("arc", arc1, "arc1"),
    "arc2": Preset("arc", arc2, "arc2"),
}
