"""TinyTRM: the Tiny Recursive Model in one file.

"Less is More: Recursive Reasoning with Tiny Networks" (Jolicoeur-Martineau, arXiv 2510.04871).
One 2-layer network thinks about a puzzle in loops: from a fixed random start it refines a latent,
then its answer, again and again. The defaults are the authors' for Sudoku, number for number.

    x       the question, embedded; fixed while thinking                (B, L, D)
    y       the current answer, as features (the authors' z_H)          (B, L, D)
    z       the latent, a scratchpad of the reasoning (their z_L)       (B, L, D)
    n, T    latent steps per cycle, cycles per supervision step         Config.n, Config.T
    N_sup   supervision steps per puzzle at most, in training           Config.N_sup

    latent_recursion(x, y, z):                             # one cycle
        n times: z = net(x + y + z)                        # think
        y = net(y + z)                                     # answer: the same net, without x
    deep_recursion(x, y, z):                               # one supervision step
        T - 1 times without gradient, then once with gradient: y, z = latent_recursion(x, y, z)
        return y.detach(), z.detach(), output_head(y), halt_head(y)
    train: B slots (rows of the batch), each with its puzzle, y and z
        slots that have halted take a fresh puzzle, and fresh y, z
        y, z, logits, q = deep_recursion(x, y, z)                        # all slots together
        loss(logits, q, labels), backward, one step of the optimizer     # "deep supervision"
        a slot halts after N_sup steps, or as soon as q > 0: "I believe that I am right"

B puzzles, L positions, D features, V tokens. A "step", unless called latent, is a supervision step;
in training, one of the optimizer goes with it. NOTE(paper): departs from the paper or its code.
"""
from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, deque, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args, get_type_hints

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

if dist.is_available():  # Now: if AdamW imports this when processes have already formed a group,
    import torch.distributed.nn  # the module keeps that group, and gloo's threads abort the exit.
# ---- 1. Configuration ----------------------------------------------------------------------------
@dataclasses.dataclass
class Config:
    """What defines a model and its training. Defaults: the authors' Sudoku. Raises ValueError."""
    # the puzzles
    vocab_size: int = 11  # V; token 0 is padding in inputs, "not labelled" in labels
    seq_len: int = 81  # cells of one puzzle
    num_puzzles: int = 1  # rows of the puzzle table, learned: one per rule; ARC: per augmented task
    puzzle_tokens: int = 16  # positions before the cells: the rule's row of the table, then zeros
    symbols: int = 1  # K; if more, the last K tokens are alike, as Sudoku's digits; see TRM.codes
    # the network
    mixer: Literal["mlp", "attention"] = "mlp"  # what mixes positions; mlp for small fixed grids
    dim: int = 512  # D, width of a feature vector; with symbols, of each one's: K D at a position
    layers: int = 2  # of the one network
    heads: int = 8  # of attention
    columns: int = 0  # of the grid, for attention: positions by row and column; 0: in one row
    expansion: float = 4.0  # a SwiGLU (see Layer) is inside 2/3 of this times as wide as outside
    width_multiple: int = 256  # inner widths are rounded up to a multiple of this, see `inner`
    # the recursion
    n: int = 6  # latent steps per cycle (the authors' L_cycles)
    T: int = 3  # cycles per supervision step (H_cycles); only the last carries gradient
    N_sup: int = 16  # supervision steps per puzzle at most, in training
    brief: int = 0  # for so many steps of training at first, 2 per puzzle, whatever N_sup and q say
    halting: Literal["sure", "chance"] = "sure"  # when a slot stops in training; see should_halt
    halt_exploration: float = 0.1  # if sure: chance, at each step, of a random minimum of steps
    halt_weight: float = 0.5  # weight of the halting loss
    loss: Literal["stablemax", "softmax"] = "stablemax"  # from logits to probabilities, see losses
    # training
    batch_size: int = 768  # slots that think at the same time, over all processes
    micro_batch: int = 0  # slots per backward pass and process, if memory asks for it; 0 = all
    steps: int = 65104  # of every slot, so of the optimizer; from the authors' code (paper: 78125)
    lr: float = 1e-4  # AdamW, betas (0.9, 0.95)
    warmup: int = 2000  # steps of linear warm-up
    cosine: bool = False  # after the warm-up: False = constant, True = cosine to zero
    weight_decay: float = 1.0  # on every parameter
    puzzle_lr: float = 1e-4  # sign-SGD on the puzzle table
    puzzle_weight_decay: float = 1.0  # decoupled, on the rows that a step touches
    ema: float = 0.999  # decay of the exponential moving average of the weights, which is evaluated
    eval_steps: int = 16  # supervision steps when solving; may be more than N_sup
    keep: Literal["last", "surest"] = "last"  # which step's answer; surest: that of the highest q
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the forward pass; auto: the faster
    seed: int = 0  # of weights, data order, augmentation and exploration

    def __post_init__(self):
        for name, kind in get_type_hints(Config).items():
            value, choices = getattr(self, name), get_args(kind)  # those of a Literal
            if isinstance(value, np.generic):
                setattr(self, name, value := value.item())  # a plain number, for `save`
            zero, V = "puzzle_tokens micro_batch warmup seed columns brief".split(), self.vocab_size
            least = (kind is int and name not in zero) + (name == "vocab_size")
            most = dict(halt_exploration=1, ema=1).get(name, 2**60 if name != "symbols" else V - 1)
            if not (value in choices or not choices and isinstance(value, (int, kind))
                    and least <= value <= most):
                want = choices or f"{kind.__name__} in {least}..{most}"
                raise ValueError(f"{name} must be {want}, not {value!r}")
        if self.mixer == "attention" and self.dim % ((4 if self.columns else 2) * self.heads):
            raise ValueError(f"dim {self.dim} is no multiple of 2 (4 with columns) * {self.heads}")
        self.length = self.puzzle_tokens + self.seq_len  # L, the positions that the network sees
    @classmethod
    def for_data(cls, puzzles: Puzzles, **fields) -> Config:
        """For data of one's own, a few minutes on two CPU cores; `fields` override. Why these, and
        what to change when: docs/your_data.md. Raises ValueError where 0 seems to be a value."""
        both = np.concatenate([puzzles.inputs, puzzles.labels])
        before, after = (np.maximum.accumulate(t != 0, 1) for t in (both, both[:, ::-1]))
        if ((both == 0) & before & after[:, ::-1]).any() and "vocab_size" not in fields:
            raise ValueError("0 is padding but between tokens: add 1 to all, or give vocab_size")
        L, W = both.shape[1], math.isqrt(both.shape[1])  # a square number of cells is a grid
        return cls(**dict(vocab_size=int(both.max()) + 1, num_puzzles=int(puzzles.ids.max()) + 1,
            seq_len=L, puzzle_tokens=1, mixer="attention", columns=W * (W * W == L), heads=2, n=1,
            T=1, dim=64, width_multiple=32, batch_size=max(32, min(64, 2048 // L)), cosine=True,
            steps=6500 if puzzles.ids.any() else 4000, lr=2e-3, weight_decay=0.1, loss="softmax",
            warmup=min(1000, fields.get("steps", 4000) // 4), halting="chance", keep="surest",
            halt_weight=0.1, ema=0.99, puzzle_lr=0.03, puzzle_weight_decay=0.1) | fields)
    def inner(self, width: int) -> int:
        """Inner width of a SwiGLU over vectors of this width."""
        return math.ceil(round(self.expansion * width * 2 / 3) / (m := self.width_multiple)) * m
# ---- 2. The model and its recursion --------------------------------------------------------------
class TRM(nn.Module):
    """The Tiny Recursive Model. Its first weights depend on the config alone, seed included."""
    def __init__(self, config: Config):
        super().__init__()
        self.config, V, D, K = config, config.vocab_size, config.dim, config.symbols
        generator = torch.Generator().manual_seed(config.seed)
        matrix = lambda out, m: nn.Parameter(truncated_normal(generator, (m * D)**-0.5, out, D))
        self.layers = nn.ModuleList(Layer(config, generator) for _ in range(config.layers))
        # NOTE(paper): K > 1 symbols have D features each at a position, and share all weights. The
        # token first + k is the row "this" (first) to symbol k, "another" (first + 1) to the rest.
        self.K, first, t = K, V - K, torch.arange(V)[:, None]
        codes = torch.where(t < first, t, first + (t - first != torch.arange(K)).long())
        self.codes = nn.Buffer(codes, persistent=False)  # (V, K), rows of the next two; K = 1: t
        self.token_embedding, self.output_weight = (matrix(min(V, first + 2), m) for m in (1, K))
        # Two outputs, as the authors have; the second is not used. At first never sure to be right:
        self.q_weight, self.q_bias = map(nn.Parameter, (torch.zeros(2, D), torch.full((2,), -5.0)))
        # Not nn.Parameters: the starts of y and z, random and never learned; and the puzzle table,
        # for AdamW would also move rows that a step does not touch. Sign-SGD trains it (section 5).
        self.y_init, self.z_init = (nn.Buffer(truncated_normal(generator, 1, D)) for _ in "yz")
        self.puzzle_table = nn.Buffer(torch.zeros(config.num_puzzles, D))

    def net(self, h: Tensor) -> Tensor:
        """The one network: (B, L, D) -> (B, L, D). With symbols read K D for D, here and below."""
        h = h.unflatten(-1, (-1, self.config.dim)).transpose(0, 1).contiguous()  # (L, B, K, D)
        for layer in self.layers:  # sequence first: so mixing along the sequence is a plain product
            h = layer(h)
        return h.transpose(0, 1).flatten(2).contiguous()

    def latent_recursion(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """One cycle: think n times, then answer once."""
        for _ in range(self.config.n):  # TRY: n = 1
            z = self.net(x + y + z)  # improve the latent, seeing question and answer
        # The same net improves the answer. Whether x is in the sum tells it which job it has, the
        # paper argues; notebook 2 tries x in both.
        y = self.net(y + z)
        return y, z

    def deep_recursion(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
        """One supervision step: T cycles, of which only the last is remembered for the gradient.
        Returns the new y and z (B, L, D), detached, and in float32 logits (B, cells, V), q (B,)."""
        with torch.no_grad():  # brings y, z to a better place to learn from, storing nothing
            for _ in range(self.config.T - 1):  # TRY: T = 1
                y, z = self.latent_recursion(x, y, z)
        # All n + 1 calls of the last cycle carry gradient (7 of 21, if n = 6 and T = 3), to weights
        # and embeddings. HRM, which TRM simplifies, kept two calls only (paper, section 4.1).
        y, z = self.latent_recursion(x, y, z)
        # The next step starts from this y and z, but no gradient flows back into this one: each
        # step learns to improve whatever it is given, and memory does not grow with N_sup.
        return y.detach(), z.detach(), self.output_head(y), self.halt_head(y)

    def forward(self, inputs: Tensor, puzzle_rows: Tensor, y: Tensor, z: Tensor):
        """One supervision step on inputs (B, cells) and rows of the puzzle table (B, D)."""
        return self.deep_recursion(self.embed(inputs, puzzle_rows).to(y.dtype), y, z)
    def embed(self, inputs: Tensor, puzzle_rows: Tensor) -> Tensor:
        """Tokens (B, cells), puzzle rows (B, D) -> the question x (B, L, D), scaled as y and z."""
        B, P, D = len(inputs), self.config.puzzle_tokens, self.config.dim
        # The row fills the first puzzle token. The zeros behind it are blank space to think in.
        front = F.pad(puzzle_rows, (0, (P - 1) * D)).view(B, P, D)  # P = 0 cuts the row away
        cells = F.embedding(self.codes[inputs], self.token_embedding).flatten(2)  # (B, cells, K D)
        return math.sqrt(D) * torch.cat([front.repeat(1, 1, self.K), cells], 1)
    def start(self, batch: int) -> tuple[Tensor, ...]:
        """y and z before any thought: the same two vectors at every position, (B, L, D) each."""
        dtype, L = compute_dtype(self.config, self.y_init.device), self.config.length
        return tuple(v.to(dtype).repeat(batch, L, self.K) for v in (self.y_init, self.z_init))
    def output_head(self, y: Tensor) -> Tensor:
        """Logits of the cells, (B, cells, V)."""
        weight = self.output_weight[self.codes].flatten(1).to(y.dtype)  # (V, K D)
        return F.linear(y[:, self.config.puzzle_tokens:], weight).float()
    def halt_head(self, y: Tensor) -> Tensor:
        """q (B,), the logit of "my answer is right": the first position speaks for all."""
        return F.linear(y[:, 0].float(), self.q_weight.repeat(1, self.K) / self.K, self.q_bias).T[0]
# ---- 3. One layer of the network -----------------------------------------------------------------
class Layer(nn.Module):
    """Mix along the sequence, by a SwiGLU or by attention, then along the features, by a SwiGLU:
    down(silu(gate(h)) * up(h)). Each time add the input, then normalize: "post-norm". No biases."""
    def __init__(self, config: Config, generator: torch.Generator):
        super().__init__()
        L, D, self.config = config.length, config.dim, config
        matrix = lambda out, k: nn.Parameter(truncated_normal(generator, k**-0.5, out, k))
        if config.mixer == "mlp":  # along the sequence: gate and up in one, then down
            self.mix_in, self.mix_out = matrix(2 * config.inner(L), L), matrix(L, config.inner(L))
        else:  # query, key and value of all heads in one, then the output
            self.mix_in, self.mix_out = matrix(3 * D, D), matrix(D, D)
        self.gate_up, self.down = matrix(2 * config.inner(D), D), matrix(D, config.inner(D))
        self.meet = matrix(D, D) if config.symbols > 1 else None
    def forward(self, h: Tensor) -> Tensor:
        """(L, B, K, D) -> the same, in the dtype of h; K is 1 without symbols."""
        if self.config.mixer == "mlp":
            s = h.flatten(1)  # (L, B * K * D): features and puzzles side by side, all mixed alike
            gate, up = (w @ s for w in self.mix_in.to(s.dtype).chunk(2))
            s = torch.addmm(s, self.mix_out.to(s.dtype), F.silu(gate) * up)  # s + mix_out @ ...
            h = rms_norm(s, dim=0).view_as(h)  # this norm is along the sequence, too
        else:
            h = rms_norm(h + self.attention(h.flatten(1, 2)).view_as(h))  # each symbol by itself
        if self.meet is not None:  # NOTE(paper): where the symbols meet, each sees the mean of all
            h = rms_norm(h + F.linear(h.mean(2, keepdim=True), self.meet.to(h.dtype)))
        gate, up = (F.linear(h, w) for w in self.gate_up.to(h.dtype).chunk(2))
        return rms_norm(h + F.linear(F.silu(gate) * up, self.down.to(h.dtype)))
    def attention(self, h: Tensor) -> Tensor:
        """Self-attention, every position sees all: (L, B, D) -> (L, B, D)."""
        (L, B, D), c = h.shape, self.config
        qkv = F.linear(h, self.mix_in.to(h.dtype)).view(L, B, 3 * c.heads, -1)
        qk, v = qkv.split([2 * c.heads, c.heads], dim=2)  # rotary turns query and key, not value
        q, k, v = (t.permute(1, 2, 0, 3) for t in (*rotary(qk, c).chunk(2, 2), v))  # B, heads, L, d
        # Both compute the same; in bfloat16 on a CPU the backward of the fused one is slow.
        plain = q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu"
        h = ((q @ k.mT * q.shape[-1]**-0.5).softmax(-1) @ v if plain
             else F.scaled_dot_product_attention(q, k, v))
        return F.linear(h.permute(2, 0, 1, 3).reshape(L, B, D), self.mix_out.to(h.dtype))

def rms_norm(h: Tensor, dim: int = -1) -> Tensor:
    """Scale vectors along `dim` to root-mean-square 1, in float32; no learned weight, eps 1e-5."""
    f = h.float()
    return (f * torch.rsqrt(f.square().mean(dim, keepdim=True) + 1e-5)).to(h.dtype)

def rotary(h: Tensor, config: Config) -> Tensor:
    """Rotary position embedding, theta 10000: turn queries or keys (L, B, heads, d) by position."""
    at, pair = (torch.arange(k, device=h.device) for k in (len(h), h.shape[-1] // 2))
    at, half = at[:, None], len(pair) // 2
    if config.columns:  # NOTE(paper): half of the pairs turn by the row, half by the column
        at = at - config.puzzle_tokens  # cell 0 is at (0, 0), the puzzle tokens in rows above
        at, pair = torch.where(pair < half, at // config.columns, at % config.columns), pair % half
    angle = (at * 10000 ** (-2 / h.shape[-1] * pair))[:, None, None]  # (L, 1, 1, d / 2)
    cos, sin, (a, b) = angle.cos(), angle.sin(), h.float().chunk(2, -1)  # pairs: i, i + d / 2
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(h.dtype)

def compute_dtype(config: Config, device: torch.device) -> torch.dtype:
    """dtype of the forward pass; "auto" is bfloat16 where the hardware is faster with it. Many CPUs
    only emulate it; Intel's with AVX-512 but without AMX are slower than in float32."""
    can: dict = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 cannot say
    cpu = can.get("amx_bf16") or (can.get("avx512_bf16") and "Intel" not in can["cpu_name"])
    cuda = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    auto = "bfloat16" if (cpu if device.type == "cpu" else cuda) else "float32"
    return getattr(torch, auto if config.dtype == "auto" else config.dtype)

def truncated_normal(generator: torch.Generator, std: float, *shape: int) -> Tensor:
    """Normal numbers cut at two sigma, widened so that what is left has exactly this std."""
    std = std / 0.8796256610342398  # std of a unit normal cut at +-2
    return nn.init.trunc_normal_(torch.empty(shape), 0, std, -2 * std, 2 * std, generator=generator)
# ---- 4. Loss, halting, and the slots that think -------------------------------------------------
def log_stablemax(v: Tensor) -> Tensor:
    """log(s / sum(s)) over the last axis, s = v + 1 for v >= 0, 1 / (1 - v) below: no exp, which
    would round a sure answer to p = 1, without gradient (Prieto et al., arXiv 2501.04697)."""
    # Without the clamp a logit of exactly 1, common in bfloat16, makes the gradient 0 * inf = NaN.
    s = torch.where(v >= 0, v + 1, 1 / (1 - v.clamp(max=0)))
    return torch.log(s / s.sum(-1, keepdim=True))

def losses(config: Config, logits: Tensor, q: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Answer loss, halting loss, share of labelled cells right, whether all are right: (B,) each.
    The answer loss is the mean cross-entropy over the labelled cells (labels > 0). By the halting
    loss q learns whether all of them are right just now; through y it trains the network, too."""
    labelled, right = labels > 0, logits.argmax(-1) == labels  # (B, cells)
    # NOTE(paper): in float32, theirs in float64, which not every device has; laptops take softmax.
    log_p = log_stablemax(logits) if config.loss == "stablemax" else logits.log_softmax(-1)
    cell_loss = -log_p.gather(-1, labels[..., None])[..., 0] * labelled
    count = labelled.sum(-1).clamp(min=1)
    exact = (right | ~labelled).all(-1)  # rows without any label count as right: the authors' rule
    halting_loss = F.binary_cross_entropy_with_logits(q, exact.float(), reduction="none")
    return cell_loss.sum(-1) / count, halting_loss, (right & labelled).sum(-1) / count, exact

def should_halt(config: Config, q: Tensor, steps: Tensor, explore: Tensor) -> Tensor:
    """Which slots stop (B,), for fresh puzzles teach more than solved ones: at N_sup steps, or once
    sure (q > 0). But at each step, with chance halt_exploration, being sure counts only from a
    random step in 2..N_sup on: later thoughts are trained, too. `explore` (B, 2): in [0, 1)."""
    at_least = 2 + (explore[:, 1] * (config.N_sup - 1)).long()
    halts = (q > 0) & ((explore[:, 0] >= config.halt_exploration) | (steps >= at_least))
    if config.halting == "chance":  # NOTE(paper): blind to q; 1 puzzle in s gets as far as step s
        halts = explore[:, 0] * (steps + 1) < 1
    return halts | (steps >= config.N_sup)
# ---- 5. Learning rates, and sign-SGD for the puzzle table ---------------------------------------
def lr_factor(config: Config, step: int) -> float:
    """Factor of the learning rates: warm-up, then 1 or a cosine to 0 (NOTE(paper): they keep 1)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    done = min(1.0, max(0.0, (step - config.warmup) / max(1, config.steps - config.warmup)))
    return warm * (0.5 + 0.5 * math.cos(math.pi * done) if config.cosine else 1.0)

def puzzle_sign_sgd(table: Tensor, ids: Tensor, grads: Tensor, lr: float, decay: float) -> None:
    """In place, touched rows only: row = row * (1 - lr * decay) - lr * sign(grad). Gradients (B, D)
    of equal ids (B,) are summed first, without the sort and the wait of torch.unique."""
    total = (ids[:, None] == ids).to(grads.dtype) @ grads  # (B, B) @ (B, D), alike for equal ids
    table[ids] = table[ids] * (1 - lr * decay) - lr * total.sign()
# ---- 6. Data -------------------------------------------------------------------------------------
class Puzzles:
    """Questions and answers: inputs and labels are integer arrays (N, cells), where 0 means padding
    in inputs and "not labelled" in labels; ids (N,) are rows of the puzzle table, default 0.
    augment(inputs (B, cells), labels (B, cells), random) -> (inputs, labels) returns a random
    symmetric copy of each; random(k) gives (B, k) fresh uniform numbers in [0, 1). Whatever has
    this class's `check` and `draw` can be trained on. Raises ValueError."""
    def __init__(self, inputs, labels, ids=None, augment: Callable | None = None):
        self.inputs, self.labels, self.augment = np.asarray(inputs), np.asarray(labels), augment
        self.ids = np.zeros(len(self.inputs), int) if ids is None else np.asarray(ids)
        shapes = self.inputs.shape, self.labels.shape, self.ids.shape
        if len(shapes[0]) != 2 or shapes[1:] != (shapes[0], shapes[0][:1]) or 0 in shapes[0]:
            raise ValueError(f"inputs, labels: (N, cells), padded with 0; ids: (N,); not {shapes}")
    __len__ = lambda self: len(self.inputs)
    def check(self, config: Config) -> None:
        """Raise ValueError, naming the row, unless these puzzles fit a model of this config."""
        V, cells = config.vocab_size, self.inputs.shape[1]
        if cells != config.seq_len:
            raise ValueError(f"the puzzles have {cells} cells, the model wants {config.seq_len}")
        for name, most in (("inputs", V - 1), ("labels", V - 1), ("ids", config.num_puzzles - 1)):
            t = getattr(self, name)
            for at in np.argwhere((t < 0) | (t > most) | (t.dtype.kind not in "iu"))[:1]:
                raise ValueError(f"{name} row {at[0]}: {t[*at]} is no integer in 0..{most}")
        for row in np.flatnonzero((self.labels == 0).all(1))[:1]:
            raise ValueError(f"labels row {row} is all 0, which means that no cell is labelled")
    def draw(self, positions: np.ndarray, seed: int, random: Callable) -> tuple:
        """inputs (B, cells), labels (B, cells), ids (B,) for B slots, by `random` as for augment;
        positions (B,), step * batch_size + slot, and seed: for other classes, with an order."""
        # NOTE(paper): with replacement; the authors shuffle, and waste the rows of busy slots.
        rows = (random(1)[:, 0] * len(self)).astype(int)
        inputs, labels = self.inputs[rows], self.labels[rows]
        if self.augment:  # NOTE(paper): always a new copy; the authors prepare 1000 of each puzzle
            inputs, labels = self.augment(inputs, labels, random)
        return inputs, labels, self.ids[rows]
# ---- 7. Training: deep supervision over slots that never wait for each other ---------------------
def train(config: Config, puzzles: Puzzles, device: torch.device | str = "cpu",
          state: State | None = None, on_step: Callable | Literal[False] | None = None) -> TRM:
    """Train; return the model with the averaged weights. state: where to go on. After each step
    on_step(state, metrics) is called with the figures of `supervise`; the default shows a line of
    progress, False nothing. Raises ValueError."""
    puzzles.check(config)
    state = state or State(config, device)
    while state.step < config.steps:
        explore = refill(state, puzzles)  # slots that have halted take a fresh puzzle
        puzzle_grads, metrics = supervise(state, explore)  # forward, loss, backward
        update(state, puzzle_grads)  # one step of the optimizers
        state.step += 1
        if on_step is not False:
            (on_step or progress)(state, metrics)
    return state.ema

def progress(state: State, metrics: dict) -> None:
    """Say how training goes, in a line written over; "right": of the slots that now halt."""
    done, steps = state.step, state.model.config.steps
    if (done % 20 == 0 or done == steps) and ranks()[0] == 0:
        right = metrics["exact_accuracy"] / metrics["count"].clamp(min=1)
        left, end = (time.time() - state.begun) / done * (steps - done), "\n" * (done == steps)
        print(f"\rstep {done}/{steps}, {right:.0%} right, {left:.0f} s left  ", end=end, flush=True)

class State:
    """All that training changes: what must be kept to go on exactly where it stopped."""
    def __init__(self, config: Config, device: torch.device | str = "cpu"):
        B, rest = divmod(config.batch_size, ranks()[1])  # slots of this process
        if rest:
            raise ValueError(f"batch_size must be a multiple of {ranks()[1]} processes")
        self.step, self.begun, self.model = 0, time.time(), TRM(config).to(device)
        self.ema = TRM(config).to(device).requires_grad_(False)  # averaged: steadier
        self.ema.puzzle_table = self.model.puzzle_table  # not averaged: one table serves both
        # NOTE(paper): AdamW as in the paper; the authors' code has adam-atan2, a CUDA extension.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95),
                                           weight_decay=config.weight_decay, fused=True)
        cells = torch.zeros(B, config.seq_len, dtype=torch.long, device=device)
        (y, z), (ids, steps) = self.model.start(B), cells.new_zeros(2, B)
        # The slots, each with a puzzle of its own: y and z (B, L, D), inputs and labels (B, cells),
        # and (B,) each: its row of the puzzle table, the supervision steps done on it, and (on the
        # CPU) whether it has halted, so that the slot takes a fresh one at the next step.
        self.carry = SimpleNamespace(y=y, z=z, inputs=cells, labels=cells.clone(), ids=ids,
                                     steps=steps, halted=torch.ones(B, dtype=torch.bool))

def refill(state: State, puzzles: Puzzles) -> Tensor:
    """Fresh puzzles for the slots that have halted; returns the step's exploration (B, 2). Random
    numbers are drawn for all slots of all processes, and cut: what a slot gets depends on seed,
    step and slot alone, so 1, 2 or 4 processes, interrupted or not, train the same model."""
    config, carry, device = state.model.config, state.carry, state.carry.ids.device
    slots = np.arange(len(carry.ids)) + len(carry.ids) * ranks()[0]  # their numbers among all
    rng = np.random.default_rng((config.seed, state.step))
    explore = rng.random((config.batch_size, 2))[slots]
    if len(free := slots[carry.halted.numpy()]):
        fresh = puzzles.draw(state.step * config.batch_size + free, config.seed,
                             lambda k: rng.random((config.batch_size, k))[free])
        Puzzles(*fresh).check(config)  # what `augment` has returned, too
        at, *sent = (torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(device)
                     for a in (free - slots[0], *fresh))  # last, for this waits for a GPU
        carry.y[at], carry.z[at], carry.steps[at] = *state.model.start(len(at)), at * 0
        carry.inputs[at], carry.labels[at], carry.ids[at] = sent
    return torch.from_numpy(explore).float().to(device)

def supervise(state: State, explore: Tensor) -> tuple[Tensor, dict]:
    """One step of every slot; leaves gradients in the parameters. Returns that of the puzzle rows,
    (B, D), and this process's metrics: losses divided by the global batch size, and sums for the
    puzzles that have just halted, to be divided by `count`."""
    model, carry, config, sums = state.model, state.carry, state.model.config, Counter[str]()
    rows = model.puzzle_table[carry.ids].requires_grad_()
    size = config.micro_batch or len(rows)
    for s in (slice(i, i + size) for i in range(0, len(rows), size)):  # once, if memory allows
        y, z, logits, q = model(carry.inputs[s], rows[s], carry.y[s], carry.z[s])
        answer_loss, halting_loss, share, exact = losses(config, logits, q, carry.labels[s])
        loss = answer_loss + config.halt_weight * halting_loss
        carry.steps[s] += 1
        # NOTE(paper): at first, two steps are enough to learn from; late ones are trained later.
        early = state.step < config.brief
        halted = carry.steps[s] > 1 if early else should_halt(config, q, carry.steps[s], explore[s])
        carry.halted[s] = halted.cpu()  # waits for a GPU's forward pass; after backward, for both
        (loss.sum() / config.batch_size).backward()  # the global batch: processes will be summed
        carry.y[s], carry.z[s] = y, z
        part = dict(loss=loss, answer_loss=answer_loss, halting_loss=halting_loss, count=halted,
                    exact_accuracy=halted & exact, cell_accuracy=halted * share,
                    halt_accuracy=halted & ((q > 0) == exact), steps=halted * carry.steps[s])
        sums.update({name: value.detach().sum() for name, value in part.items()})  # adds
    return rows.grad, {k: v / config.batch_size if "loss" in k else v for k, v in sums.items()}

@torch.no_grad()
def update(state: State, puzzle_grads: Tensor) -> None:
    """Sum the gradients of all processes, as one message (one for each parameter took two CPU cores
    a quarter longer); then each makes the same steps of AdamW, puzzle table, averaged weights."""
    model, config, ids = state.model, state.model.config, state.carry.ids
    if (N := ranks()[1]) > 1:
        dist.all_reduce(flat := nn.utils.parameters_to_vector(p.grad for p in model.parameters()))
        nn.utils.vector_to_parameters(flat, (p.grad for p in model.parameters()))
        gather = lambda t: dist.all_gather(a := [t.clone() for _ in range(N)], t) or torch.cat(a)
        ids, puzzle_grads = gather(ids), gather(puzzle_grads)  # all_gather itself returns None
    state.optimizer.param_groups[0]["lr"] = config.lr * (factor := lr_factor(config, state.step))
    state.optimizer.step()
    state.optimizer.zero_grad()
    puzzle_sign_sgd(model.puzzle_table, ids, puzzle_grads, config.puzzle_lr * factor,
                    config.puzzle_weight_decay)
    for average, now in zip(state.ema.parameters(), model.parameters()):
        average.lerp_(now, 1 - config.ema)

def ranks() -> tuple[int, int]:
    """(number of this process, number of processes): (0, 1) unless torchrun started several."""
    alone = not dist.is_available() or not dist.is_initialized()
    return (0, 1) if alone else (dist.get_rank(), dist.get_world_size())
# ---- 8. Solving and evaluating -------------------------------------------------------------------
@torch.no_grad()
def think(model: TRM, inputs: Tensor, ids: Tensor, steps: int | None = None,
          halt: bool = False) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (answers (B, cells), q (B,), steps used (B,)) after each supervision step. With `halt`,
    a puzzle whose q > 0 keeps its answer and costs nothing more. Without, every puzzle takes all
    steps (default: eval_steps), as in the authors' evaluation."""
    inputs, ids = (t.to(model.y_init.device, torch.long) for t in (inputs, ids))
    (y, z), active = model.start(len(inputs)), torch.arange(len(inputs), device=inputs.device)
    answers, q, used = torch.zeros_like(inputs), active - math.inf, active.clone()
    for step in range(1, 1 + (steps or model.config.eval_steps)):
        if len(active):  # the puzzles still thought about
            y, z, logits, now = model(inputs[active], model.puzzle_table[ids[active]], y, z)
            new = (now > q[active]) | (model.config.keep == "last")  # NOTE(paper): or "surest"
            answers[active] = torch.where(new[:, None], logits.argmax(-1), answers[active])
            q[active], used[active] = torch.where(new, now, q[active]), step
            if halt:
                y, z, active = y[now <= 0], z[now <= 0], active[now <= 0]
        yield answers.clone(), q.clone(), used.clone()

Solution = namedtuple("Solution", "answers q steps")  # the last that `think` yields, in numpy
def solve(model: TRM, inputs, ids=None, steps: int | None = None, halt: bool = False,
          batch_size: int = 256) -> Solution:
    """Answer puzzles: inputs (N, cells) tokens, ids (N,) puzzle ids. Raises ValueError."""
    puzzles = Puzzles(inputs, np.ones_like(inputs), ids)  # labels that nobody looks at
    ends = [deque(t, 1)[0] for _, t in batches(model, puzzles, steps, halt, batch_size)]
    return Solution(*(torch.cat(t).cpu().numpy() for t in zip(*ends)))

def evaluate(model: TRM, puzzles: Puzzles, steps: int | None = None, halt: bool = False,
             batch_size: int = 256) -> dict:
    """exact_accuracy (whole puzzles) and cell_accuracy, 0..1, after `steps` steps (default:
    eval_steps), by_step (exact accuracy after each), mean_steps, puzzles. Raises ValueError."""
    sums = torch.zeros(max(1, steps or model.config.eval_steps), 3, device=model.y_init.device)
    for labels, thoughts in batches(model, puzzles, steps, halt, batch_size):
        for step, (answers, _, used) in enumerate(thoughts):
            share = ((answers == labels) & (labels > 0)).sum(1) / (labels > 0).sum(1)
            sums[step] += torch.stack([share == 1, share, used]).sum(1)
    exact, cells, used = (sums.cpu().double() / len(puzzles)).T.tolist()
    return dict(exact_accuracy=exact[-1], cell_accuracy=cells[-1], puzzles=len(puzzles),
                by_step=exact, mean_steps=used[-1])

def batches(model: TRM, puzzles: Puzzles, steps: int | None, halt: bool, size: int) -> Iterator:
    """Labels (B, cells), and all that `think` yields, of all puzzles, `size` at a time."""
    puzzles.check(model.config)
    if size < 1 or (steps is not None and steps < 1):
        raise ValueError(f"steps and batch_size must be at least 1, not {steps} and {size}")
    for i in range(0, len(puzzles), size):
        x, labels, ids = (torch.from_numpy(t[i:i + size].astype(np.int64)).to(model.y_init.device)
                          for t in (puzzles.inputs, puzzles.labels, puzzles.ids))
        yield labels, think(model, x, ids, steps, halt)
# ---- 9. Files ------------------------------------------------------------------------------------
def save(path: str | Path, model: TRM, **extra) -> None:
    """Write weights, config and `extra` (plain values, tensors). Raises what torch does."""
    extra = {k: v.item() if isinstance(v, np.generic) else v for k, v in extra.items()}
    torch.save(dict(format="tinytrm-2", config=dataclasses.asdict(model.config), extra=extra,
                    weights=model.state_dict()), f"{path}.tmp")
    torch.load(f"{path}.tmp", "cpu", weights_only=True, mmap=True)  # refused here, not by `load`
    Path(f"{path}.tmp").replace(path)  # at one go: there is the old file or the whole new one

def load(path: str | Path, device: torch.device | str = "cpu") -> TRM:
    """The model of a run folder or of a file made by `save`; `extra` becomes `model.extra`. No code
    in the file is executed. Raises ValueError."""
    path = Path(path) / "model.pt" if Path(path).is_dir() else Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != "tinytrm-2":
            raise ValueError("made by another version of TinyTRM; train it anew")
        model = TRM(Config(**content["config"]))
        model.load_state_dict(content["weights"])
        model.extra = content["extra"]
    except Exception as e:  # a torn zip, a refused pickle, foreign content: a dozen kinds of error
        raise ValueError(f"{path}: not a usable model: {' '.join(str(e).split())[:200]}") from None
    return model.to(device).eval()
