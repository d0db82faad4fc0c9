"""TinyTRM: the Tiny Recursive Model in one file.

"Less is More: Recursive Reasoning with Tiny Networks" (Jolicoeur-Martineau, arXiv 2510.04871).
One 2-layer network answers a puzzle by thinking in loops: it starts from a guess and refines a
latent, then its answer, again and again. On two CPU cores it learns 6x6 Sudoku in a minute or two
(README: how well, how long); with the paper's settings it is the paper's 5M-7M parameter model.

    symbol  meaning                                                   shape
    x       the question, embedded; fixed while thinking              (L, B, D)
    y       the current answer, as features                           (L, B, D)
    z       the latent: a scratchpad of the reasoning                 (L, B, D)
    n, T    latent steps per cycle, cycles per supervision step
    N_sup   supervision steps per puzzle at most                      Config.max_steps

    latent_recursion(x, y, z):                      # one cycle
        repeat n times:  z = net(x + y + z)         # think
        y = net(y + z)                              # answer: the same net, without the question
    deep_recursion(x, y, z):                        # one supervision step
        T - 1 cycles without gradient, then one cycle with gradient
        return y.detach(), z.detach(), logits = output_head(y), q = halt_head(y)
    training:                                       # deep supervision
        up to N_sup times: deep_recursion, loss, backward, optimizer step; stop early when q > 0

The sequence axis comes first, (L, B, D) and not (B, L, D): then mixing along the sequence is one
plain matrix product too. Where this file departs from the paper or from the authors' code, the
line says NOTE(paper).
"""
from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------
# 1. Configuration


@dataclass
class Config:
    """Everything that defines a model and its training; each field is a flag of train.py."""

    # the puzzles
    vocab_size: int = 11  # token 0 is padding (inputs) or "not labelled" (labels)
    seq_len: int = 81  # cells of one puzzle
    num_puzzles: int = 0  # rows of the puzzle-embedding table; 0 = no table
    puzzle_tokens: int = 16  # positions in front of the cells
    # the network
    mixer: str = "mlp"  # what mixes positions: "mlp" (best on small fixed grids) or "attention"
    position: str = "rope"  # how attention knows positions: "rope", "learned" or "none"
    dim: int = 512  # D, width of every feature vector
    layers: int = 2  # blocks in the one network
    heads: int = 8  # attention heads
    expansion: float = 4.0  # SwiGLU inner width = expansion * width * 2/3, rounded up to ...
    width_multiple: int = 256  # ... a multiple of this
    # the recursion
    n: int = 6  # latent steps per cycle (the authors' L_cycles)
    T: int = 3  # cycles per supervision step (H_cycles); only the last carries gradient
    max_steps: int = 16  # N_sup, supervision steps per puzzle at most
    halt_exploration: float = 0.1  # chance that a slot must think for a random while longer
    halt_weight: float = 0.5  # weight of the halting loss
    loss: str = "stablemax"  # "stablemax" (the paper) or "softmax"
    # training
    batch_size: int = 768  # slots that think at the same time, over all processes
    micro_batch: int = 0  # slots per backward pass and process; 0 = all at once
    steps: int = 65104  # optimizer steps; each is one supervision step of every slot
    lr: float = 1e-4  # AdamW, betas (0.9, 0.95)
    warmup: int = 2000  # optimizer steps of linear warm-up
    cosine: bool = False  # after the warm-up: False = constant, True = cosine to zero
    weight_decay: float = 1.0  # on every parameter
    puzzle_lr: float = 1e-4  # sign-SGD on the puzzle-embedding table
    puzzle_weight_decay: float = 1.0  # decoupled, on the rows that a step touches
    ema: float = 0.999  # decay of the averaged weights, which are the ones evaluated
    dtype: str = "auto"  # of the forward pass: "auto", "bfloat16" or "float32"
    seed: int = 0  # of weights, data order, augmentation and exploration

    def __post_init__(self):
        positive = "vocab_size seq_len dim layers heads width_multiple n T max_steps batch_size".split()
        choices = dict(mixer=("mlp", "attention"), loss=("stablemax", "softmax"),
                       position=("rope", "learned", "none"), dtype=("auto", "bfloat16", "float32"))
        for name, value in dataclasses.asdict(self).items():
            if name in choices and value not in choices[name]:
                raise ValueError(f"{name} must be one of {', '.join(choices[name])}, not {value!r}")
            if name not in choices and not (name in positive) <= value < math.inf:
                raise ValueError(f"{name} must be a number >= {int(name in positive)}, not {value}")
        if self.mixer == "attention" and self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of 2 * heads = {2 * self.heads}")
        if self.num_puzzles and not self.puzzle_tokens:
            raise ValueError("num_puzzles > 0 needs puzzle_tokens >= 1")

    @property
    def length(self) -> int:
        """L, the positions the network sees: puzzle tokens, then cells."""
        return self.puzzle_tokens + self.seq_len

    def inner(self, width: int) -> int:
        """Inner width of a SwiGLU over vectors of this width."""
        return -(-round(self.expansion * width * 2 / 3) // self.width_multiple) * self.width_multiple


# ------------------------------------------------------------------------------------------------
# 2. Layers: a block is two residual steps, mix along the sequence and mix along the features


def rms_norm(h: Tensor, dim: int = -1) -> Tensor:
    """Scale vectors along `dim` to root-mean-square 1, in float32; no learned weight, eps 1e-5."""
    f = h.float()
    return (f * torch.rsqrt(f.square().mean(dim, keepdim=True) + 1e-5)).to(h.dtype)


def swiglu(gate_up: Tensor, dim: int = -1) -> Tensor:
    """silu(gate) * up, where `gate_up` holds both, gate first, along `dim`."""
    gate, up = gate_up.chunk(2, dim)
    return F.silu(gate) * up


def rotary(length: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary position embedding, theta 10000: two of (L, 1, 1, head_dim)."""
    frequency = 10000 ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angle = torch.arange(length, device=device).float()[:, None] * frequency  # (L, head_dim / 2)
    angle = torch.cat([angle, angle], -1)[:, None, None]  # half-split: entry i turns with i + half
    return angle.cos(), angle.sin()


def rotate(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys (L, B, H, head_dim) by their position; computed in float32."""
    first, second = h.float().chunk(2, -1)
    return (h * cos + torch.cat([-second, first], -1) * sin).to(h.dtype)


def truncated_normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Normal numbers cut at two sigma, widened so that what is left has exactly this std."""
    std = std / 0.8796256610342398  # std of a unit normal cut at +-2
    return nn.init.trunc_normal_(torch.empty(shape), 0, std, -2 * std, 2 * std, generator=generator)


class Block(nn.Module):
    """The four matrices of one layer; `TRM.net` applies them.

    mix_in, mix_out: the SwiGLU over the sequence (mixer "mlp"), or the query-key-value and output
    projections ("attention"). gate_up, down: the SwiGLU over the features. No biases anywhere.
    """

    def __init__(self, config: Config, generator: torch.Generator):
        super().__init__()
        L, D = config.length, config.dim
        if config.mixer == "mlp":
            mix_in, mix_out = (2 * config.inner(L), L), (L, config.inner(L))
        else:
            mix_in, mix_out = (3 * D, D), (D, D)
        shapes = dict(mix_in=mix_in, mix_out=mix_out,
                      gate_up=(2 * config.inner(D), D), down=(D, config.inner(D)))
        for name, shape in shapes.items():
            weight = truncated_normal(shape, shape[1] ** -0.5, generator)  # 1 / sqrt(fan in)
            setattr(self, name, nn.Parameter(weight))

    def cast(self, dtype: torch.dtype) -> list[Tensor]:
        """The matrices in the dtype of the forward pass; gradients flow back to float32."""
        return [w.to(dtype) for w in (self.mix_in, self.mix_out, self.gate_up, self.down)]


# ------------------------------------------------------------------------------------------------
# 3. The model and its recursion


class TRM(nn.Module):
    """The Tiny Recursive Model. Weights depend on `config.seed` alone, not on torch's global seed."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        D, random = config.dim, torch.Generator().manual_seed(config.seed)
        self.layers = nn.ModuleList(Block(config, random) for _ in range(config.layers))
        self.token_embedding = nn.Parameter(truncated_normal((config.vocab_size, D), D**-0.5, random))
        if config.position == "learned":
            self.position_embedding = nn.Parameter(truncated_normal((config.length, D), D**-0.5, random))
        self.output_head = nn.Parameter(truncated_normal((config.vocab_size, D), D**-0.5, random))
        self.halt_head = nn.Linear(D, 2)  # NOTE(paper): the code has two outputs and uses the first
        nn.init.zeros_(self.halt_head.weight)
        nn.init.constant_(self.halt_head.bias, -5)  # at first, never sure enough to stop
        # Not parameters: where y and z start (random, never learned), and the puzzle table, which
        # sign-SGD trains row by row (section 5).
        self.register_buffer("y_init", truncated_normal((D,), 1, random))
        self.register_buffer("z_init", truncated_normal((D,), 1, random))
        if config.num_puzzles:
            self.register_buffer("puzzle_table", torch.zeros(config.num_puzzles, D))

    @property
    def device(self) -> torch.device:
        return self.y_init.device

    def puzzle_rows(self, ids: Tensor) -> Tensor | None:
        """The puzzle embeddings (B, D) of these ids (B,), or None without a table."""
        return self.puzzle_table[ids] if self.config.num_puzzles else None

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """y and z before any thought: the same two vectors everywhere, (L, B, D) each."""
        dtype = compute_dtype(self.config, self.device)
        shape = self.config.length, batch, self.config.dim
        return tuple(v.to(dtype).expand(shape).clone() for v in (self.y_init, self.z_init))

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        """Token ids (B, cells) and puzzle embeddings (B, D) -> the question x (L, B, D)."""
        B, P, D = len(inputs), self.config.puzzle_tokens, self.config.dim
        x = F.embedding(inputs.T, self.token_embedding)  # (cells, B, D)
        if P:  # one row of D numbers fills the first puzzle token, zeros the others
            tokens = x.new_zeros(P, B, D) if puzzle_rows is None else (
                F.pad(puzzle_rows, (0, (P - 1) * D)).view(B, P, D).transpose(0, 1))
            x = torch.cat([tokens, x])  # (L, B, D)
        if self.config.position == "learned":
            x = math.sqrt(0.5) * (x + self.position_embedding[:, None])
        return math.sqrt(D) * x

    def attention(self, h: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
        """Bidirectional multi-head self-attention over the sequence, (L, B, D) -> (L, B, D)."""
        L, B, D = h.shape
        q, k, v = F.linear(h, qkv).view(L, B, 3 * self.config.heads, -1).chunk(3, 2)  # (L, B, H, D/H)
        if self.config.position == "rope":
            cos, sin = rotary(L, q.shape[-1], h.device)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))  # (B, H, L, D/H)
        h = F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3)
        return F.linear(h.reshape(L, B, D), out)

    def net(self, h: Tensor, weights: list[list[Tensor]]) -> Tensor:
        """The one network, (L, B, D) -> (L, B, D): `layers` post-norm blocks."""
        for mix_in, mix_out, gate_up, down in weights:
            if self.config.mixer == "mlp":  # one SwiGLU and one norm along the sequence
                s = h.flatten(1)  # (L, B * D)
                h = rms_norm(s + mix_out @ swiglu(mix_in @ s, 0), 0).view_as(h)
            else:
                h = rms_norm(h + self.attention(h, mix_in, mix_out))
            h = rms_norm(h + F.linear(swiglu(F.linear(h, gate_up)), down))
        return h

    def latent_recursion(self, x: Tensor, y: Tensor, z: Tensor, weights) -> tuple[Tensor, Tensor]:
        """One cycle: think n times, then answer once."""
        for _ in range(self.config.n):
            z = self.net(x + y + z, weights)  # improve the latent, seeing question and answer
        y = self.net(y + z, weights)  # improve the answer from the latent; the missing x tells
        return y, z  #                  the network which of its two jobs it has

    def deep_recursion(self, x: Tensor, y: Tensor, z: Tensor, weights) -> tuple[Tensor, Tensor]:
        """One supervision step: T cycles, of which only the last one remembers its way."""
        with torch.no_grad():  # these cycles bring y and z closer to a good place to learn from
            for _ in range(self.config.T - 1):
                y, z = self.latent_recursion(x, y, z, weights)
        return self.latent_recursion(x, y, z, weights)

    def forward(self, inputs: Tensor, puzzle_rows: Tensor | None, y: Tensor, z: Tensor):
        """One supervision step from (y, z).

        inputs (B, cells) int64, puzzle_rows (B, D) or None, y and z (L, B, D).
        Returns the new y and z, detached, logits (B, cells, vocab_size) and q (B,) in float32:
        the model believes that its answer is right when q > 0.
        """
        x = self.embed(inputs, puzzle_rows).to(y.dtype)
        weights = [block.cast(y.dtype) for block in self.layers]  # cast once, used by every call
        y, z = self.deep_recursion(x, y, z, weights)
        cells = y[self.config.puzzle_tokens:]
        logits = F.linear(cells, self.output_head.to(y.dtype)).float().transpose(0, 1)
        q = self.halt_head(y[0].float())[:, 0]
        # The next step starts from here but cannot be blamed for what led here: no gradient
        # crosses supervision steps, so memory does not grow with N_sup.
        return y.detach(), z.detach(), logits, q


def compute_dtype(config: Config, device: torch.device | str) -> torch.dtype:
    """dtype of the forward pass. "auto": bfloat16 where the hardware multiplies it, else float32."""
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    kind = torch.device(device).type
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # most laptops emulate bfloat16, slowly: ask the processor
        fast = kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32


# ------------------------------------------------------------------------------------------------
# 4. Loss, halting and the slots that think


def log_stablemax(v: Tensor) -> Tensor:
    """log(s / sum(s)) over the last axis; s(v) = v + 1 for v >= 0, 1 / (1 - v) below.

    A softmax that grows linearly instead of exponentially (Prieto et al., arXiv 2501.04697).
    """
    # Both branches are computed, so both must be finite: without the clamp a logit of exactly
    # 1.0, common in bfloat16, divides by zero in the unused branch and turns the gradient to NaN.
    s = torch.where(v >= 0, v + 1, 1 / (1 - v.clamp(max=0)))
    return torch.log(s / s.sum(-1, keepdim=True))


def losses(config: Config, logits: Tensor, q: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per puzzle, (B,) each: answer loss, halting loss, and share of the labelled cells right now.

    The answer loss is the mean cross-entropy over labelled cells (labels > 0); the halting head
    learns, by binary cross-entropy, to say whether every labelled cell is right at this moment.
    NOTE(paper): float32; the authors compute the stablemax in float64, which not every device has.
    """
    labelled = labels > 0
    count = labelled.sum(-1).clamp(min=1)
    log_p = log_stablemax(logits) if config.loss == "stablemax" else logits.log_softmax(-1)
    answer = -log_p.gather(-1, labels[..., None])[..., 0]  # (B, cells)
    right = (logits.argmax(-1) == labels) & labelled
    exact = right.sum(-1) == labelled.sum(-1)  # a row that is all padding counts as right
    halting = F.binary_cross_entropy_with_logits(q, exact.float(), reduction="none")
    return (answer * labelled).sum(-1) / count, halting, right.sum(-1) / count


@dataclass
class Carry:
    """The slots of a batch. Each thinks about its own puzzle and has come its own number of steps."""

    y: Tensor  # (L, B, D)
    z: Tensor  # (L, B, D)
    inputs: Tensor  # (B, cells)
    labels: Tensor  # (B, cells)
    ids: Tensor  # (B,)
    steps: Tensor  # (B,) supervision steps done on this puzzle
    halted: Tensor  # (B,) gets a fresh puzzle at the next step

    @classmethod
    def empty(cls, model: TRM, batch: int) -> Carry:
        """Slots that have all halted, so that the first step fills them."""
        cells = torch.zeros(batch, model.config.seq_len, dtype=torch.long, device=model.device)
        zeros = cells[:, 0].clone()
        return cls(*model.start(batch), cells, cells.clone(), zeros, zeros.clone(), zeros == 0)

    def refill(self, model: TRM, slots: Tensor, inputs: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Put fresh puzzles, and a fresh y and z, into these halted slots (K,)."""
        self.y[:, slots], self.z[:, slots] = model.start(len(slots))
        self.inputs[slots], self.labels[slots], self.ids[slots] = inputs, labels, ids
        self.steps[slots] = 0


def should_halt(config: Config, q: Tensor, steps: Tensor, random: Tensor | None = None) -> Tensor:
    """Which slots stop: those at max_steps, and those that believe they are right (q > 0).

    `random` (B, 2), uniform in [0, 1), is the exploration: with chance `halt_exploration` a slot
    may stop early only from a random step in 2..max_steps on. Drawn anew at each step.
    """
    sure = q > 0
    if random is not None:
        at_least = 2 + (random[:, 1] * (config.max_steps - 1)).long()
        sure &= (random[:, 0] >= config.halt_exploration) | (steps >= at_least)
    return (steps >= config.max_steps) | (sure & (config.max_steps > 1))


# ------------------------------------------------------------------------------------------------
# 5. Optimizers: AdamW for the network, sign-SGD for the puzzle table


def learning_rate(config: Config, step: int) -> float:
    """Factor on the learning rates: linear warm-up, then constant or cosine to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.5 + 0.5 * math.cos(math.pi * done) if config.cosine else 1.0


def make_optimizer(config: Config, model: TRM) -> torch.optim.Optimizer:
    """AdamW over every parameter, biases and embeddings too."""
    # NOTE(paper): as the paper says; the authors' code has adam-atan2, a CUDA extension to build.
    return torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95),
                             weight_decay=config.weight_decay, fused=model.device.type != "mps")


def puzzle_sign_sgd(table: Tensor, ids: Tensor, grads: Tensor, lr: float, decay: float) -> None:
    """In place, touched rows only: row = row * (1 - lr * decay) - lr * sign(grad).

    table (num_puzzles, D), ids (B,), grads (B, D). Gradients of equal ids are summed first, by a
    product with the (B, B) matrix of which ids are equal: no sorting, no wait for the device.
    """
    total = (ids[:, None] == ids).to(grads.dtype) @ grads  # (B, D), the same for equal ids
    table[ids] = table[ids] * (1 - lr * decay) - lr * total.sign()


# ------------------------------------------------------------------------------------------------
# 6. Data: an endless stream whose puzzle number p is a pure function of (seed, p)


def random_rows(seed: int, positions: np.ndarray) -> Callable[[int], np.ndarray]:
    """A callable random(k) -> (B, k) uniform in [0, 1), one row for each of the positions (B,).

    Each call gives fresh numbers, and row i depends on (seed, positions[i]) alone: a batch may be
    split over processes, or training stopped and resumed, without a generator's state to keep.
    SplitMix64 (Steele et al., 2014): a counter times the golden ratio, its bits mixed well.
    """
    def mix(v):
        v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return v ^ (v >> np.uint64(31))

    golden, column = np.uint64(0x9E3779B97F4A7C15), itertools.count(1)
    keys = mix(positions.astype(np.uint64) * golden + mix(np.array([seed + 1], np.uint64) * golden))

    def random(k: int) -> np.ndarray:
        counters = np.array([next(column) for _ in range(k)], np.uint64)
        return (mix(keys[:, None] + counters * golden) >> np.uint64(11)) * 2.0**-53

    return random


class Puzzles:
    """Questions and answers as token grids, and the stream of training examples made of them.

    inputs, labels: integer arrays (N, cells); 0 = padding in inputs, "not labelled" in labels.
    ids: (N,) rows of the puzzle-embedding table, default 0. augment: None, or a function
    (inputs (B, cells), labels (B, cells), random) -> (inputs, labels) that returns a random
    symmetric copy of each row, with `random` as made by random_rows. Raises ValueError.
    Anything else that has this class's `check` and `draw` can be trained on as well.
    """

    def __init__(self, inputs, labels, ids=None, augment: Callable | None = None):
        self.inputs, self.labels = np.asarray(inputs), np.asarray(labels)
        self.ids = np.zeros(len(self.inputs), np.int64) if ids is None else np.asarray(ids)
        self.augment = augment
        if self.inputs.ndim != 2 or self.inputs.shape != self.labels.shape or not self.inputs.size:
            raise ValueError(f"inputs and labels must be two equal tables (puzzles, cells), not "
                             f"{self.inputs.shape} and {self.labels.shape}")
        if self.ids.shape != self.inputs.shape[:1]:
            raise ValueError(f"{len(self.inputs)} puzzles need as many ids, not {self.ids.shape}")

    def __len__(self) -> int:
        return len(self.inputs)

    def first(self, count: int) -> Puzzles:
        return Puzzles(self.inputs[:count], self.labels[:count], self.ids[:count], self.augment)

    def check(self, config: Config) -> None:
        """Raise ValueError, naming the row, unless these puzzles fit a model of this config."""
        if self.inputs.shape[1] != config.seq_len:
            raise ValueError(f"the puzzles have {self.inputs.shape[1]} cells, the model wants {config.seq_len}")
        for name, table, limit in [("inputs", self.inputs, config.vocab_size), ("labels", self.labels, config.vocab_size),
                                   ("ids", self.ids[:, None], max(1, config.num_puzzles))]:
            bad = np.argwhere((table < 0) | (table >= limit))
            if table.dtype.kind not in "iu" or len(bad):
                row, column = bad[0] if len(bad) else (0, 0)
                raise ValueError(f"{name} row {row} holds {table[row, column]}; it must be an integer in 0..{limit - 1}")

    def draw(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """inputs (B, cells), labels (B, cells), ids (B,) at these positions of the stream.

        The stream is one shuffled pass over the puzzles after another.
        """
        epochs, places = np.divmod(positions, len(self))
        rows = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            order = np.random.default_rng((seed, epoch)).permutation(len(self))
            rows[epochs == epoch] = order[places[epochs == epoch]]
        inputs, labels = self.inputs[rows], self.labels[rows]
        if self.augment:  # NOTE(paper): always a new copy; the authors prepare 1000 of each puzzle
            inputs, labels = self.augment(inputs, labels, random_rows(seed, positions))
        return inputs, labels, self.ids[rows]


# ------------------------------------------------------------------------------------------------
# 7. Training: deep supervision over slots that never wait for each other


def ranks() -> tuple[int, int]:
    """(number of this process, number of processes): (0, 1) unless torchrun started several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class State:
    """All that training changes: what must be kept to go on exactly where it stopped."""

    def __init__(self, config: Config, device: torch.device | str = "cpu"):
        world = ranks()[1]
        if config.batch_size % world:
            raise ValueError(f"batch_size {config.batch_size} must be a multiple of the {world} processes")
        self.step = 0
        self.model = TRM(config).to(device)
        if world > 1:  # the same start everywhere
            for tensor in self.model.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        self.optimizer = make_optimizer(config, self.model)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)  # averaged weights
        if config.num_puzzles:
            self.ema.puzzle_table = self.model.puzzle_table  # not averaged: one table serves both
        self.carry = Carry.empty(self.model, config.batch_size // world)


def train(config: Config, puzzles: Puzzles, device: torch.device | str = "cpu",
          state: State | None = None, on_step: Callable | None = None) -> TRM:
    """Train on the puzzles; return the model with the averaged weights. Raises ValueError.

    state: where to go on (default: at the beginning). on_step(state, metrics) is called after each
    optimizer step with this process's METRICS of it, a tensor on the device.
    """
    puzzles.check(config)
    state = state or State(config, device)
    halted = to_host(state.carry.halted)
    while state.step < config.steps:
        random = refill_slots(state, puzzles, halted())  # halted slots take a fresh puzzle
        ids, puzzle_grads, metrics = supervise(state, random)  # forward, loss, backward
        halted = to_host(state.carry.halted)  # on its way while the device is busy with ...
        update(state, ids, puzzle_grads)  # ... one optimizer step
        state.step += 1
        if on_step:
            on_step(state, metrics)
    return state.ema


def to_host(flags: Tensor) -> Callable[[], np.ndarray]:
    """Start to copy; the returned function waits for the copy alone, not for the device to be idle."""
    copied = flags.to("cpu", non_blocking=flags.is_cuda)
    event = torch.cuda.current_stream().record_event() if flags.is_cuda else None
    return lambda: (event and event.synchronize(), copied.numpy())[1]


def refill_slots(state: State, puzzles: Puzzles, halted: np.ndarray) -> Tensor:
    """Put fresh puzzles into the slots that have halted (B,). Returns this step's exploration (B, 2).

    At each step each slot has its own position in the stream, used or not. So what a slot gets
    does not depend on the other slots, or on which process holds it.
    """
    config, carry, device = state.model.config, state.carry, state.model.device
    B = len(carry.halted)
    positions = state.step * config.batch_size + ranks()[0] * B + np.arange(B)
    slots = np.flatnonzero(halted)
    if len(slots):  # nothing is drawn for the others
        drawn = puzzles.draw(positions[slots], config.seed)
        carry.refill(state.model, *(torch.from_numpy(a.astype(np.int64)).to(device) for a in (slots, *drawn)))
    return torch.from_numpy(random_rows(config.seed + 1, positions)(2)).float().to(device)


METRICS = "loss answer_loss halting_loss count exact_accuracy cell_accuracy halt_accuracy steps".split()


def supervise(state: State, random: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """One supervision step of every slot; gradients are left in the parameters.

    Returns ids (B,), gradient of their puzzle embeddings (B, D) or None, and METRICS: losses of
    this step, divided by the global batch, and sums over the `count` puzzles that just halted.
    """
    model, carry, config = state.model, state.carry, state.model.config
    rows = model.puzzle_rows(carry.ids)
    rows = rows if rows is None else rows.requires_grad_()
    parts = []
    for s in torch.arange(len(carry.halted)).split(config.micro_batch or len(carry.halted)):
        s = slice(s[0], s[-1] + 1)  # in pieces, if memory asks for it
        y, z, logits, q = model(carry.inputs[s], rows if rows is None else rows[s], carry.y[:, s], carry.z[:, s])
        answer_loss, halting_loss, share = losses(config, logits, q, carry.labels[s])
        loss = answer_loss + config.halt_weight * halting_loss
        (loss.sum() / config.batch_size).backward()  # the global batch: gradients are summed
        parts.append((y, z, torch.stack([loss, answer_loss, halting_loss, share, q]).detach()))
    ys, zs, figures = zip(*parts)
    figures = torch.cat(figures, 1)
    share, q = figures[3:]  # (B,) each
    carry.y, carry.z, carry.steps = torch.cat(ys, 1), torch.cat(zs, 1), carry.steps + 1
    carry.halted = should_halt(config, q, carry.steps, random)

    done = carry.halted & (carry.labels > 0).any(-1)  # rows that are all padding do not count
    counts = torch.stack([done, share == 1, share, (q > 0) == (share == 1), carry.steps]) * done
    return carry.ids, rows if rows is None else rows.grad, torch.cat([figures[:3].sum(1) / config.batch_size, counts.sum(1)])


def update(state: State, ids: Tensor, puzzle_grads: Tensor | None) -> None:
    """Sum gradients over processes; then AdamW, sign-SGD and the average, the same everywhere."""
    model, config = state.model, state.model.config
    if ranks()[1] > 1:
        for p in model.parameters():
            torch.distributed.all_reduce(p.grad)
        if puzzle_grads is not None:
            ids, puzzle_grads = gather(ids), gather(puzzle_grads)
    factor = learning_rate(config, state.step)
    state.optimizer.param_groups[0]["lr"] = config.lr * factor
    state.optimizer.step()
    state.optimizer.zero_grad()
    if puzzle_grads is not None:
        puzzle_sign_sgd(model.puzzle_table, ids, puzzle_grads, config.puzzle_lr * factor, config.puzzle_weight_decay)
    torch._foreach_lerp_(list(state.ema.parameters()), list(model.parameters()), 1 - config.ema)


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks."""
    parts = [torch.empty_like(tensor) for _ in range(ranks()[1])]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------------
# 8. Solving and evaluating


@torch.no_grad()
def think(model: TRM, inputs: Tensor, ids: Tensor, steps: int | None = None, halt: bool = False):
    """Yield (answers (B, cells), q (B,), steps used (B,)) after each supervision step.

    With `halt`, a puzzle whose q > 0 keeps its answer and costs nothing more; without, all puzzles
    take all steps (default: N_sup), as in the authors' evaluation.
    """
    y, z = model.start(len(inputs))
    active = torch.arange(len(inputs), device=inputs.device)  # puzzles still being thought about
    answers, q, used = torch.zeros_like(inputs), y.new_zeros(len(inputs), dtype=torch.float), active * 0
    for step in range(model.config.max_steps if steps is None else steps):
        if len(active):
            y, z, logits, q[active] = model(inputs[active], model.puzzle_rows(ids[active]), y, z)
            answers[active], used[active] = logits.argmax(-1), step + 1
            if halt:
                going = q[active] <= 0
                y, z, active = y[:, going], z[:, going], active[going]
        yield answers.clone(), q.clone(), used.clone()


class Solution(NamedTuple):
    """What the model says about N puzzles."""

    answers: np.ndarray  # (N, cells) tokens
    q: np.ndarray  # (N,) halting logit: above 0, the model believes that it is right
    steps: np.ndarray  # (N,) supervision steps used


def solve(model: TRM, inputs, ids=None, steps: int | None = None, halt: bool = False, batch_size: int = 256) -> Solution:
    """Answer puzzles: inputs (N, cells) tokens, ids (N,) puzzle ids. Raises ValueError."""
    puzzles = Puzzles(inputs, np.zeros_like(inputs), ids)
    batches = (list(think(model, x, i, steps, halt))[-1] for x, _, i in _batches(model, puzzles, batch_size))
    return Solution(*(torch.cat(parts).cpu().numpy() for parts in zip(*batches)))


def evaluate(model: TRM, puzzles: Puzzles, steps: int | None = None, halt: bool = False, batch_size: int = 256) -> dict:
    """Exact-puzzle and cell accuracy, 0..1, after `steps` supervision steps (default: N_sup).

    Returns exact_accuracy, cell_accuracy, puzzles (their number), by_step (exact accuracy after
    each step), mean_steps. Processes share the work; each puzzle counts once. Raises ValueError.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    sums = torch.zeros(model.config.max_steps if steps is None else steps, 3, device=model.device)
    for inputs, labels, ids in _batches(model, puzzles, batch_size):
        for step, (answers, _, used) in enumerate(think(model, inputs, ids, steps, halt)):
            share = ((answers == labels) & (labels > 0)).sum(1) / (labels > 0).sum(1)
            sums[step] += torch.stack([share == 1, share, used]).sum(1)
    if ranks()[1] > 1:
        torch.distributed.all_reduce(sums)
    exact, cells, used = (sums.cpu().double() / len(puzzles)).T.tolist()
    return dict(exact_accuracy=exact[-1], cell_accuracy=cells[-1], puzzles=len(puzzles), by_step=exact, mean_steps=used[-1])


def _batches(model: TRM, puzzles: Puzzles, batch_size: int):
    """This process's share of the puzzles, as tensors (inputs, labels, ids) on the model's device."""
    puzzles.check(model.config)
    rank, world = ranks()
    rows = np.arange(rank, len(puzzles), world)
    for r in np.split(rows, range(batch_size, len(rows), batch_size)):
        yield [torch.from_numpy(a[r].astype(np.int64)).to(model.device) for a in (puzzles.inputs, puzzles.labels, puzzles.ids)]


# ------------------------------------------------------------------------------------------------
# 9. Saving and loading


def save(path: str | Path, model: TRM, **extra) -> None:
    """Write weights, config and `extra` (plain values, tensors); an old file stays until it is whole."""
    content = dict(format="tinytrm-1", config=dataclasses.asdict(model.config), weights=model.state_dict(), extra=extra)
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, device: torch.device | str = "cpu") -> TRM:
    """The model in a run folder or file made by `save`, its `extra` as `model.extra`. Raises OSError, ValueError."""
    path = Path(path) / "model.pt" if Path(path).is_dir() else Path(path)
    content = _read(path)
    if content.get("format") != "tinytrm-1":
        raise ValueError(f"{path}: not made by TinyTRM; for the authors' files use load_official")
    model = _fill(TRM(Config(**content["config"])), content["weights"], path)
    model.extra = content["extra"]
    return model.to(device)


def _read(path: Path) -> dict:
    """torch.load without running any code from the file; every failure becomes one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a torn zip or a refused pickle raises a dozen kinds of error
        raise ValueError(f"{path}: not a readable checkpoint: truncated, or not made by torch.save") from e
    return content if isinstance(content, dict) else {}


def _fill(model: TRM, weights: dict, where) -> TRM:
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise ValueError(f"{where}: weights and config do not fit: {' '.join(str(e).split())[:300]}") from None
    return model.eval()


OFFICIAL_NAMES = {  # theirs -> ours; applied in this order
    "_orig_mod.": "", "model.inner.": "", "H_init": "y_init", "L_init": "z_init", "L_level.": "",
    "embed_tokens.embedding_weight": "token_embedding", "embed_pos.embedding_weight": "position_embedding",
    "lm_head.weight": "output_head", "q_head": "halt_head", "puzzle_emb.weights": "puzzle_table",
    "self_attn.qkv_proj.weight": "mix_in", "self_attn.o_proj.weight": "mix_out",
    "mlp_t.gate_up_proj.weight": "mix_in", "mlp_t.down_proj.weight": "mix_out",
    "mlp.gate_up_proj.weight": "gate_up", "mlp.down_proj.weight": "down"}


def load_official(source: dict | str | Path, *, seq_len: int, n: int, T: int, **fields) -> TRM:
    """A model from the authors' state dict, or from a file that holds it.

    Sizes are read off the tensors. What they cannot tell must be given: seq_len, n (L_cycles), T
    (H_cycles); heads where not 8, position where not RoPE, expansion where not 4, and puzzle_tokens
    where not 16 (attention without learned positions). Raises OSError, ValueError.
    """
    weights = {}
    for key, tensor in (source if isinstance(source, dict) else _read(Path(source))).items():
        for theirs, ours in OFFICIAL_NAMES.items():
            key = key.replace(theirs, ours)
        weights[key] = torch.as_tensor(tensor).float()
    try:
        (V, D), mix_out = weights["token_embedding"].shape, weights["layers.0.mix_out"]
    except KeyError as e:
        raise ValueError(f"no {e} in these weights: not a checkpoint of the authors' TRM") from None
    mlp = weights["layers.0.mix_in"].shape[0] != 3 * D or mix_out.shape != (D, D)
    learned = weights.get("position_embedding")
    length = len(mix_out) if mlp else len(learned) if learned is not None else seq_len + fields.get("puzzle_tokens", 16)
    sizes = dict(vocab_size=V, dim=D, seq_len=seq_len, n=n, T=T, mixer="mlp" if mlp else "attention",
                 num_puzzles=len(weights.get("puzzle_table", ())), puzzle_tokens=length - seq_len,
                 layers=sum(key.endswith(".down") for key in weights))
    if learned is not None:
        sizes["position"] = "learned"
    return _fill(TRM(Config(**{**sizes, **fields})), weights, "official weights")


# ------------------------------------------------------------------------------------------------
# 10. Presets: the paper's settings, and laptop-sized ones

_paper = dict(seq_len=81, vocab_size=11, num_puzzles=1, puzzle_tokens=16)
_laptop = dict(num_puzzles=0, puzzle_tokens=1, width_multiple=32, cosine=True, warmup=50, weight_decay=0.1)
PRESETS = {
    "sudoku": Config(**_paper),
    "sudoku-att": Config(**_paper, mixer="attention"),
    "sudoku4": Config(**_laptop, seq_len=16, vocab_size=6, dim=32, n=2, T=2, max_steps=4, batch_size=64, steps=150, lr=5e-3),
    "sudoku6": Config(**_laptop, seq_len=36, vocab_size=8, dim=64, n=3, T=2, max_steps=6, batch_size=96,
                      steps=700, lr=5e-3, halt_weight=0.1),
    "sudoku9": Config(**_laptop, seq_len=81, vocab_size=11, dim=128, n=4, T=2, max_steps=6, batch_size=96,
                      steps=5000, lr=3e-3, halt_weight=0.1),
}
