"""The core: parameter counts, the recursion re-derived, losses, halting, training, files."""
import dataclasses
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinytrm
from conftest import ROOT, run, tiny, toy_puzzles
from support.checkpoints import load_model
from support.official import OFFICIAL_NAMES, load_official
from support.presets import PRESETS
from tinytrm import TRM, Config, Puzzles, State

BOTH = pytest.mark.parametrize("mixer", ["mlp", "attention"])

# ------------------------------------------------------------------------------------------------
# The network


@pytest.mark.parametrize("preset, vocab, cells, expected", [
    ("sudoku", 11, 81, 5_028_866),
    ("sudoku-att", 11, 81, 6_828_034),
    ("sudoku-att", 12, 900, 6_829_058),
])
def test_parameter_counts_are_the_papers(preset, vocab, cells, expected):
    config = dataclasses.replace(PRESETS[preset].config, vocab_size=vocab, seq_len=cells)
    with torch.device("meta"):
        assert sum(p.numel() for p in TRM(config).parameters()) == expected


def test_the_defaults_are_the_papers_sudoku():
    assert Config() == PRESETS["sudoku"].config


def norm(h):  # another way to write the RMSNorm, along the last axis
    scale = (1 + 1e-5 / h.square().mean(-1, keepdim=True)) ** -0.5
    return F.normalize(h, dim=-1, eps=0) * h.shape[-1] ** 0.5 * scale


def glu(h, gate_up, down):
    gate, up = (h @ gate_up.T).split(gate_up.shape[0] // 2, -1)
    return (gate * torch.sigmoid(gate) * up) @ down.T


def attend(h, block, heads):
    """Multi-head attention with rotary positions written as complex numbers, one head at a time."""
    B, L, D = h.shape
    size = D // heads
    angle = torch.arange(L)[:, None] * 10000.0 ** (-torch.arange(size // 2) * 2 / size)
    turn, out = torch.polar(torch.ones(L, size // 2), angle), []
    for i in range(heads):
        rows = [slice(j * D + i * size, j * D + (i + 1) * size) for j in range(3)]
        q, k, v = (h @ block.mix_in[r].T for r in rows)
        q, k = (torch.complex(*t.split(size // 2, -1)) * turn for t in (q, k))
        weight = ((q @ k.conj().transpose(1, 2)).real / size**0.5).softmax(-1)
        out.append(weight @ v)
    return torch.cat(out, -1) @ block.mix_out.T


def plain_net(model, h):
    """The network written without the file's helpers: (B, L, D) -> (B, L, D)."""
    for block in model.layers:
        if model.config.mixer == "mlp":
            s = h.transpose(1, 2)
            h = norm(s + glu(s, block.mix_in, block.mix_out)).transpose(1, 2)
        else:
            h = norm(h + attend(h, block, model.config.heads))
        h = norm(h + glu(h, block.gate_up, block.down))
    return h


def heads(model, y):
    """Logits and q of a y (B, L, D), written out."""
    cells = y[:, model.config.puzzle_tokens:]
    return cells @ model.output_weight.T, y[:, 0] @ model.q_weight[0] + model.q_bias[0]


@BOTH
def test_deep_recursion_equals_the_unrolled_derivation(mixer):
    model = TRM(tiny(mixer=mixer))
    torch.manual_seed(0)
    x, y, z = torch.randn(3, 5, 11, 16).unbind()  # (B, L, D) each
    with torch.no_grad():
        model.q_weight.normal_()
        mine = model.deep_recursion(x, y, z)
    for _ in range(3):  # T cycles of n = 2 latent steps and one answer step
        z = plain_net(model, x + y + z)
        z = plain_net(model, x + y + z)
        y = plain_net(model, y + z)
    for name, a, b in zip(("y", "z", "logits", "q"), mine, (y, z, *heads(model, y))):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0, msg=name)


@BOTH
def test_gradient_comes_from_the_last_cycle_only(mixer):
    """The embeddings' gradient equals that of the last cycle alone, started from constants."""
    config = tiny(mixer=mixer)
    model = TRM(config)
    inputs, rows = torch.from_numpy(toy_puzzles(5).inputs), torch.zeros(5, 16)
    y, z = model.start(5)
    *_, logits, q = model(inputs, rows, y, z)
    (logits.square().sum() + q.sum()).backward()
    full = {k: p.grad.clone() for k, p in model.named_parameters()}

    model.zero_grad()
    x = model.embed(inputs, rows)
    for _ in range(config.T - 1):
        y, z = model.latent_recursion(x, y, z)
    y, z = model.latent_recursion(x, y.detach(), z.detach())
    logits, q = heads(model, y)
    (logits.square().sum() + q.sum()).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, full[name], atol=1e-4, rtol=1e-3)
    assert full["token_embedding"].abs().sum() > 0

    # And it is not the gradient through all cycles.
    model.zero_grad()
    y, z = model.start(5)
    x = model.embed(inputs, rows)
    for _ in range(config.T):
        y, z = model.latent_recursion(x, y, z)
    heads(model, y)[0].square().sum().backward()
    assert (model.token_embedding.grad - full["token_embedding"]).abs().max() > 1e-3


def test_returned_states_carry_no_gradient():
    model = TRM(tiny())
    inputs, rows = torch.ones(2, 9, dtype=torch.long), model.puzzle_table[[0, 1]]
    y, z, logits, q = model(inputs, rows, *model.start(2))
    assert not y.requires_grad and not z.requires_grad and logits.requires_grad and q.requires_grad


@pytest.mark.parametrize("tokens", [1, 2])
def test_the_puzzle_row_fills_the_first_puzzle_token(tokens):
    model, rows = TRM(tiny(puzzle_tokens=tokens)), torch.randn(4, 16, requires_grad=True)
    x = model.embed(torch.from_numpy(toy_puzzles(4).inputs), rows)
    assert x.shape == (4, tokens + 9, 16)
    torch.testing.assert_close(x[:, 0], 4 * rows)  # times sqrt(D)
    assert (x[:, 1:tokens] == 0).all()
    x.sum().backward()
    assert (rows.grad == 4).all()


def test_initialization():
    model = TRM(PRESETS["sudoku-att"].config)
    block = model.layers[0]
    assert block.gate_up.std().item() == pytest.approx(512**-0.5, rel=0.01)
    assert block.down.std().item() == pytest.approx(1536**-0.5, rel=0.01)
    assert block.gate_up.abs().max().item() <= 2 / 0.8796 * 512**-0.5
    assert (model.q_bias == -5).all() and (model.q_weight == 0).all()
    assert model.y_init.std().item() == pytest.approx(1, abs=0.1)
    assert not torch.equal(model.y_init, model.z_init)
    assert (model.puzzle_table == 0).all()


def test_model_depends_on_its_seed_alone_and_leaves_the_global_state():
    torch.manual_seed(1)
    a = TRM(tiny())
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    b, c = TRM(tiny()), TRM(tiny(seed=1))
    tinytrm.train(tiny(steps=3), toy_puzzles())
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert torch.equal(a.output_weight, b.output_weight)
    assert not torch.equal(a.output_weight, c.output_weight)


@BOTH
def test_bfloat16_is_close_to_float32(mixer):
    """While learning too: on a CPU attention in bfloat16 is then written out."""
    outputs = []
    for dtype in ("float32", "bfloat16"):
        model = TRM(tiny(mixer=mixer, dtype=dtype, n=1, T=1))
        inputs, rows = torch.from_numpy(toy_puzzles(4).inputs), torch.zeros(4, 16)
        y, z, logits, q = model(inputs, rows, *model.start(4))
        assert y.dtype == getattr(torch, dtype) and logits.dtype == q.dtype == torch.float32
        logits.square().sum().backward()
        grad = model.layers[0].mix_in.grad
        assert grad.dtype == torch.float32
        outputs.append((logits, grad / grad.norm()))
    (exact, gradient), (rounded, other) = outputs
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)
    assert (gradient * other).sum() > 0.95  # the cosine


def test_attention_written_out_equals_the_fused_one():
    layer = TRM(tiny(mixer="attention")).layers[0]
    h = torch.randn(11, 5, 16).bfloat16()
    with torch.no_grad():
        fused = layer.attention(h)
    torch.testing.assert_close(layer.attention(h), fused, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("cells", [9, 95])
def test_the_layout_for_gpus_changes_no_number(monkeypatch, cells):
    """Outputs and gradients of the MLP mixer, with the order in memory that a GPU gets."""
    model, results = TRM(tiny(seq_len=cells)), []
    h = torch.randn(4, cells + 2, 16, generator=torch.Generator().manual_seed(0))
    for on_gpu in (False, True):
        monkeypatch.setattr(torch.Tensor, "is_cuda", on_gpu)
        out = model.net(h)
        model.zero_grad()
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in model.layers.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------
# Loss and halting


def test_stablemax_against_its_definition():
    v = torch.linspace(-5, 5, 41).view(1, -1)
    s = [x + 1 if x >= 0 else 1 / (1 - x) for x in v[0].tolist()]
    expected = torch.tensor([math.log(x / sum(s)) for x in s])
    torch.testing.assert_close(tinytrm.log_stablemax(v)[0], expected, atol=1e-6, rtol=1e-6)


def test_stablemax_gradient_is_finite_at_one():
    v = torch.tensor(
        [[1.0, 0.0, -1.0, 1.0]], requires_grad=True
    )  # 1.0 divides by zero in the unused branch
    tinytrm.log_stablemax(v)[0, 0].backward()
    assert v.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_losses_by_hand(kind):
    config = tiny(loss=kind)
    logits = torch.tensor([[[0.0, 2.0, -1.0], [0.0, -3.0, 1.0]],  # all right
                           [[0.0, 0.5, 0.0], [3.0, 0.0, 0.0]],  # one labelled cell
                           [[0.0, 1.0, 0.0]] * 2])  # nothing labelled
    labels, q = torch.tensor([[1, 2], [1, 0], [0, 0]]), torch.tensor([2.0, -1.0, 0.5])
    answer, halting, share, exact = tinytrm.losses(config, logits, q, labels)

    def cross_entropy(row, label):
        s = [math.exp(v) if kind == "softmax" else v + 1 if v >= 0 else 1 / (1 - v) for v in row]
        return -math.log(s[label] / sum(s))

    first = (cross_entropy([0, 2, -1], 1) + cross_entropy([0, -3, 1], 2)) / 2
    assert answer.tolist() == pytest.approx([first, cross_entropy([0, 0.5, 0], 1), 0], abs=1e-5)
    # A row without labels counts as right in the halting target.
    expected = [-math.log(1 / (1 + math.exp(-v))) for v in q.tolist()]
    assert halting.tolist() == pytest.approx(expected, abs=1e-5)
    assert share.tolist() == [1, 1, 0] and exact.tolist() == [True] * 3
    _, halting, share, exact = tinytrm.losses(config, -logits, q, labels)
    assert not exact[0] and share[0] == 0
    assert halting[0].item() == pytest.approx(-math.log(1 - 1 / (1 + math.exp(-2.0))), abs=1e-5)


def test_halting_rules():
    model = TRM(tiny(N_sup=4, halt_exploration=0.5))
    steps, q = torch.tensor([1, 4, 2, 2, 3]), torch.tensor([1.0, -1.0, -1.0, 0.5, 0.5])
    never = torch.ones(5, 2) * 0.99
    halted = model.halts(q, steps, never, 0)
    assert halted.tolist() == [True, True, False, True, True]
    # At least 2, 4, 2, 4 steps, and one that does not explore.
    explore = torch.tensor([[0.1, 0.0], [0.1, 0.9], [0.1, 0.0], [0.1, 0.99], [0.9, 0.99]])
    halted = model.halts(q, steps, explore, 0)
    assert halted.tolist() == [False, True, False, False, True]


def test_exploration_draws_two_to_N_sup_evenly():
    model, halts = TRM(tiny(N_sup=5, halt_exploration=1.0)), []
    explore = torch.rand(40000, 2, generator=torch.Generator().manual_seed(0))
    for s in range(1, 6):
        steps = torch.full((40000,), s)
        halted = model.halts(torch.ones(40000), steps, explore, 0)
        halts.append(halted.float().mean().item())
    assert halts == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.01)


@pytest.mark.parametrize("halting", ["sure", "chance"])
def test_two_steps_per_puzzle_come_first(halting):
    """Two steps for every puzzle up to step 7 of training, sure or not; after it as ever."""
    done = []

    def look(state, _):
        done.append(state.slots.steps[state.slots.halted].tolist())
        if state.step == 3:
            state.model.q_bias.data.fill_(9.0 if halting == "sure" else 0.0)

    config = tiny(N_sup=6, two_step_phase=7, steps=40, halting=halting, halt_exploration=0.0)
    tinytrm.train(config, toy_puzzles(), on_step=look)
    assert done[:7] == [[], [2] * 8] * 3 + [[]]
    later = {s for some in done[8:] for s in some}
    assert later == {1} if halting == "sure" else {1, 3, 6} <= later <= set(range(1, 7))


# ------------------------------------------------------------------------------------------------
# Optimizers


def test_sign_sgd_against_a_loop():
    random = torch.Generator().manual_seed(0)
    table, grads = torch.randn(7, 4, generator=random), torch.randn(6, 4, generator=random)
    ids = torch.tensor([2, 5, 2, 0, 5, 2])
    expected = table.clone()
    for i in (0, 2, 5):
        total = sum(g for g, j in zip(grads, ids.tolist()) if j == i)
        expected[i] = table[i] * (1 - 0.1 * 0.3) - 0.1 * total.sign()
    tinytrm.puzzle_sign_sgd(table, ids, grads, 0.1, 0.3)
    torch.testing.assert_close(table, expected)


def test_learning_rate_schedule():
    constant, cosine = tiny(warmup=10, steps=110), tiny(warmup=10, steps=110, cosine=True)
    factors = [tinytrm.lr_factor(constant, s) for s in (0, 4, 9, 10, 109)]
    assert factors == pytest.approx([0.1, 0.5, 1, 1, 1])
    factors = [tinytrm.lr_factor(cosine, s) for s in (0, 9, 10, 60, 110)]
    assert factors == pytest.approx([0.1, 1, 1, 0.5, 0], abs=1e-9)
    assert tinytrm.lr_factor(tiny(warmup=0), 0) == 1


def test_optimizer_holds_every_parameter_and_the_table_is_apart():
    state = State(tiny())
    held = {id(p) for g in state.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in state.model.parameters()}
    assert "puzzle_table" not in dict(state.model.named_parameters())
    assert state.ema.puzzle_table is state.model.puzzle_table


def test_training_step_against_a_second_implementation():
    """Two steps of `train` against AdamW, EMA and the table's update written out by hand."""
    config = tiny(steps=2, batch_size=4, halt_exploration=0.0, puzzle_weight_decay=0.1)
    puzzles, seen = toy_puzzles(8), []
    state, reference = State(config), TRM(config)
    trained = tinytrm.train(config, puzzles, state=state, on_step=lambda s, m: seen.append(m))

    p = dict(reference.named_parameters())
    first, second = ({k: torch.zeros_like(v) for k, v in p.items()} for _ in range(2))
    ema = {k: v.detach().clone() for k, v in p.items()}
    rng = np.random.default_rng((config.seed, 0))
    rng.random((4, 2))  # exploration
    drawn = puzzles.draw(np.arange(4), config.seed, lambda k: rng.random((4, k)))
    inputs, labels, ids = (torch.from_numpy(a.astype(np.int64)) for a in drawn)
    y, z = reference.start(4)
    for step in (1, 2):  # no slot halts in two steps, since q starts at -5
        rows = reference.puzzle_table[ids].requires_grad_()
        y, z, logits, q = reference(inputs, rows, y, z)
        answer, halting, *_ = tinytrm.losses(config, logits, q, labels)
        loss = (answer + 0.5 * halting).sum() / 4
        assert loss.item() == pytest.approx(seen[step - 1]["loss"].item(), rel=1e-5)
        reference.zero_grad()
        loss.backward()
        lr = config.lr * step / 2
        with torch.no_grad():
            for k, v in p.items():
                first[k] = 0.9 * first[k] + 0.1 * v.grad
                second[k] = 0.95 * second[k] + 0.05 * v.grad**2
                v *= 1 - lr * config.weight_decay
                size = (second[k] / (1 - 0.95**step)).sqrt() + 1e-8
                v -= lr * (first[k] / (1 - 0.9**step)) / size
                ema[k] = config.ema * ema[k] + (1 - config.ema) * v
            for i in ids.unique():
                row = reference.puzzle_table[i]
                row *= 1 - config.puzzle_lr * step / 2 * 0.1
                row -= config.puzzle_lr * step / 2 * rows.grad[ids == i].sum(0).sign()
    now = dict(state.model.named_parameters())
    for k, v in trained.named_parameters():
        torch.testing.assert_close(v, ema[k], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(now[k], p[k], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(trained.puzzle_table, reference.puzzle_table)


# ------------------------------------------------------------------------------------------------
# Training


def one_step(state, puzzles, explore=None):
    """`refill` and `supervise`, as `train` calls them."""
    config = state.model.config
    rng = np.random.default_rng((config.seed, state.step))
    drawn = rng.random((config.batch_size, 2))
    tinytrm.refill(state, puzzles, rng)
    return tinytrm.supervise(state, drawn if explore is None else explore)


@BOTH
def test_overfits_one_batch(mixer):
    config = tiny(mixer=mixer, steps=300, lr=3e-3, dim=32, heads=4, weight_decay=0, ema=0.9, n=1,
                  T=1, N_sup=2)
    model = tinytrm.train(config, puzzles := toy_puzzles(8))
    assert tinytrm.evaluate(model, puzzles, halt=True)["exact_accuracy"] == 1.0


def test_the_trained_model_is_a_plain_one():
    """Leaf parameters without a history of gradients: averaging must not be recorded."""
    model = tinytrm.train(tiny(steps=4), toy_puzzles())
    assert all(p.is_leaf and p.grad_fn is None for p in model.parameters())
    logits = model.requires_grad_()(torch.ones(2, 9, dtype=torch.long), model.puzzle_table[[0, 0]],
                                    *model.start(2))[2]
    logits.sum().backward()  # it can be fine-tuned
    assert model.output_weight.grad is not None


def test_a_step_waits_for_the_device_once_to_know_who_has_halted(monkeypatch):
    """On the meta device nothing has a value: whatever asks for one raises."""
    with torch.device("meta"):
        state = State(tiny(batch_size=4), "meta")
    asked = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: (asked.append(t), torch.ones(len(t)) > 0)[1])
    state.slots.halted = torch.zeros(4, dtype=torch.bool, device="cpu")
    grads, metrics = tinytrm.supervise(state, np.zeros((4, 2)))
    assert len(asked) == 1 and state.slots.halted.all()
    assert grads.device.type == metrics["loss"].device.type == "meta"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_seed_same_weights(dtype):
    models = [tinytrm.train(tiny(dtype=dtype), toy_puzzles()) for _ in range(2)]
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        assert torch.equal(a, b)
    other = tinytrm.train(tiny(dtype=dtype, seed=1), toy_puzzles())
    assert not torch.equal(models[0].output_weight, other.output_weight)


@BOTH
def test_a_step_calls_the_net_T_times_n_plus_1(mixer):
    state, calls = State(tiny(steps=1, n=4, T=3, mixer=mixer)), []
    plain = state.model.net
    state.model.net = lambda h: (calls.append(torch.is_grad_enabled()), plain(h))[1]
    tinytrm.train(state.model.config, toy_puzzles(), state=state)
    assert calls == [False] * 10 + [True] * 5


def test_accumulation_is_the_same_mathematics():
    """Gradients of one step: after more of them a sign near zero may flip in the puzzle table."""
    grads = []
    for m in (0, 3):
        state = State(tiny(micro_batch=m))
        rows, metrics = one_step(state, toy_puzzles())
        named = {k: p.grad for k, p in state.model.named_parameters()}
        grads.append({"rows": rows, "loss": metrics["loss"], "y": state.slots.y, **named})
    for name, whole in grads[0].items():
        bound = 1e-4 * whole.abs().max().item()
        torch.testing.assert_close(grads[1][name], whole, atol=bound, rtol=0, msg=name)


def test_slots_draw_only_when_halted_and_from_their_own_place():
    config, drawn = tiny(steps=9, N_sup=4, batch_size=4), []

    class Watched(Puzzles):
        def draw(self, positions, seed, random):
            drawn.append(positions.tolist())
            return super().draw(positions, seed, random)

    p = toy_puzzles()
    tinytrm.train(config, Watched(p.inputs, p.labels, p.ids))
    # q starts at -5, so all four slots take N_sup = 4 steps: they draw at steps 0, 4, 8.
    assert drawn == [[0, 1, 2, 3], [16, 17, 18, 19], [32, 33, 34, 35]]


def test_what_a_slot_gets_does_not_depend_on_the_others():
    """The same puzzle for slot 2, whether or not the others draw too."""
    config, puzzles, seen = tiny(batch_size=4), toy_puzzles(1000), []
    for others in (True, False):
        state = State(config)
        state.step, state.slots.halted[:] = 5, torch.tensor([others, others, True, others])
        tinytrm.refill(state, puzzles, np.random.default_rng(5))
        seen.append((state.slots.inputs[2], state.slots.labels[2], state.slots.ids[2]))
        assert (state.slots.inputs[0] > 0).all() == others
    assert all(torch.equal(a, b) for a, b in zip(*seen))


def test_on_step_metrics():
    config, rows = tiny(steps=8), []
    tinytrm.train(config, toy_puzzles(), on_step=lambda s, m: rows.append((s.step, m)))
    assert [step for step, _ in rows] == list(range(1, 9))
    last = {name: value.item() for name, value in rows[3][1].items()}
    assert last["count"] == 8 and last["steps"] == 8 * 4
    assert last["loss"] == pytest.approx(last["answer_loss"] + 0.5 * last["halting_loss"], rel=1e-5)
    assert rows[2][1]["count"] == 0 and rows[2][1]["steps"] == 0


def test_metrics_are_of_the_slots_that_halt():
    """Four of eight halt; three of them have one cell wrong, and the fourth is right."""
    state = State(tiny(N_sup=2, halt_exploration=0.0))
    rng, c = np.random.default_rng(0), state.slots
    tinytrm.refill(state, toy_puzzles(), rng)
    weight = state.model.output_weight.data
    weight[0], weight[2] = 0, -weight[1]  # one of 1 and 2 is always above 0: never answers padding
    with torch.no_grad():
        answers = state.model(c.inputs, state.model.puzzle_table[c.ids], c.y, c.z)[2].argmax(-1)
    c.labels[:], c.steps[:4] = answers, 1
    c.labels[:3, 0] = answers[:3, 0] % 5 + 1
    _, metrics = tinytrm.supervise(state, rng.random((8, 2)))
    wanted = dict(count=4, exact_accuracy=1, steps=8)
    assert {name: metrics[name].item() for name in wanted} == wanted
    assert metrics["cell_accuracy"].item() == pytest.approx(1 + 3 * 8 / 9)


# ------------------------------------------------------------------------------------------------
# Data


def test_draws_are_even_and_follow_their_random_numbers():
    p = Puzzles(np.arange(1, 11)[:, None], np.ones((10, 1), int), np.arange(10))
    rng = np.random.default_rng(0)
    inputs, labels, ids = p.draw(np.arange(20_000), 0, lambda k: rng.random((20_000, k)))
    assert np.array_equal(inputs[:, 0], ids + 1) and (labels == 1).all()
    counts = np.bincount(ids, minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 28  # chi-squared, 9 degrees: once in 1000


@pytest.mark.parametrize("augment, words", [
    (lambda x, y, _: (x - 6, y), "inputs must be integers 0..5, not -[1-5]"),
    (lambda x, y, _: (x, y + 5), "labels must be integers 0..5, not .*10"),
    (lambda x, y, _: (x * 1.0, y), r"inputs must be integers 0..5, not \d.0"),
    (lambda x, y, _: (x[:1], y[:1]), "must have the shape"),
    (lambda x, y, _: (x[0], y[0]), "must have the shape"),
    (lambda x, y, _: (x[:, 1:], y[:, 1:]), r"must have the shape \(8, 9\), not \(8, 8\)"),
])
def test_a_slip_of_augment_is_no_broadcast(augment, words):
    puzzles = toy_puzzles()
    puzzles.augment = augment
    with pytest.raises(ValueError, match=words):
        tinytrm.train(tiny(), puzzles)


def test_augment_may_return_views():
    """Mirrored, say; torch takes no array that is read backwards."""
    puzzles, state = toy_puzzles(), State(tiny())
    puzzles.augment = lambda x, y, _: (x[:, ::-1], y[:, ::-1])
    tinytrm.refill(state, puzzles, np.random.default_rng(0))
    rows = lambda x, y: {(*a, *b) for a, b in zip(x.tolist(), y.tolist())}
    assert rows(state.slots.inputs, state.slots.labels) <= rows(
        puzzles.inputs[:, ::-1], puzzles.labels[:, ::-1])


def test_augment_may_return_lists_and_tensors():
    puzzles, plain = toy_puzzles(), toy_puzzles()
    puzzles.augment = lambda x, y, _: (x.tolist(), torch.from_numpy(y))
    a, b = (tinytrm.train(tiny(), p, on_step=None).state_dict() for p in (puzzles, plain))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "inputs, labels, ids, words",
    [
        (np.ones((3, 8), int), np.ones((3, 8), int), None, r"inputs must have .*\(3, 9\)"),
        (np.zeros((0, 9), int), np.zeros((0, 9), int), None, r"not \(0, 9\)"),
        (np.ones((3, 9), int), np.ones((3, 8), int), None, r"labels must have .*\(3, 9\)"),
        (np.ones((3, 9), int), np.ones((3, 9), int), [0, 1], r"ids must have .*\(3,\)"),
        (np.array([[1] * 9, [6] + [1] * 8]), np.ones((2, 9), int), None, "inputs .* not 1..6"),
        (np.ones((2, 9), int), np.array([[1] * 9, [-1] + [1] * 8]), None, "labels .* not -1..1"),
        (np.ones((2, 9), int), np.ones((2, 9), int), np.array([0, 3]), "ids .* 0..2, not 0..3"),
        (np.ones((2, 9)), np.ones((2, 9), int), None, "must be integers 0..5, not 1.0"),
        (np.ones((2, 9), object), np.ones((2, 9), int), None, "must be integers 0..5, not 1..1"),
        (np.ones((2, 9), int), np.array([[1] * 9, [0] * 9]), None, "labels is all 0"),
    ],
)
def test_puzzles_that_do_not_fit_the_model(inputs, labels, ids, words):
    with pytest.raises(ValueError, match=words):
        tinytrm.train(tiny(), Puzzles(inputs, labels, ids))


@pytest.mark.parametrize("fields, words", [
    (dict(mixer="conv"), "mixer must be mlp or attention, not 'conv'"),
    (dict(loss="hinge"), "loss must be stablemax or softmax, not 'hinge'"),
    (dict(mixer="attention", dim=18, heads=2), "dim 18 must be a multiple of twice the 2 heads")])
def test_settings_that_make_no_model(fields, words):
    with pytest.raises(ValueError, match=words):
        tiny(**fields).build()


# ------------------------------------------------------------------------------------------------
# Solving, evaluating, files


@pytest.fixture(scope="module")
def model():
    return tinytrm.train(tiny(steps=60, lr=5e-3, ema=0.9), toy_puzzles(30))


def test_evaluate_against_a_direct_count(model):
    puzzles = toy_puzzles(23, seed=5)
    puzzles.labels[3, :4] = 0  # some cells without label
    result = tinytrm.evaluate(model, puzzles, steps=6, batch_size=7)
    inputs, ids = torch.from_numpy(puzzles.inputs), torch.from_numpy(puzzles.ids)
    y, z = model.start(23)
    for step in range(6):
        with torch.no_grad():
            y, z, logits, q = model(inputs, model.puzzle_table[ids], y, z)
        answers, labels = logits.argmax(-1).numpy(), puzzles.labels
        exact = np.mean([all(a == l for a, l in zip(r, s) if l) for r, s in zip(answers, labels)])
        assert result["by_step"][step] == pytest.approx(exact, abs=1e-6)
    cells = np.mean([np.mean([a == l for a, l in zip(r, s) if l]) for r, s in zip(answers, labels)])
    assert result["cell_accuracy"] == pytest.approx(cells, abs=1e-6)
    assert (
        result["exact_accuracy"] == result["by_step"][-1]
        and result["mean_steps"] == 6
        and result["puzzles"] == 23
    )


def highest_q(model, inputs, ids):
    """The highest q of every puzzle within eight steps."""
    return torch.stack([q for _, q, _ in model.think(inputs, ids, 8)]).amax(0)


def test_halting_keeps_the_first_sure_answer(model):
    puzzles = toy_puzzles(40, seed=6)
    inputs, ids = torch.from_numpy(puzzles.inputs), torch.from_numpy(puzzles.ids)
    with torch.no_grad():  # so that about half halt early
        model.q_bias.add_(shift := 1e-3 - highest_q(model, inputs, ids).median())
        full = list(model.think(inputs, ids, 8))
        q = torch.stack([q for _, q, _ in full])
        first = torch.where((q > 0).any(0), (q > 0).float().argmax(0), 7)
        some = dict(steps=8, halt=True, batch_size=16)
        solution = tinytrm.solve(model, puzzles.inputs, puzzles.ids, **some)
        model.q_bias.sub_(shift)
    assert 0 < (first < 7).sum() < 40, "the case is not interesting"
    assert np.array_equal(solution.steps, first + 1)
    expected = torch.stack([full[k][0][i] for i, k in enumerate(first.tolist())])
    assert np.array_equal(solution.answers, expected)


def test_save_and_load(model, tmp_path):
    path = tmp_path / "model.pt"
    tinytrm.save(path, model, note="hello", rows=torch.arange(3))
    again = tinytrm.load(path)
    assert again.config == model.config and again.extra["note"] == "hello"
    for a, b in zip(model.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]
    whole = path.read_bytes()
    with pytest.raises(pickle.UnpicklingError, match="numpy"):
        tinytrm.save(path, model, exact=np.float64(0.5))  # not so late as in `load`
    assert path.read_bytes() == whole


def test_a_subclass_of_config_is_found_again(tmp_path):
    model = tiny(columns=3, mixer="attention").build()
    tinytrm.save(tmp_path / "model.pt", model)
    again = tinytrm.load(tmp_path / "model.pt")
    assert type(again) is type(model) and again.config == model.config
    code = "import sys, tinytrm; tinytrm.load(sys.argv[1])"
    done = run([sys.executable, "-c", code, tmp_path / "model.pt"])
    assert "is of the class BeyondConfig; import it" in done.stderr


def test_damaged_and_foreign_files(model, tmp_path):
    def refused(words):
        with pytest.raises(ValueError, match=f"model.pt: not a usable model: .*{words}") as e:
            load_model(tmp_path)
        assert "\n" not in str(e.value)

    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match="no such model"):
        load_model(tmp_path)
    tinytrm.save(path, model)
    assert load_model(path).config == model.config
    whole = path.read_bytes()
    for content in (whole[:len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(content)
        refused("")
    at = whole.index(model.output_weight.numpy().tobytes())
    path.write_bytes(whole[:at + 5] + bytes([whole[at + 5] ^ 1]) + whole[at + 6:])
    refused("damaged")
    torch.save({"some": "dict"}, path)
    refused("train the model anew")
    other = dict(config_class="Config", weights=model.state_dict(), extra={})
    torch.save(dict(other, config=dataclasses.asdict(tiny(dim=32))), path)
    refused("size mismatch")
    torch.save(dict(other, config=dict(unknown=1)), path)
    refused("unknown")
    weights = {k: v / 0 for k, v in model.state_dict().items()}
    torch.save(dict(other, config=dataclasses.asdict(model.config), weights=weights), path)
    refused("damaged")


def test_loading_executes_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"config_class": "Config", "config": Evil()}, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError):
        tinytrm.load(tmp_path / "model.pt")
    assert not (tmp_path / "touched").exists()


def test_failed_save_keeps_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    tinytrm.save(path, model)
    before = path.read_bytes()

    def full_disk(content, file):
        open(file, "wb").write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        tinytrm.save(path, model)
    assert path.read_bytes() == before


@BOTH
def test_official_round_trip(mixer, tmp_path):
    """Our weights under the authors' names load as the same model, sizes read off the tensors."""
    model, official = TRM(tiny(mixer=mixer, width_multiple=256)), {}
    reverse = [(ours, theirs) for theirs, ours in OFFICIAL_NAMES.items() if ours]
    for key, value in model.state_dict().items():
        kind = ("mlp_t." if mixer == "mlp" else "self_attn.") if "mix" in key else "mlp."
        for ours, theirs in reverse:
            if ours in key and theirs.startswith(("mlp", "self_attn")) <= theirs.startswith(kind):
                key = key.replace(ours, theirs)
                break
        official["_orig_mod.model.inner." + key.replace("layers.", "L_level.layers.")] = value
    torch.save(official, tmp_path / "step_1")
    sizes = dict(seq_len=9, n=2, T=3)
    loaded = load_official(tmp_path / "step_1", **sizes, heads=2, puzzle_tokens=2)
    for a, b in zip(model.state_dict().values(), loaded.state_dict().values()):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="not a checkpoint of the authors"):
        load_official({"a": torch.zeros(1)}, **sizes)
    with pytest.raises(ValueError, match="is of another shape"):
        load_official(tmp_path / "step_1", **sizes, heads=2, puzzle_tokens=2, expansion=99)


def test_import_is_silent_and_leaves_no_trace():
    """And the programs do without matplotlib until they draw."""
    code = ("import torch, sys; s = torch.get_rng_state(); import tinytrm; "
            "assert torch.equal(s, torch.get_rng_state()); import train, evaluate; "
            "assert 'matplotlib' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_steps():
    code = """
import resource, tinytrm
from conftest import tiny, toy_puzzles
seen = []
def on_step(state, metrics):
    if state.step % 2000 == 0:
        seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
tinytrm.train(tiny(steps=10_000, n=1, T=1, N_sup=1), toy_puzzles(), on_step=on_step)
assert seen[-1] - seen[0] < 20_000, seen  # kB
"""
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
