"""Tokens that are alike, as the digits of a Sudoku: what is learnt of one is known of all.

The last K tokens of the vocabulary are the symbols. Each has D features at a position, so y and z
are (B, L, K D). The features of all symbols pass through the same weights: for the plain network
they are K puzzles instead of one. Once in each layer they meet: each symbol sees the mean of all.
If the symbols of a question are renamed, those of the answer are renamed, and nothing else changes
(tests/test_symbols.py). The idea is that of SE-RRM (arXiv 2603.02193).
"""
import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

import tinytrm
from tinytrm_beyond.grids import GridLayer
from tinytrm_beyond.halting import HaltingTRM


class SymbolTRM(HaltingTRM):
    """A TRM with K D features at a position; D is `config.dim`."""

    def __init__(self, config):
        # A token is written in K codes, one for each symbol's features. Padding and the blank are
        # the same code K times. Symbol k is the code "this" in the features of symbol k and the
        # code "another" in those of the others. So there are only two embeddings for all symbols.
        K, V = config.symbols, config.vocab_size
        this = V - K  # the first symbol's token gives its row of the embeddings to "this" ...
        another = this + 1  # ... and the next row is "another"
        super().__init__(dataclasses.replace(config, vocab_size=this + 2, symbols=1))
        self.config = config
        self.output_weight.data *= K**-0.5  # a logit is a sum over K D features, not D

        token = torch.arange(V)[:, None]
        symbol = torch.arange(K)
        codes = torch.where(token - this == symbol, this, another)
        self.codes = nn.Buffer(torch.where(token < this, token, codes), persistent=False)  # (V, K)

    def new_layer(self, rng):
        return SymbolLayer(self.config, rng)

    def net(self, h):
        """(B, L, K D) -> (B, L, K D)."""
        h = h.unflatten(-1, (-1, self.config.dim)).transpose(0, 1).contiguous()  # (L, B, K, D)
        for layer in self.layers:
            h = layer(h)
        return h.transpose(0, 1).flatten(2).contiguous()

    def embed(self, inputs, puzzle_rows):
        """Tokens (B, cells), puzzle rows (B, D) -> the question x (B, L, K D)."""
        K, P, D = self.codes.shape[1], self.config.puzzle_tokens, self.config.dim
        rows = puzzle_rows[:, None].repeat(1, 1, K)  # (B, 1, K D)
        blank = rows.new_zeros(len(inputs), P - 1, K * D)
        cells = F.embedding(self.codes[inputs], self.token_embedding).flatten(2)  # (B, cells, K D)
        return D**0.5 * torch.cat([rows, blank, cells], dim=1)

    def start(self, batch):
        """The starts of all symbols are the same: y, z (B, L, K D)."""
        y, z = super().start(batch)
        return y.repeat(1, 1, self.config.symbols), z.repeat(1, 1, self.config.symbols)

    def output_head(self, y):
        """Logits (B, cells, V): the weights of a token are those of its codes, side by side."""
        weight = self.output_weight[self.codes].flatten(1)  # (V, K D)
        return tinytrm.linear(y[:, self.config.puzzle_tokens:], weight).float()

    def halt_head(self, y):
        """q (B,), from the mean over the symbols at the first position."""
        K = self.config.symbols
        return F.linear(y[:, 0].float(), self.q_weight.repeat(1, K) / K, self.q_bias)[:, 0]


class SymbolLayer(GridLayer):
    """A layer in which the symbols meet, between the mixing of positions and of features."""

    def __init__(self, config, rng):
        super().__init__(config, rng)
        self.mix_symbols = tinytrm.matrix(config.dim, config.dim, rng)

    def forward(self, h):
        """(L, B, K, D) -> (L, B, K, D)."""
        h = self.mix_positions(h.flatten(1, 2)).view_as(h)  # each symbol by itself
        mean = h.mean(2, keepdim=True)
        h = tinytrm.rms_norm(h + tinytrm.linear(mean, self.mix_symbols))
        return self.mix_features(h)
