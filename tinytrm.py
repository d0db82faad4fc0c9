"""TinyTRM: the Tiny Recursive Model in one file.

"Less is More: Recursive Reasoning with Tiny Networks" (Jolicoeur-Martineau, arXiv 2510.04871).
One 2-layer network answers a puzzle by thinking in loops: it starts from a guess and refines a
latent, then its answer, again and again. `python train.py` teaches it 6x6 Sudoku in a minute on two
CPU cores (Intel Xeon): 99.6 +- 0.1 % of 1000 held-out puzzles exactly right, 5 seeds. With the
paper's settings it is the paper's model, number for number (tests/test_official_parity.py).

    symbol  meaning                                                     shape
    x       the question, embedded; fixed while thinking                (L, B, D)
    y       the current answer, as features (the authors' z_H)          (L, B, D)
    z       the latent, a scratchpad of the reasoning (their z_L)       (L, B, D)
    n, T    latent steps per cycle, cycles per supervision step         Config.n, Config.T
    N_sup   supervision steps per puzzle at most                        Config.max_steps

    latent_recursion(x, y, z):                    # one cycle
        repeat n times: z = net(x + y + z)        # think
        y = net(y + z)                            # answer: the same net, without the question
    deep_recursion(x, y, z):                      # one supervision step
        T - 1 cycles without gradient, then one cycle with gradient
        y, z, logits, q = y.detach(), z.detach(), output_head(y), halt_head(y)
    training, for every puzzle:                   # deep supervision
        up to N_sup times: deep_recursion, loss, backward, optimizer step; stop early when q > 0

B puzzles, L positions, D features. The sequence comes first, (L, B, D), so that mixing along it is
one plain matrix product. Where this file departs from the paper or from the authors' code, the line
says NOTE(paper). Read sections 3 and 4 first if you only want the idea.
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
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

if dist.is_available():  # Before any group of processes exists: this module keeps the group that it
    import torch.distributed.nn  # noqa: F401  finds at import in its default arguments for ever, and
    # gloo's threads then outlive destroy_process_group and abort the interpreter when it ends.

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
    shallow: float = 0.0  # share of the training, at its beginning, with T = 1 and 2/3 of n
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
    eval_steps: int = 16  # supervision steps when solving; may be more than N_sup
    dtype: str = "auto"  # of the forward pass: "auto", "bfloat16" or "float32"
    seed: int = 0  # of weights, data order, augmentation and exploration

    def __post_init__(self):
        positive = ("vocab_size seq_len dim layers heads width_multiple n T max_steps batch_size "
                    "eval_steps")
        choices = dict(mixer=("mlp", "attention"), loss=("stablemax", "softmax"),
                       position=("rope", "learned", "none"), dtype=("auto", "bfloat16", "float32"))
        for name, value in dataclasses.asdict(self).items():
            least = int(name in positive.split())
            if name in choices and value not in choices[name]:
                raise ValueError(f"{name} must be one of {', '.join(choices[name])}, not {value!r}")
            if name not in choices and not least <= value < math.inf:
                raise ValueError(f"{name} must be a number >= {least}, not {value}")
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
        multiple = self.width_multiple
        return -(-round(self.expansion * width * 2 / 3) // multiple) * multiple

    def weight_shapes(self) -> dict[str, tuple[int, int]]:
        """The four matrices of one layer, (out, in); there are no biases.

        mix_in, mix_out: the SwiGLU along the sequence, or attention's query-key-value and output
        projections. gate_up, down: the SwiGLU along the features.
        """
        L, D = self.length, self.dim
        mlp = dict(mix_in=(2 * self.inner(L), L), mix_out=(L, self.inner(L)))
        mix = mlp if self.mixer == "mlp" else dict(mix_in=(3 * D, D), mix_out=(D, D))
        return dict(**mix, gate_up=(2 * self.inner(D), D), down=(D, self.inner(D)))

def compute_dtype(config: Config, device: torch.device | str) -> torch.dtype:
    """dtype of the forward pass; "auto" is bfloat16 where hardware multiplies it faster than
    float32, else float32."""
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    kind, fast = torch.device(device).type, False
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":  # many only emulate it; Intel's without AMX run it at half float32's speed
        can = getattr(torch.cpu, "get_capabilities", dict)()
        intel = "Intel" in can.get("cpu_name", "")
        fast = can.get("amx_bf16", False) or can.get("avx512_bf16", False) and not intel
    return torch.bfloat16 if fast else torch.float32

# ------------------------------------------------------------------------------------------------
# 2. Layers

def rms_norm(h: Tensor, dim: int = -1) -> Tensor:
    """Scale vectors along `dim` to root-mean-square 1, in float32; no learned weight, eps 1e-5."""
    f = h.float()
    return (f * torch.rsqrt(f.square().mean(dim, keepdim=True) + 1e-5)).to(h.dtype)

def swiglu(gate_up: Tensor, dim: int = -1) -> Tensor:
    """silu(gate) * up, where `gate_up` holds both, gate first, along `dim`."""
    gate, up = gate_up.chunk(2, dim)
    return F.silu(gate) * up

def rotate(h: Tensor) -> Tensor:
    """Rotary position embedding, theta 10000: turn queries or keys (L, B, H, d) by position."""
    L, d = len(h), h.shape[-1]
    frequency = 10000 ** (-torch.arange(0, d, 2, device=h.device).float() / d)
    angle = torch.arange(L, device=h.device).float()[:, None] * frequency  # (L, d / 2)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    first, second = h.float().chunk(2, -1)  # entry i turns with entry i + d / 2
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(h.dtype)

def truncated_normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Normal numbers cut at two sigma, widened so that what is left has exactly this std."""
    std = std / 0.8796256610342398  # std of a unit normal cut at +-2
    return nn.init.trunc_normal_(torch.empty(shape), 0, std, -2 * std, 2 * std, generator=generator)

# ------------------------------------------------------------------------------------------------
# 3. The model and its recursion

class TRM(nn.Module):
    """The Tiny Recursive Model; its weights depend on `config.seed` and nothing else."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.n, self.T = config.n, config.T  # `supervise` may lower them at first
        V, L, D, random = config.vocab_size, config.length, config.dim, torch.Generator()
        random.manual_seed(config.seed)

        def weight(out: int, fan_in: int) -> nn.Parameter:
            return nn.Parameter(truncated_normal((out, fan_in), fan_in**-0.5, random))

        shapes = config.weight_shapes()
        self.layers = nn.ModuleList(nn.ParameterDict([(k, weight(*s)) for k, s in shapes.items()])
                                    for _ in range(config.layers))
        self.token_embedding = weight(V, D)
        if config.position == "learned":
            self.position_embedding = weight(L, D)
        self.output_head = weight(V, D)
        self.halt_head = nn.Linear(D, 2)  # NOTE(paper): the code has two outputs, uses the first
        nn.init.zeros_(self.halt_head.weight)
        nn.init.constant_(self.halt_head.bias, -5)  # at first, never sure enough to stop
        # Not parameters: where y and z start, random and never learned, and the puzzle table,
        # which has an optimizer of its own (section 5).
        self.register_buffer("y_init", truncated_normal((D,), 1, random))
        self.register_buffer("z_init", truncated_normal((D,), 1, random))
        if config.num_puzzles:
            self.register_buffer("puzzle_table", torch.zeros(config.num_puzzles, D))

    @property
    def device(self) -> torch.device:
        return self.y_init.device

    def puzzle_rows(self, ids: Tensor) -> Tensor | None:
        """Puzzle embeddings (B, D) of these ids (B,); None without a table."""
        return self.puzzle_table[ids] if self.config.num_puzzles else None

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """y and z before any thought: the same two vectors at every position, (L, B, D) each."""
        dtype, shape = compute_dtype(self.config, self.device), (self.config.length, batch, -1)
        return tuple(v.to(dtype).expand(shape).clone() for v in (self.y_init, self.z_init))

    def embed(self, inputs: Tensor, puzzle_rows: Tensor | None) -> Tensor:
        """Tokens (B, cells) and puzzle embeddings (B, D) -> the question x (L, B, D)."""
        B, P, D = len(inputs), self.config.puzzle_tokens, self.config.dim
        x = F.embedding(inputs.T, self.token_embedding)  # (cells, B, D)
        if P:  # the puzzle embedding fills the first puzzle token, zeros the others
            row = x.new_zeros(B, D) if puzzle_rows is None else puzzle_rows
            x = torch.cat([row[None], x.new_zeros(P - 1, B, D), x])  # (L, B, D)
        if self.config.position == "learned":
            x = math.sqrt(0.5) * (x + self.position_embedding[:, None])
        return math.sqrt(D) * x

    def attention(self, h: Tensor, qkv: Tensor, out: Tensor) -> Tensor:
        """Bidirectional multi-head self-attention along the sequence, (L, B, D) -> (L, B, D)."""
        L, B, D = h.shape
        q, k, v = F.linear(h, qkv).view(L, B, 3 * self.config.heads, -1).chunk(3, 2)  # (L, B, H, d)
        if self.config.position == "rope":
            q, k = rotate(q), rotate(k)
        q, k, v = (t.permute(1, 2, 0, 3) for t in (q, k, v))  # (B, H, L, d)
        h = F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3)
        return F.linear(h.reshape(L, B, D), out)

    def net(self, h: Tensor, weights: list[list[Tensor]]) -> Tensor:
        """The one network, (L, B, D) -> (L, B, D). Each layer mixes along the sequence, then along
        the features; each time the input is added and the sum normalized ("post-norm")."""
        for mix_in, mix_out, gate_up, down in weights:
            if self.config.mixer == "mlp":  # the norm, too, is along the sequence
                s = h.flatten(1)  # (L, B * D)
                h = rms_norm(s + mix_out @ swiglu(mix_in @ s, 0), 0).view_as(h)
            else:
                h = rms_norm(h + self.attention(h, mix_in, mix_out))
            h = rms_norm(h + F.linear(swiglu(F.linear(h, gate_up)), down))
        return h

    def latent_recursion(self, x: Tensor, y: Tensor, z: Tensor, weights) -> tuple[Tensor, Tensor]:
        """One cycle: think n times, then answer once."""
        for _ in range(self.n):
            z = self.net(x + y + z, weights)  # improve the latent, seeing question and answer
        # The same network improves the answer. That x is missing tells it which job it has.
        y = self.net(y + z, weights)
        return y, z

    def deep_recursion(self, x: Tensor, y: Tensor, z: Tensor, weights) -> tuple[Tensor, Tensor]:
        """One supervision step: T cycles, of which only the last is remembered for the gradient."""
        with torch.no_grad():  # these bring y and z to a better place to learn from, for free
            for _ in range(self.T - 1):
                y, z = self.latent_recursion(x, y, z, weights)
        # All n + 1 network calls of the last cycle carry gradient, to the weights and through x to
        # the embeddings. HRM kept the last call or two only; see the paper, section 4.1.
        return self.latent_recursion(x, y, z, weights)

    def forward(self, inputs: Tensor, puzzle_rows: Tensor | None, y: Tensor, z: Tensor):
        """One supervision step from (y, z), both (L, B, D).

        inputs (B, cells) int64, puzzle_rows (B, D) or None. Returns the new y and z, detached, and
        in float32 logits (B, cells, vocab_size) and q (B,): q > 0 says "I believe I am right".
        """
        x = self.embed(inputs, puzzle_rows).to(y.dtype)
        # Cast once and not in each call. NOTE(paper): so the gradients of the n + 1 calls are
        # added up in bfloat16, while the authors' code casts in each call and adds in float32.
        weights = [[w.to(y.dtype) for w in layer.values()] for layer in self.layers]
        y, z = self.deep_recursion(x, y, z, weights)
        cells = y[self.config.puzzle_tokens:]  # (cells, B, D)
        logits = F.linear(cells, self.output_head.to(y.dtype)).float().transpose(0, 1)
        q = self.halt_head(y[0].float())[:, 0]  # the first position speaks for the whole answer
        # The next step starts from here, but no gradient flows back into this one: each step is
        # trained to improve whatever it is given, and memory does not grow with N_sup.
        return y.detach(), z.detach(), logits, q

# ------------------------------------------------------------------------------------------------
# 4. Loss, halting, and the slots that think

def log_stablemax(v: Tensor) -> Tensor:
    """log(s / sum(s)) over the last axis, with s = v + 1 for v >= 0 and 1 / (1 - v) below.

    Like a softmax, but growing linearly, not exponentially (Prieto et al., arXiv 2501.04697).
    """
    # Both branches of the `where` are computed, so both must be finite: without the clamp a logit
    # of exactly 1.0, common in bfloat16, would turn the gradient to NaN.
    s = torch.where(v >= 0, v + 1, 1 / (1 - v.clamp(max=0)))
    return torch.log(s / s.sum(-1, keepdim=True))

def losses(config: Config, logits: Tensor, q: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Answer loss, halting loss, and share of the labelled cells that are right: (B,) each.

    The answer loss is the mean cross-entropy over the labelled cells (labels > 0). The halting head
    learns, by binary cross-entropy, whether every labelled cell is right at this moment.
    """
    labelled = labels > 0  # (B, cells)
    count = labelled.sum(-1).clamp(min=1)
    # NOTE(paper): in float32; the authors' stablemax is in float64, which not every device has.
    log_p = log_stablemax(logits) if config.loss == "stablemax" else logits.log_softmax(-1)
    cell_loss = -log_p.gather(-1, labels[..., None])[..., 0]  # (B, cells)
    right = (logits.argmax(-1) == labels) & labelled
    exact = right.sum(-1) == labelled.sum(-1)  # a row that is all padding counts as right
    halting_loss = F.binary_cross_entropy_with_logits(q, exact.float(), reduction="none")
    return (cell_loss * labelled).sum(-1) / count, halting_loss, right.sum(-1) / count

def should_halt(config: Config, q: Tensor, steps: Tensor, random: Tensor | None = None) -> Tensor:
    """Which slots stop (B,): those that have done max_steps, and those that are sure (q > 0).

    `random` (B, 2), uniform in [0, 1), makes some go on all the same, to explore: with chance
    `halt_exploration` a slot may stop early only from a random step in 2..max_steps on.
    """
    sure = (q > 0) & (config.max_steps > 1)
    if random is not None:
        at_least = 2 + (random[:, 1] * (config.max_steps - 1)).long()
        sure &= (random[:, 0] >= config.halt_exploration) | (steps >= at_least)
    return sure | (steps >= config.max_steps)

@dataclass
class Carry:
    """What goes from one supervision step to the next: B slots, each with a puzzle of its own."""

    y: Tensor  # (L, B, D)
    z: Tensor  # (L, B, D)
    inputs: Tensor  # (B, cells)
    labels: Tensor  # (B, cells)
    ids: Tensor  # (B,)
    steps: Tensor  # (B,) supervision steps done on this puzzle
    halted: Tensor  # (B,) bool: gets a fresh puzzle at the next step

    @classmethod
    def empty(cls, model: TRM, batch: int) -> Carry:
        """Slots that have all halted: the first step will fill them."""
        ids = torch.zeros(batch, dtype=torch.long, device=model.device)
        cells = ids[:, None].repeat(1, model.config.seq_len)
        return cls(*model.start(batch), cells, cells.clone(), ids, ids.clone(), ids == 0)

    def refill(self, model: TRM, slots: Tensor, inputs, labels, ids) -> None:
        """Put fresh puzzles, with a fresh y and z, into these slots (K,)."""
        self.y[:, slots], self.z[:, slots] = model.start(len(slots))
        self.inputs[slots], self.labels[slots], self.ids[slots] = inputs, labels, ids
        self.steps[slots] = 0

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
    # NOTE(paper): as in the paper; the authors' code has adam-atan2, a CUDA extension to build.
    return torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.95),
                             weight_decay=config.weight_decay, fused=model.device.type != "mps")

def puzzle_sign_sgd(table: Tensor, ids: Tensor, grads: Tensor, lr: float, decay: float) -> None:
    """In place, touched rows only: row = row * (1 - lr * decay) - lr * sign(grad).

    table (num_puzzles, D), ids (B,), grads (B, D). Gradients of equal ids are summed first: by a
    product with the (B, B) matrix that says which are equal, without a sort or a wait.
    """
    total = (ids[:, None] == ids).to(grads.dtype) @ grads  # (B, D), the same for equal ids
    table[ids] = table[ids] * (1 - lr * decay) - lr * total.sign()

# ------------------------------------------------------------------------------------------------
# 6. Data: an endless stream whose puzzle number p is a pure function of (seed, p)

def random_rows(seed: int, positions: np.ndarray) -> Callable[[int], np.ndarray]:
    """A callable random(k) -> (B, k) uniform in [0, 1), one row for each of the positions (B,).

    Each call gives fresh numbers, and row i depends on (seed, positions[i]) alone: batches may be
    split over processes, and training stopped and resumed, with no generator's state to keep.
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
    symmetric copy of each row; `random` is made by random_rows. Raises ValueError.
    Anything else that has this class's `check` and `draw` can be trained on as well.
    """

    def __init__(self, inputs, labels, ids=None, augment: Callable | None = None):
        self.inputs, self.labels, self.augment = np.asarray(inputs), np.asarray(labels), augment
        self.ids = np.zeros(len(self.inputs), np.int64) if ids is None else np.asarray(ids)
        shape = self.inputs.shape
        if len(shape) != 2 or self.labels.shape != shape or not self.inputs.size:
            raise ValueError(f"inputs and labels must be equal tables (puzzles, cells), not "
                             f"{shape} and {self.labels.shape}")
        if self.ids.shape != shape[:1]:
            raise ValueError(f"{shape[0]} puzzles need as many ids, not {self.ids.shape}")

    def __len__(self) -> int:
        return len(self.inputs)

    def check(self, config: Config) -> None:
        """Raise ValueError, naming the row, unless these puzzles fit a model of this config."""
        cells, V, ids = self.inputs.shape[1], config.vocab_size, max(1, config.num_puzzles)
        if cells != config.seq_len:
            raise ValueError(f"the puzzles have {cells} cells, the model wants {config.seq_len}")
        for name, table, limit in (("inputs", self.inputs, V), ("labels", self.labels, V),
                                   ("ids", self.ids[:, None], ids)):
            bad = np.argwhere((table < 0) | (table >= limit))
            if table.dtype.kind not in "iu" or len(bad):
                row, column = bad[0] if len(bad) else (0, 0)
                raise ValueError(f"{name} row {row} holds {table[row, column]}; it must be an "
                                 f"integer in 0..{limit - 1}")

    def draw(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """inputs (B, cells), labels (B, cells), ids (B,) at these positions (B,) of the stream:
        one shuffled pass over the puzzles after another."""
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
    several = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if several else (0, 1)

class State:
    """All that training changes: what must be kept to go on exactly where it stopped."""

    def __init__(self, config: Config, device: torch.device | str = "cpu"):
        world = ranks()[1]
        if config.batch_size % world:
            raise ValueError(f"batch_size {config.batch_size} must be a multiple of {world} "
                             "processes")
        self.step = 0
        self.model = TRM(config).to(device)
        if world > 1:  # the same start everywhere
            for tensor in self.model.state_dict().values():
                dist.broadcast(tensor, 0)
        self.optimizer = make_optimizer(config, self.model)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)  # the averaged weights
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
        random = refill(state, puzzles, halted())  # halted slots take a fresh puzzle
        ids, puzzle_grads, metrics = supervise(state, random)  # forward, loss, backward
        halted = to_host(state.carry.halted)  # on its way while the device is busy with ...
        update(state, ids, puzzle_grads)  # ... one optimizer step
        state.step += 1
        if on_step:
            on_step(state, metrics)
    return state.ema

def to_host(flags: Tensor) -> Callable[[], np.ndarray]:
    """Start a copy; calling the result waits for the copy, and not until the device is idle."""
    copied = flags.to("cpu", non_blocking=flags.is_cuda)
    event = torch.cuda.current_stream().record_event() if flags.is_cuda else None
    return lambda: (event and event.synchronize(), copied.numpy())[1]

def refill(state: State, puzzles: Puzzles, halted: np.ndarray) -> Tensor:
    """Fresh puzzles for the slots that have halted (B,); returns the step's exploration (B, 2).

    Each slot has its own position in the stream at each step, used or not. So what it gets does
    not depend on the other slots, or on which process holds it.
    """
    config, carry, device = state.model.config, state.carry, state.model.device
    B = len(halted)
    positions = state.step * config.batch_size + ranks()[0] * B + np.arange(B)
    slots = np.flatnonzero(halted)
    if len(slots):  # nothing is drawn for the others
        fresh = slots, *puzzles.draw(positions[slots], config.seed)
        carry.refill(state.model, *(torch.from_numpy(a.astype(np.int64)).to(device) for a in fresh))
    return torch.from_numpy(random_rows(config.seed + 1, positions)(2)).float().to(device)

METRICS = ("loss", "answer_loss", "halting_loss", "count",
           "exact_accuracy", "cell_accuracy", "halt_accuracy", "steps")

def supervise(state: State, random: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """One supervision step of every slot; leaves gradients in the parameters.

    Returns ids (B,), the gradient of their puzzle embeddings (B, D) or None, and METRICS: losses
    divided by the global batch size, then sums over the `count` puzzles that have just halted.
    """
    model, carry, config = state.model, state.carry, state.model.config
    B, rows, parts = len(carry.halted), model.puzzle_rows(carry.ids), []
    rows = None if rows is None else rows.requires_grad_()
    # NOTE(paper): a deviation, off by default: cheap steps first (arXiv 2511.08653).
    shallow = state.step < config.shallow * config.steps
    model.n, model.T = (math.ceil(config.n * 2 / 3), 1) if shallow else (config.n, config.T)
    for start in range(0, B, config.micro_batch or B):  # in pieces, if memory asks for it
        s = slice(start, start + (config.micro_batch or B))
        y, z, logits, q = model(carry.inputs[s], None if rows is None else rows[s],
                                carry.y[:, s], carry.z[:, s])
        answer_loss, halting_loss, share = losses(config, logits, q, carry.labels[s])
        loss = answer_loss + config.halt_weight * halting_loss
        (loss.sum() / config.batch_size).backward()  # the global batch: gradients will be summed
        parts.append((y, z, torch.stack([loss, answer_loss, halting_loss, share, q]).detach()))
    ys, zs, figures = zip(*parts)
    *loss_figures, share, q = torch.cat(figures, 1)  # (B,) each
    carry.y, carry.z, carry.steps = torch.cat(ys, 1), torch.cat(zs, 1), carry.steps + 1
    carry.halted = should_halt(config, q, carry.steps, random)

    done = carry.halted & (carry.labels > 0).any(-1)  # rows that are all padding do not count
    exact = share == 1
    counts = torch.stack([done, exact, share, (q > 0) == exact, carry.steps]) * done
    metrics = torch.cat([torch.stack(loss_figures).sum(1) / config.batch_size, counts.sum(1)])
    return carry.ids, None if rows is None else rows.grad, metrics

def update(state: State, ids: Tensor, puzzle_grads: Tensor | None) -> None:
    """Sum the gradients of all processes; then each makes the same AdamW step, sign-SGD step on
    the puzzle table, and step of the averaged weights."""
    model, config = state.model, state.model.config
    if ranks()[1] > 1:
        for p in model.parameters():
            dist.all_reduce(p.grad)
        if puzzle_grads is not None:
            ids, puzzle_grads = gather(ids), gather(puzzle_grads)
    factor = learning_rate(config, state.step)
    state.optimizer.param_groups[0]["lr"] = config.lr * factor
    state.optimizer.step()
    state.optimizer.zero_grad()
    if puzzle_grads is not None:
        puzzle_sign_sgd(model.puzzle_table, ids, puzzle_grads, config.puzzle_lr * factor,
                        config.puzzle_weight_decay)
    torch._foreach_lerp_(list(state.ema.parameters()), list(model.parameters()), 1 - config.ema)

def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks."""
    parts = [torch.empty_like(tensor) for _ in range(ranks()[1])]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)

# ------------------------------------------------------------------------------------------------
# 8. Solving and evaluating

@torch.no_grad()
def think(model: TRM, inputs: Tensor, ids: Tensor, steps: int | None = None, halt: bool = False,
          noise: float = 0):
    """Yield (answers (B, cells), q (B,), steps used (B,)) after each supervision step.

    With `halt`, a puzzle whose q > 0 keeps its answer and costs nothing more. Without, every puzzle
    takes all steps (default: eval_steps), as in the authors' evaluation. `noise` is the standard
    deviation of what is added to y and z before each step: other ways of thinking.
    """
    y, z = model.start(len(inputs))
    active = torch.arange(len(inputs), device=inputs.device)  # puzzles still thought about
    answers, q, used = torch.zeros_like(inputs), active.float(), active.clone()
    for step in range(steps or model.config.eval_steps):
        if len(active):
            if noise:  # y and z have root-mean-square 1
                y, z = y + noise * torch.randn_like(y), z + noise * torch.randn_like(z)
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

def solve(model: TRM, inputs, ids=None, steps: int | None = None, halt: bool = False,
          batch_size: int = 256) -> Solution:
    """Answer puzzles: inputs (N, cells) tokens, ids (N,) puzzle ids. Raises ValueError."""
    puzzles = Puzzles(inputs, np.zeros_like(inputs), ids)
    parts = [[*think(model, x, i, steps, halt)][-1]
             for x, _, i in batches(model, puzzles, batch_size)]
    return Solution(*(torch.cat(p).cpu().numpy() for p in zip(*parts)))

def evaluate(model: TRM, puzzles: Puzzles, steps: int | None = None, halt: bool = False,
             batch_size: int = 256) -> dict:
    """Exact-puzzle and cell accuracy, 0..1, after `steps` supervision steps (default: eval_steps).

    Returns exact_accuracy, cell_accuracy, puzzles (their number), by_step (exact accuracy after
    each step), mean_steps. Processes share the work; each puzzle counts once. Raises ValueError.
    """
    steps = steps or model.config.eval_steps
    sums, (rank, world) = torch.zeros(steps, 3, device=model.device), ranks()
    for inputs, labels, ids in batches(model, puzzles, batch_size, rank, world):
        for step, (answers, _, used) in enumerate(think(model, inputs, ids, steps, halt)):
            share = ((answers == labels) & (labels > 0)).sum(1) / (labels > 0).sum(1)
            sums[step] += torch.stack([share == 1, share, used]).sum(1)
    if world > 1:
        dist.all_reduce(sums)
    exact, cells, used = (sums.cpu().double() / len(puzzles)).T.tolist()
    return dict(exact_accuracy=exact[-1], cell_accuracy=cells[-1], puzzles=len(puzzles),
                by_step=exact, mean_steps=used[-1])

def batches(model: TRM, puzzles: Puzzles, batch_size: int, rank: int = 0, world: int = 1):
    """Every world-th puzzle, as tensors (inputs, labels, ids) on the model's device."""
    puzzles.check(model.config)
    tables = [t[rank::world] for t in (puzzles.inputs, puzzles.labels, puzzles.ids)]
    for i in range(0, len(tables[0]), batch_size):
        part = (t[i:i + batch_size].astype(np.int64) for t in tables)
        yield [torch.from_numpy(t).to(model.device) for t in part]

# ------------------------------------------------------------------------------------------------
# 9. Saving and loading

def save(path: str | Path, model: TRM, **extra) -> None:
    """Write weights, config and `extra` (plain values, tensors). Whatever happens, the file at
    `path` is the old one or the whole new one."""
    content = dict(format="tinytrm-1", config=dataclasses.asdict(model.config),
                   weights=model.state_dict(), extra=extra)
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
    """The model of a run folder or of a file made by `save`; `extra` becomes `model.extra`.

    No code in the file is executed. Raises FileNotFoundError, ValueError.
    """
    path = Path(path) / "model.pt" if Path(path).is_dir() else Path(path)
    content = read(path)
    if content.get("format") != "tinytrm-1":
        raise ValueError(f"{path}: not made by TinyTRM; for the authors' files there is "
                         "evaluate.py --official")
    model = fill(TRM(Config(**content["config"])), content["weights"], path)
    model.extra = content["extra"]
    return model.to(device)

def read(path: Path) -> dict:
    """A dict made by torch.save, without executing code from the file; errors become one line."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a torn zip or a refused pickle raises a dozen kinds of error
        raise ValueError(f"{path}: not a readable checkpoint: truncated, or not weights") from e
    return content if isinstance(content, dict) else {}

def fill(model: TRM, weights: dict, where) -> TRM:
    """The model with these weights. Raises ValueError if they are another model's."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        problem = " ".join(str(e).split())[:300]
        raise ValueError(f"{where}: weights and config do not fit: {problem}") from None
    return model.eval()

# ------------------------------------------------------------------------------------------------
# 10. Presets: the paper's settings (L_cycles as in the code), and laptop-sized ones

_paper = dict(num_puzzles=1, puzzle_tokens=16)
_arc = dict(seq_len=900, vocab_size=12, mixer="attention", n=4, weight_decay=0.1, puzzle_lr=1e-2,
            puzzle_weight_decay=0.1)
# The same recursion; fewer supervision steps per puzzle, fewer positions, and a schedule. What each
# of these brings is measured in docs/experiments.md, on the laptop-sized puzzles.
_fast = dict(puzzle_tokens=1, width_multiple=128, max_steps=4, halt_weight=0.1, warmup=200,
             cosine=True, weight_decay=0.1, ema=0.995, loss="softmax")
_laptop = dict(puzzle_tokens=1, width_multiple=32, T=2, max_steps=2, halt_weight=0.1, warmup=50,
               cosine=True, weight_decay=0.1, ema=0.98)
PRESETS = {
    "sudoku": Config(**_paper),
    "sudoku-fast": Config(**_fast, lr=1e-3, steps=20_000, shallow=0.5),  # not run yet: needs a GPU
    "sudoku-att": Config(**_paper, mixer="attention"),
    "maze": Config(**_paper, seq_len=900, vocab_size=6, mixer="attention", n=4),
    "arc1": Config(**_arc, num_puzzles=876_401, steps=518_000),  # the data decides num_puzzles
    "arc2": Config(**_arc, num_puzzles=1_191_722, steps=723_000),
    "sudoku4": Config(**_laptop, seq_len=16, vocab_size=6, dim=32, n=2, batch_size=64, steps=300,
                      lr=5e-3),
    "sudoku6": Config(**_laptop, seq_len=36, vocab_size=8, dim=64, n=2, batch_size=48, steps=880,
                      lr=6e-3, shallow=0.6, loss="softmax"),
    "sudoku9": Config(**{**_laptop, "ema": 0.995}, dim=128, n=3, batch_size=64, steps=9000,
                      lr=3e-3, shallow=0.6, loss="softmax"),
    "maze-mini": Config(**_laptop, seq_len=36, vocab_size=6, dim=64, n=3, batch_size=96,
                        steps=1200, lr=4e-3),
    "arc-mini": Config(**{**_laptop, "T": 1}, seq_len=16, vocab_size=12, dim=64,
                       n=2, num_puzzles=200, puzzle_lr=3e-2, puzzle_weight_decay=0.1,
                       batch_size=64, steps=3000, lr=4e-3, eval_steps=2),
}
