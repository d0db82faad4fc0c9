"""What a plain transformer makes of the same rows, with as many parameters and as many seconds.

A pre-norm encoder with learned positions; the row's id is one more token in front; cross-entropy on
the labelled cells; AdamW with warm-up and cosine, which follow the clock, so that the schedule ends
when the time is up.

One setting for all tasks, as for the TRM, chosen on rows of seed 100, which no table has: exact
accuracy in % on held-out rows after 20 s, one thread, one run each.

    layers, lr, batch     sort   add    rules
    2, 1e-3, 128          99.4   36.5   12.6
    2, 2e-3, 128          99.5   95.6   13.1
    2, 4e-3, 128          99.8   96.8   30.1
    2, 8e-3, 128          99.6   99.0   59.3
    2, 4e-3, 64           99.9   98.5   72.4
    2, 4e-3, 32           99.9   99.0   61.6

In 50 s, 2e-3, 128: sort 99.7 with 2 layers and 99.8 with 4, add 99.1 and 98.7. Flood stayed at 12.8
to 14.0 in 55 s with 2, 4 and 8 layers at 1e-3, 4 at 2e-3, batch 32: nothing there to choose by.

In float32: with autocast to bfloat16 a step took 1.05 to 1.9 times as long, on a Xeon with AMX.
"""
from __future__ import annotations

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinytrm import Puzzles

LAYERS, HEADS = 2, 4
BATCH, LR, WEIGHT_DECAY, WARM = 64, 4e-3, 0.1, 0.05  # WARM: share of the time


class Plain(nn.Module):
    """Tokens (B, cells), ids (B,) -> logits (B, cells, V), with about so many parameters."""

    def __init__(self, vocab_size: int, cells: int, ids: int, parameters: int):
        super().__init__()
        # A layer has 12 D^2 weights if it is 4 D wide inside; then that width is fitted.
        D = 2 * HEADS * max(1, round(math.sqrt(parameters / LAYERS / 12) / HEADS / 2))
        others = (2 * vocab_size + ids + 1 + cells + 2) * D + vocab_size + LAYERS * (4 * D + 9) * D
        inner = max(1, round((parameters - others) / LAYERS / (2 * D + 1)))
        self.token, self.id = nn.Embedding(vocab_size, D), nn.Embedding(ids, D)
        self.position = nn.Embedding(1 + cells, D)
        layer = nn.TransformerEncoderLayer(D, HEADS, inner, 0.0, "gelu", batch_first=True,
                                           norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(D),
                                             enable_nested_tensor=False)
        self.head = nn.Linear(D, vocab_size)
        for p in self.encoder.parameters():  # else all layers start as copies of one
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, inputs: Tensor, ids: Tensor) -> Tensor:
        h = torch.cat([self.id(ids)[:, None], self.token(inputs)], 1) + self.position.weight
        return self.head(self.encoder(h)[:, 1:])


def train_plain(puzzles: Puzzles, vocab_size: int, parameters: int, seconds: float, seed: int = 0
                ) -> tuple[Plain, int]:
    """Train for so many seconds; the model, and the steps that it made in them, at least one."""
    begun, steps, share = time.perf_counter(), 0, 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Plain(vocab_size, puzzles.inputs.shape[1], int(puzzles.ids.max()) + 1, parameters)
    random = np.random.default_rng(seed)
    rows = [torch.from_numpy(t.astype(np.int64)) for t in (puzzles.inputs, puzzles.labels,
                                                           puzzles.ids)]
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True,
                                  weight_decay=WEIGHT_DECAY)
    while share < 1:
        drawn = random.integers(0, len(puzzles), BATCH)
        inputs, labels, ids = (t[drawn] for t in rows)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, share / WARM) * (0.5 + 0.5 * math.cos(math.pi * share))
        loss = F.cross_entropy(model(inputs, ids).flatten(0, 1), labels.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps, share = steps + 1, (time.perf_counter() - begun) / max(seconds, 1e-9)
    return model.eval(), steps


@torch.no_grad()
def solve_plain(model: Plain, puzzles: Puzzles) -> np.ndarray:
    """Answers (N, cells)."""
    inputs, ids = (torch.from_numpy(t.astype(np.int64)) for t in (puzzles.inputs, puzzles.ids))
    return torch.cat([model(x, i).argmax(-1) for x, i in zip(inputs.split(256), ids.split(256))]
                     ).numpy()
