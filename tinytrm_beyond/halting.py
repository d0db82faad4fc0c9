"""When a slot halts in training, and which of its answers counts when solving."""
import math

import torch

import tinytrm
from tinytrm_beyond.grids import GridLayer


class HaltingTRM(tinytrm.TRM):
    """A TRM that does as the fields of `BeyondConfig` say."""

    def new_layer(self, rng):
        return GridLayer(self.config, rng)

    def halts(self, q, steps, explore, training_step):
        """Which slots halt in training, (B,).

        By chance: whatever q is, a slot that has made s steps goes on with chance s / (s + 1). So
        1 puzzle in s gets as far as step s, since 1/2 * 2/3 * ... * (s - 1)/s = 1/s, and the late
        steps, which a model needs that thinks longer than it was trained to, are trained as well.
        """
        if training_step < self.config.two_step_phase:
            return steps >= 2  # at first two steps are enough to learn from
        if self.config.halting == "sure":
            return super().halts(q, steps, explore, training_step)
        by_chance = explore[:, 0] * (steps + 1) < 1
        return by_chance | (steps >= self.config.N_sup)

    def think(self, inputs, ids, steps=None, halt=False):
        """As `TRM.think`. With keep "surest", an answer stays until a surer one comes."""
        thoughts = super().think(inputs, ids, steps, halt)
        if self.config.keep == "last":
            yield from thoughts
            return
        best = torch.zeros_like(inputs)
        best_q = torch.full(ids.shape, -math.inf, device=ids.device)
        for answers, q, steps_used in thoughts:
            surer = q > best_q
            best = torch.where(surer[:, None], answers, best)
            best_q = torch.where(surer, q, best_q)
            yield best, best_q, steps_used
