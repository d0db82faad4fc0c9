"""TinyTRM: the Tiny Recursive Model in one file.

"Less is More: Recursive Reasoning with Tiny Networks" (Jolicoeur-Martineau, arXiv 2510.04871).
One 2-layer network thinks about a puzzle in loops: it starts from a guess and refines a latent,
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

B puzzles, L positions, D features, V tokens. A "step" is a supervision step, unless called latent;
in training the optimizer steps once after each. NOTE(paper): here we depart from paper or authors.
"""
import dataclasses
import math
import os
from collections import Counter, namedtuple
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


# ---- 1. Configuration ----------------------------------------------------------------------------
@dataclasses.dataclass
class Config:
    """What defines a model and its training. Defaults: the authors' Sudoku. Raises ValueError."""
    vocab_size: int = 11  # V; token 0 is padding in inputs, and "not labelled" in labels
    seq_len: int = 81  # cells of one puzzle
    num_puzzle_ids: int = 1  # rules; each has a learned vector in the puzzle table; ARC has many
    puzzle_tokens: int = 16  # positions before the cells; the first has the vector of the rule

    mixer: str = "mlp"  # what mixes positions: "mlp", for small fixed grids, or "attention"
    dim: int = 512  # D, the width of a feature vector
    layers: int = 2  # of the one network
    heads: int = 8  # of attention
    expansion: float = 4.0  # sets the inner widths of the network, see `inner_width`
    width_multiple: int = 256  # inner widths are rounded up to a multiple of this

    n: int = 6  # latent steps per cycle (the authors' L_cycles)
    T: int = 3  # cycles per supervision step (H_cycles); only the last carries gradient
    N_sup: int = 16  # supervision steps per puzzle at most, in training
    halt_exploration: float = 0.1  # chance that a sure slot has to go on, see `TRM.halts`
    halt_weight: float = 0.5  # weight of the halting loss
    loss: str = "stablemax"  # how logits become probabilities: "stablemax" or "softmax"

    batch_size: int = 768  # slots that think at the same time, over all processes
    micro_batch: int = 0  # slots per backward pass and process, to save memory; 0: all at once
    steps: int = 65104  # of the optimizer; the number is from the authors' code (paper: 78125)
    lr: float = 1e-4  # of AdamW, whose betas are (0.9, 0.95)
    warmup: int = 2000  # steps of linear warm-up
    cosine: bool = False  # after the warm-up: False keeps the rate, True lowers it to zero
    weight_decay: float = 1.0  # of AdamW, on every parameter
    puzzle_lr: float = 1e-4  # of sign-SGD, which trains the puzzle table
    puzzle_weight_decay: float = 1.0  # of sign-SGD, on the rows that a step uses
    ema: float = 0.999  # decay of the exponential moving average of the weights, which is evaluated
    eval_steps: int = 16  # supervision steps when solving; may be more than N_sup
    dtype: str = "auto"  # of the forward pass: "float32", "bfloat16", or "auto", the faster one
    seed: int = 0  # of weights, data order, augmentation and exploration

    def __post_init__(self):
        if self.loss not in ("stablemax", "softmax"):
            raise ValueError(f"loss must be stablemax or softmax, not {self.loss!r}")
        self.length = self.puzzle_tokens + self.seq_len  # L, the positions that the network sees

    def build(self):
        """The network, untrained. A subclass of Config may build a subclass of TRM."""
        return TRM(self)

# ---- 2. The model and its recursion --------------------------------------------------------------
class TRM(nn.Module):
    """The Tiny Recursive Model. The config alone, with its seed, decides the first weights."""
    def __init__(self, config):
        super().__init__()
        self.config = config
        V, D = config.vocab_size, config.dim
        rng = torch.Generator().manual_seed(config.seed)
        self.layers = nn.ModuleList(self.new_layer(rng) for _ in range(config.layers))
        self.token_embedding = matrix(V, D, rng)
        self.output_weight = matrix(V, D, rng)
        self.q_weight = nn.Parameter(torch.zeros(2, D))  # two outputs, as the authors; one is used
        self.q_bias = nn.Parameter(torch.full((2,), -5.0))  # q = -5: in the beginning, never sure
        # Buffers: AdamW does not see them. y and z start at two random vectors, never learned. The
        # table is learned by sign-SGD (section 6): AdamW would shrink the rows that are not used.
        self.y_init = nn.Buffer(truncated_normal(1.0, (D,), rng))
        self.z_init = nn.Buffer(truncated_normal(1.0, (D,), rng))
        self.puzzle_table = nn.Buffer(torch.zeros(config.num_puzzle_ids, D))

    def new_layer(self, rng):
        return Layer(self.config, rng)

    def net(self, h):
        """The one network: (B, L, D) -> (B, L, D)."""
        h = h.transpose(0, 1).contiguous()  # (L, B, D), for `mix_positions`
        for layer in self.layers:
            h = layer(h)
        return h.transpose(0, 1).contiguous()

    def latent_recursion(self, x, y, z):
        """One cycle: think n times, then answer once."""
        for _ in range(self.config.n):  # TRY: n = 1
            z = self.net(x + y + z)  # improve the latent, seeing question and answer
        # The same net improves the answer. The paper argues that x in the sum tells the net which
        # of the two jobs it has; notebook 2 tries x in both.
        y = self.net(y + z)
        return y, z

    def deep_recursion(self, x, y, z):
        """One supervision step: T cycles, of which only the last is remembered for the gradient.
        Returns the new y and z (B, L, D), detached, and in float32 logits (B, cells, V), q (B,)."""
        with torch.no_grad():  # brings y, z to a better place to learn from, storing nothing
            for _ in range(self.config.T - 1):  # TRY: T = 1
                y, z = self.latent_recursion(x, y, z)
        # All n + 1 calls of the last cycle carry gradient: 7 of 21, if n = 6 and T = 3.
        y, z = self.latent_recursion(x, y, z)
        # The next step starts from this y and z, but no gradient flows back into this one
        # (truncated back-propagation through time). So each step learns to improve whatever it is
        # given, and memory does not grow with N_sup.
        return y.detach(), z.detach(), self.output_head(y), self.halt_head(y)

    def forward(self, inputs, puzzle_rows, y, z):
        """One supervision step on inputs (B, cells) and rows of the puzzle table (B, D)."""
        x = self.embed(inputs, puzzle_rows).to(y.dtype)  # all layers compute in the dtype of y
        return self.deep_recursion(x, y, z)

    def embed(self, inputs, puzzle_rows):
        """Tokens (B, cells), puzzle rows (B, D) -> the question x (B, L, D)."""
        B, P, D = len(inputs), self.config.puzzle_tokens, self.config.dim
        blank = puzzle_rows.new_zeros(B, P - 1, D)  # behind the row: space to think in
        cells = F.embedding(inputs, self.token_embedding)  # (B, cells, D)
        x = torch.cat([puzzle_rows[:, None], blank, cells], dim=1)
        return math.sqrt(D) * x  # embeddings have std 1 / sqrt(D); x has 1, as y and z do

    def start(self, batch):
        """y and z before any thought: the same two vectors at every position, (B, L, D) each."""
        dtype = compute_dtype(self.config, self.y_init.device)
        copies = batch, self.config.length, 1
        return self.y_init.to(dtype).repeat(copies), self.z_init.to(dtype).repeat(copies)

    def output_head(self, y):
        """Logits of the cells, (B, cells, V)."""
        return linear(y[:, self.config.puzzle_tokens:], self.output_weight).float()

    def halt_head(self, y):
        """q (B,), the logit of "my answer is right": the first position speaks for all."""
        return F.linear(y[:, 0].float(), self.q_weight, self.q_bias)[:, 0]

    def halts(self, q, steps, explore, training_step):
        """Which slots halt in training, (B,): sure ones (q > 0), and all after N_sup steps. Late
        steps must be trained, too. So at each step, with chance halt_exploration, a slot draws a
        minimum from 2..N_sup, and may halt as sure only if it has made at least that many steps.
        explore (B, 2): the draws, in [0, 1). training_step: how far training is, for subclasses."""
        explores = explore[:, 0] < self.config.halt_exploration
        at_least = 2 + (explore[:, 1] * (self.config.N_sup - 1)).long()
        sure = (q > 0) & (~explores | (steps >= at_least))
        return sure | (steps >= self.config.N_sup)

    @torch.no_grad()
    def think(self, inputs, ids, steps=None, halt=False):
        """After each supervision step on inputs (B, cells), ids (B,), int64, yield answers (B,
        cells), q (B,), steps used (B,). Without `halt` all take all steps (default: eval_steps), as
        the authors evaluate. With it, a puzzle whose q > 0 is thought about no further."""
        y, z = self.start(len(inputs))
        answers = torch.zeros_like(inputs)
        q = torch.zeros(len(inputs), device=inputs.device)
        steps_used = torch.zeros_like(ids)
        active = torch.arange(len(inputs), device=inputs.device)  # the puzzles that y and z are of
        for step in range(1, 1 + (steps or self.config.eval_steps)):
            if len(active):
                y, z, logits, new_q = self(inputs[active], self.puzzle_table[ids[active]], y, z)
                answers[active] = logits.argmax(-1)
                q[active] = new_q
                steps_used[active] = step
                if halt:
                    unsure = new_q <= 0
                    y, z, active = y[unsure], z[unsure], active[unsure]
            yield answers.clone(), q.clone(), steps_used.clone()

# ---- 3. One layer of the network -----------------------------------------------------------------
class Layer(nn.Module):
    """Mix the positions, then the features. Each time, add what came in, then normalize."""
    def __init__(self, config, rng):
        super().__init__()
        self.config = config
        L, D = config.length, config.dim
        if config.mixer == "mlp":
            self.mix_in = matrix(2 * inner_width(config, L), L, rng)  # gate and up, as one matrix
            self.mix_out = matrix(L, inner_width(config, L), rng)
        elif config.mixer == "attention":
            if D % (2 * config.heads):
                raise ValueError(f"dim {D} must be a multiple of twice the {config.heads} heads")
            self.mix_in = matrix(3 * D, D, rng)  # query, key and value, of all heads
            self.mix_out = matrix(D, D, rng)
            angles = self.rotary_angles()  # a table, so that no call computes them again
            self.cos = nn.Buffer(angles.cos(), persistent=False)
            self.sin = nn.Buffer(angles.sin(), persistent=False)
        else:
            raise ValueError(f"mixer must be mlp or attention, not {config.mixer!r}")
        self.gate_up = matrix(2 * inner_width(config, D), D, rng)
        self.down = matrix(D, inner_width(config, D), rng)

    def forward(self, h):
        """(L, B, D) -> (L, B, D), in the dtype of h."""
        return self.mix_features(self.mix_positions(h))

    def mix_features(self, h):
        """Add a SwiGLU, down(silu(gate(h)) * up(h)), along the last axis."""
        gate, up = (linear(h, weight) for weight in self.gate_up.chunk(2))
        return rms_norm(h + linear(F.silu(gate) * up, self.down))

    def mix_positions(self, h):
        """Add attention, then normalize; or `mix_features` with positions and features swapped."""
        if self.config.mixer == "attention":
            return rms_norm(h + self.attention(h))
        columns = h.flatten(1)  # (L, B * D): the features of all puzzles side by side
        gate_up, down = self.mix_in.to(h.dtype), self.mix_out.to(h.dtype)
        if h.is_cuda:  # stores the same numbers by columns: GPUs are slow with rows of odd length
            gate_up = gate_up.mT.contiguous().mT
        gate, up = (weight @ columns for weight in gate_up.chunk(2))
        mixed = torch.addmm(columns, down, F.silu(gate) * up)  # columns + down @ ...
        return rms_norm(mixed, dim=0).view_as(h)

    def attention(self, h):
        """Self-attention, every position sees all: (L, B, D) -> (L, B, D)."""
        L, B, D = h.shape
        qkv = linear(h, self.mix_in).view(L, B, 3, self.config.heads, -1)
        q, k, v = qkv.permute(2, 1, 3, 0, 4)  # (3, B, heads, L, d), so (B, heads, L, d) each
        q, k = self.rotate(q), self.rotate(k)
        if h.device.type == "cpu" and h.dtype == torch.bfloat16 and q.requires_grad:
            scores = q @ k.mT * q.shape[-1] ** -0.5  # as below, but its backward is faster
            h = scores.softmax(-1) @ v
        else:
            h = F.scaled_dot_product_attention(q, k, v)
        return linear(h.permute(2, 0, 1, 3).reshape(L, B, D), self.mix_out)

    def rotate(self, h):
        """Rotary position embedding: turn queries or keys (B, heads, L, d) by their positions, so
        that the product of a query and a key depends on how far apart they are."""
        a, b = h.float().chunk(2, -1)  # feature i makes a pair with feature i + d / 2
        turned_a = a * self.cos - b * self.sin
        turned_b = b * self.cos + a * self.sin
        return torch.cat([turned_a.to(h.dtype), turned_b.to(h.dtype)], -1)

    def rotary_angles(self):
        """How far each pair of a head's features is turned at each position, (L, d / 2)."""
        d = self.config.dim // self.config.heads
        position = torch.arange(self.config.length)[:, None]
        pair = torch.arange(d // 2)
        return position * 10000 ** (-2 / d * pair)

def linear(h, weight):
    """A product in the dtype of h. The weights themselves are kept in float32."""
    return F.linear(h, weight.to(h.dtype))

def rms_norm(h, dim=-1):
    """Scale vectors along `dim` to root-mean-square 1, in float32; no learned weight, eps 1e-5."""
    f = h.float()
    mean_square = f.square().mean(dim, keepdim=True)
    return (f * torch.rsqrt(mean_square + 1e-5)).to(h.dtype)

def inner_width(config, width):
    """Inner width of a SwiGLU. It has three matrices where an MLP has two: hence the 2/3."""
    wanted = round(config.expansion * width * 2 / 3)
    return math.ceil(wanted / config.width_multiple) * config.width_multiple

def matrix(rows, columns, rng):
    """A weight to be learned. Its scale lets a product keep the size of what it is given."""
    return nn.Parameter(truncated_normal(columns**-0.5, (rows, columns), rng))

def truncated_normal(std, shape, rng):
    """Normal numbers between -2 and 2 sigma; what is cut off would make the std too small."""
    std = std / 0.8796256610342398  # the std of a unit normal that is cut at 2
    return nn.init.trunc_normal_(torch.empty(shape), 0, std, -2 * std, 2 * std, generator=rng)

# ---- 4. Losses -----------------------------------------------------------------------------------
def log_stablemax(v):
    """log(s / sum(s)) over the last axis, s = v + 1 for v >= 0, 1 / (1 - v) below. Softmax rounds a
    very sure answer to p = 1, where its gradient is 0 (Prieto et al., arXiv 2501.04697)."""
    # `where` differentiates both branches: unclamped, 1 / (1 - v) at v = 1 gives 0 * inf = NaN.
    s = torch.where(v >= 0, v + 1, 1 / (1 - v.clamp(max=0)))
    return torch.log(s / s.sum(-1, keepdim=True))

def marks(answers, labels):
    """Share of the labelled cells (labels > 0) that are right, and whether all are: (B,) each."""
    labelled = labels > 0  # (B, cells)
    right = (answers == labels) & labelled
    share = right.sum(-1) / labelled.sum(-1).clamp(min=1)
    exact = (right == labelled).all(-1)  # also of a row without labels, as the authors have it
    return share, exact

def losses(config, logits, q, labels):
    """Answer loss, halting loss, share of labelled cells right, whether all are right: (B,) each.
    The answer loss is the mean cross-entropy over the labelled cells. The halting loss teaches q
    whether all of them are right just now. Through y, both train the whole network."""
    # NOTE(paper): stablemax in float32. Theirs is in float64, which not every device has.
    log_p = log_stablemax(logits) if config.loss == "stablemax" else logits.log_softmax(-1)
    cell_loss = F.nll_loss(log_p.mT, labels, ignore_index=0, reduction="none")  # mT: (B, V, cells)
    answer_loss = cell_loss.sum(-1) / (labels > 0).sum(-1).clamp(min=1)
    share, exact = marks(logits.argmax(-1), labels)
    halting_loss = F.binary_cross_entropy_with_logits(q, exact.float(), reduction="none")
    return answer_loss, halting_loss, share, exact

# ---- 5. Data -------------------------------------------------------------------------------------
class Puzzles:
    """Questions and answers: integer arrays inputs and labels (N, cells), in which 0 means padding
    and "not labelled"; ids (N,): which rule (default: 0). augment(inputs (B, cells), labels (B,
    cells), random) -> (inputs, labels): a random symmetric copy of each; random(k) is a function,
    that of `refill`. Any other class with `check` and `draw` can be trained on, too."""
    def __init__(self, inputs, labels, ids=None, augment=None):
        self.inputs, self.labels = np.asarray(inputs), np.asarray(labels)
        self.ids = np.zeros(len(self.inputs), int) if ids is None else np.asarray(ids)
        self.augment = augment

    def __len__(self):
        return len(self.inputs)

    def check(self, config):
        """Raise ValueError unless these puzzles fit a model of this config."""
        grid = (len(self), config.seq_len)
        check_integers("inputs", self.inputs, grid, config.vocab_size)
        check_integers("labels", self.labels, grid, config.vocab_size)
        check_integers("ids", self.ids, grid[:1], config.num_puzzle_ids)
        if not self.labels.any(axis=1).all():
            raise ValueError("a row of labels is all 0, which means that no cell is labelled")

    def draw(self, positions, seed, random):
        """inputs (B, cells), labels (B, cells), ids (B,), drawn at random. Puzzles with an order,
        as ARC's, need positions (B,), which are step * batch_size + slot, and the seed instead."""
        # NOTE(paper): with replacement. The authors go through the shuffled puzzles, pass by pass.
        rows = (random(1)[:, 0] * len(self)).astype(int)
        inputs, labels = self.inputs[rows], self.labels[rows]
        if self.augment:  # NOTE(paper): always a new copy; the authors prepare 1000 of each puzzle
            inputs, labels = self.augment(inputs, labels, random)
        return inputs, labels, self.ids[rows]

# ---- 6. Training: deep supervision over slots that never wait for each other ---------------------
def print_progress(state, metrics):
    if state.step % 100 == 0:
        right = metrics["exact_accuracy"] / metrics["count"].clamp(min=1)  # of the halted slots
        print(f"step {state.step}: loss {metrics['loss']:.3f}, {right:.0%} right", flush=True)

def train(config, puzzles, device="cpu", state=None, on_step=print_progress):
    """Train; return the model with the averaged weights. state: where to go on. After each step,
    on_step(state, metrics) is called, if any, with the figures of `supervise`."""
    puzzles.check(config)
    state = state or State(config, device)
    while state.step < config.steps:
        rng = np.random.default_rng((config.seed, state.step))  # a new one at each step
        explore = rng.random((config.batch_size, 2))  # of all slots of all processes, see `halts`
        refill(state, puzzles, rng)  # slots that have halted take a fresh puzzle
        puzzle_grads, metrics = supervise(state, explore)  # forward, loss, backward
        update(state, puzzle_grads)  # one step of the optimizers
        state.step += 1
        if on_step:
            on_step(state, metrics)
    return state.ema

class State:
    """All that training changes. train.py keeps it in files, to go on exactly where it stopped."""
    def __init__(self, config, device="cpu"):
        rank, world = rank_and_world()
        assert config.batch_size % world == 0, f"batch_size: no multiple of {world} processes"
        self.step = 0
        self.model = config.build().to(device)
        self.ema = config.build().to(device).requires_grad_(False)  # the averaged weights
        self.ema.puzzle_table = self.model.puzzle_table  # one table, not averaged, serves both
        # NOTE(paper): AdamW, as in the paper. The authors' code has adam-atan2, a CUDA extension.
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95),
                                           weight_decay=config.weight_decay, fused=True)
        B = config.batch_size // world  # slots of this process
        self.slot_numbers = rank * B + np.arange(B)  # among the slots of all processes
        y, z = self.model.start(B)
        cells = torch.zeros(B, config.seq_len, dtype=torch.long, device=device)
        self.slots = SimpleNamespace(  # what each slot holds, (B, ...) each
            y=y, z=z, inputs=cells, labels=cells.clone(),  # (B, L, D) and (B, cells)
            ids=cells.new_zeros(B), steps=cells.new_zeros(B),  # row of the table, steps made
            halted=torch.ones(B, dtype=torch.bool))  # it wants a fresh puzzle; kept on the CPU

def refill(state, puzzles, rng):
    """Give a fresh puzzle, and fresh y and z, to each slot that has halted. Random numbers are
    drawn for all slots of all processes; each slot takes its own. So they depend on seed, step and
    slot alone, and 1, 2 or 4 processes train the same model, but for the rounding of sums."""
    config, slots = state.model.config, state.slots
    free = np.flatnonzero(slots.halted)
    if len(free) == 0:
        return
    numbers = state.slot_numbers[free]

    def random(k):
        """k fresh uniform numbers in [0, 1) for each of the slots, (B, k)."""
        return rng.random((config.batch_size, k))[numbers]

    fresh = puzzles.draw(state.step * config.batch_size + numbers, config.seed, random)
    Puzzles(*fresh).check(config)  # `augment` may have returned anything
    free, inputs, labels, ids = (to_tensor(a, slots.ids.device) for a in (free, *fresh))
    slots.inputs[free], slots.labels[free], slots.ids[free] = inputs, labels, ids
    slots.y[free], slots.z[free] = state.model.start(len(free))
    slots.steps[free] = 0

def supervise(state, explore):
    """One supervision step of every slot; leaves gradients in the parameters. explore (all slots,
    2): see `TRM.halts`. Returns the gradient of the puzzle rows (B, D), which are no parameters,
    and metrics: losses, divided by the global batch, and sums over the `count` slots that halt."""
    model, slots, config = state.model, state.slots, state.model.config
    explore = torch.from_numpy(explore[state.slot_numbers]).float().to(slots.ids.device)
    rows = model.puzzle_table[slots.ids].requires_grad_()  # a copy, which collects the gradient
    size = config.micro_batch or len(rows)
    metrics = Counter()
    for first in range(0, len(rows), size):  # only once, if all slots fit into memory
        part = slice(first, first + size)
        y, z, logits, q = model(slots.inputs[part], rows[part], slots.y[part], slots.z[part])
        answer_loss, halting_loss, share, exact = losses(config, logits, q, slots.labels[part])
        answer_loss = answer_loss.sum() / config.batch_size  # that of all processes together, so
        halting_loss = halting_loss.sum() / config.batch_size  # the sum of their gradients is right
        loss = answer_loss + config.halt_weight * halting_loss
        slots.steps[part] += 1
        halted = model.halts(q, slots.steps[part], explore[part], state.step)
        slots.halted[part] = halted.cpu()  # waits for a GPU: here for its forward pass only
        loss.backward()
        slots.y[part], slots.z[part] = y, z
        metrics.update(  # a Counter adds what it is given
            loss=loss.detach(), answer_loss=answer_loss.detach(),
            halting_loss=halting_loss.detach(), count=halted.sum(),
            exact_accuracy=(halted & exact).sum(), cell_accuracy=(halted * share).sum(),
            steps=(halted * slots.steps[part]).sum())
    return rows.grad, metrics

@torch.no_grad()
def update(state, puzzle_grads):
    """Sum the gradients of all processes; then each makes the same step of weights and table."""
    model, config, ids = state.model, state.model.config, state.slots.ids
    if rank_and_world()[1] > 1:
        grads = [p.grad for p in model.parameters()]
        flat = nn.utils.parameters_to_vector(grads)  # a single message is much faster than many
        dist.all_reduce(flat)
        nn.utils.vector_to_parameters(flat, grads)  # writes the sums back
        ids, puzzle_grads = gather(ids), gather(puzzle_grads)
    factor = lr_factor(config, state.step)
    state.optimizer.param_groups[0]["lr"] = config.lr * factor
    state.optimizer.step()
    state.optimizer.zero_grad()
    puzzle_sign_sgd(model.puzzle_table, ids, puzzle_grads, config.puzzle_lr * factor,
                    config.puzzle_weight_decay)
    for average, weight in zip(state.ema.parameters(), model.parameters()):
        average.lerp_(weight, 1 - config.ema)

def lr_factor(config, step):
    """Factor of both learning rates: linear warm-up, then 1 or a cosine from 1 to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if not config.cosine:
        return 1.0
    done = (step - config.warmup) / (config.steps - config.warmup)  # NOTE(paper): they keep 1
    return 0.5 + 0.5 * math.cos(math.pi * done)

def puzzle_sign_sgd(table, ids, grads, lr, decay):
    """In place, for the rows ids (B,) only: row = row * (1 - lr * decay) - lr * sign(grad). So each
    use moves a row by lr, however small grads (B, D) are. Those of equal ids are summed first."""
    same = (ids[:, None] == ids).to(grads.dtype)  # (B, B): 1 where two slots have the same id
    total = same @ grads  # (B, D): slots with the same id get the same sum, and write the same row
    table[ids] = table[ids] * (1 - lr * decay) - lr * total.sign()

def rank_and_world():
    """(number of this process, number of processes): (0, 1) unless torchrun started several."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1

def gather(tensor):
    """The tensors of all processes, one behind the other."""
    parts = [torch.empty_like(tensor) for _ in range(rank_and_world()[1])]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)

# ---- 7. Using a model ----------------------------------------------------------------------------
Solution = namedtuple("Solution", "answers q steps")  # arrays (N, cells), (N,), (N,)

def solve(model, inputs, ids=None, steps=None, halt=False, batch_size=256):
    """Answer puzzles: integer arrays inputs (N, cells), ids (N,). steps, halt: see `TRM.think`."""
    puzzles = Puzzles(inputs, np.ones_like(inputs), ids)  # labels that nobody looks at
    ends = []
    for _, thoughts in batches(model, puzzles, steps, halt, batch_size):
        *_, last = thoughts
        ends.append(last)
    answers, q, steps_used = (torch.cat(parts).cpu().numpy() for parts in zip(*ends))
    return Solution(answers, q, steps_used)

def evaluate(model, puzzles, steps=None, halt=False, batch_size=256):
    """exact_accuracy, cell_accuracy in 0..1; by_step, the exact one after each step; mean_steps."""
    sums = torch.zeros(steps or model.config.eval_steps, 3, device=model.y_init.device)
    for labels, thoughts in batches(model, puzzles, steps, halt, batch_size):
        for step, (answers, _, steps_used) in enumerate(thoughts):
            share, exact = marks(answers, labels)
            sums[step] += torch.stack([exact.sum(), share.sum(), steps_used.sum()])
    exact, cells, used = (sums.cpu().double() / len(puzzles)).T.tolist()
    return dict(exact_accuracy=exact[-1], cell_accuracy=cells[-1],
                by_step=exact, mean_steps=used[-1], puzzles=len(puzzles))

def batches(model, puzzles, steps, halt, batch_size):
    """For each batch of puzzles: its labels (B, cells), and what `think` yields about it."""
    puzzles.check(model.config)
    for first in range(0, len(puzzles), batch_size):
        inputs, labels, ids = (to_tensor(array[first:first + batch_size], model.y_init.device)
                               for array in (puzzles.inputs, puzzles.labels, puzzles.ids))
        yield labels, model.think(inputs, ids, steps, halt)

def save(path, model, **extra):
    """Write weights, config and `extra`: plain values and tensors. `load` reads them back."""
    content = dict(config_class=type(model.config).__name__, extra=extra,
                   config=dataclasses.asdict(model.config), weights=model.state_dict())
    torch.save(content, f"{path}.tmp")
    torch.load(f"{path}.tmp", "cpu", weights_only=True)  # what `load` would refuse fails now
    os.replace(f"{path}.tmp", path)  # so there is always the old file or the whole new one

def load(path, device="cpu"):
    """The model in a file made by `save`; `extra` becomes `model.extra`. Raises ValueError.
    No code in the file is executed. If its config is of a subclass, import that class before."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    classes = {c.__name__: c for c in (Config, *Config.__subclasses__())}
    name = content.get("config_class")
    if name not in classes:
        raise ValueError(f"{path} is of the class {name}; import it, or train the model anew")
    model = classes[name](**content["config"]).build()
    model.load_state_dict(content["weights"])
    model.extra = content["extra"]
    return model.to(device).eval()

# ---- 8. Fine print -------------------------------------------------------------------------------
def check_integers(name, array, shape, end):
    if array.shape != shape or len(array) == 0:
        raise ValueError(f"{name} must have the shape {shape}, not {array.shape}")
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= end:
        raise ValueError(f"{name} must be integers 0..{end - 1}, not {array.min()}..{array.max()}")

def to_tensor(array, device):
    """A numpy array of integers as an int64 tensor, as indices must be."""
    return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device)

def compute_dtype(config, device):
    """The dtype of the forward pass. "auto" is bfloat16 where the hardware is faster with it."""
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # many CPUs only emulate it; Intel's are fast only with AMX
        can = torch.cpu.get_capabilities()
        fast = can.get("amx_bf16") or can.get("avx512_bf16") and "Intel" not in can["cpu_name"]
    return torch.bfloat16 if fast else torch.float32
