"""Settings for puzzles of your own. Why these, and what to change when: docs/your_data.md."""
import math

import numpy as np

from tinytrm_beyond.config import BeyondConfig


def for_data(puzzles, **fields):
    """A `BeyondConfig` for these `tinytrm.Puzzles`: a small network and a training of a few minutes
    on two CPU cores. `fields` override. Raises ValueError where 0 seems to be a value."""
    both = np.concatenate([puzzles.inputs, puzzles.labels])
    if "vocab_size" not in fields and has_zeros_inside(both):
        raise ValueError("0 is padding but between tokens: add 1 to all, or give vocab_size")
    cells = both.shape[1]
    side = math.isqrt(cells)
    several_rules = puzzles.ids.any()
    chosen = dict(
        # sizes, from the data
        vocab_size=int(both.max()) + 1,
        num_puzzle_ids=int(puzzles.ids.max()) + 1,
        seq_len=cells,
        columns=side if side * side == cells else 0,  # a square number of cells is a grid
        batch_size=max(32, min(64, 2048 // cells)),
        # a small network, each of whose calls carries gradient; depth comes from the many steps
        puzzle_tokens=1, mixer="attention", heads=2, dim=64, width_multiple=32, n=1, T=1,
        # late steps are trained too, so thinking longer than in training does no harm
        halting="chance", keep="surest", halt_weight=0.1,
        # a short training at a high rate
        steps=6500 if several_rules else 4000,
        warmup=min(1000, fields.get("steps", 4000) // 4),
        lr=2e-3, cosine=True, weight_decay=0.1, ema=0.99, loss="softmax",
        puzzle_lr=0.03, puzzle_weight_decay=0.1)
    return BeyondConfig(**chosen | fields)


def has_zeros_inside(tokens):
    """Is there a 0 between other tokens of a row (N, cells)?"""
    there = tokens != 0
    before = np.maximum.accumulate(there, axis=1)
    after = np.maximum.accumulate(there[:, ::-1], axis=1)[:, ::-1]
    return bool((~there & before & after).any())
