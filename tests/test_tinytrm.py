"""The core: parameter counts, the recursion re-derived, losses, halting, training, files."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinytrm
from data.official import OFFICIAL_NAMES, load_official
from tinytrm import PRESETS, TRM, Config, Puzzles, State

TINY = Config(
    vocab_size=6,
    seq_len=9,
    num_puzzles=3,
    puzzle_tokens=2,
    dim=16,
    heads=2,
    width_multiple=8,
    n=2,
    T=3,
    max_steps=4,
    eval_steps=4,
    batch_size=8,
    steps=12,
    lr=1e-3,
    warmup=2,
    weight_decay=0.1,
    puzzle_lr=1e-2,
    dtype="float32",
)
BOTH = pytest.mark.parametrize("mixer", ["mlp", "attention"])


def tiny(**changes) -> Config:
    return dataclasses.replace(TINY, **changes)


def toy_puzzles(count=20, cells=9, vocab=6, seed=0, ids=3) -> Puzzles:
    """Label = input, moved one cell on: learnable, but not by copying."""
    random = np.random.default_rng(seed)
    inputs = random.integers(1, vocab, (count, cells))
    return Puzzles(inputs, np.roll(inputs, 1, axis=1), random.integers(0, ids, count))


# ------------------------------------------------------------------------------------------------
# The network


@pytest.mark.parametrize(
    "preset, vocab, cells, expected",
    [
        ("sudoku", 11, 81, 5_028_866),
        ("sudoku-att", 11, 81, 6_828_034),
        ("sudoku-att", 12, 900, 6_829_058),
    ],
)
def test_parameter_counts_are_the_papers(preset, vocab, cells, expected):
    config = dataclasses.replace(PRESETS[preset], vocab_size=vocab, seq_len=cells)
    with torch.device("meta"):
        assert sum(p.numel() for p in TRM(config).parameters()) == expected


def norm(h):  # another way to write the RMSNorm, on (B, L, D)
    return (
        F.normalize(h, dim=-1, eps=0)
        * h.shape[-1] ** 0.5
        * (1 + 1e-5 / h.square().mean(-1, keepdim=True)) ** -0.5
    )


def glu(h, gate_up, down):
    gate, up = (h @ gate_up.T).split(gate_up.shape[0] // 2, -1)
    return (gate * torch.sigmoid(gate) * up) @ down.T


def attend(h, block, heads):
    """Multi-head attention with rotary positions written as complex numbers, one head at a time."""
    B, L, D = h.shape
    size = D // heads
    turn = torch.polar(
        torch.ones(L, size // 2),
        torch.arange(L)[:, None] * 10000.0 ** (-torch.arange(size // 2) * 2 / size),
    )
    out = []
    for i in range(heads):
        q, k, v = (h @ block.mix_in[j * D + i * size : j * D + (i + 1) * size].T for j in range(3))
        q, k = (torch.complex(*t.split(size // 2, -1)) * turn for t in (q, k))
        weight = ((q @ k.conj().transpose(1, 2)).real / size**0.5).softmax(-1)
        out.append(weight @ v)
    return torch.cat(out, -1) @ block.mix_out.T


def plain_net(model, h):
    """The network, batch first and written without the file's helpers: (B, L, D) -> (B, L, D)."""
    for block in model.layers:
        if model.config.mixer == "mlp":
            s = h.transpose(1, 2)
            h = norm(s + glu(s, block.mix_in, block.mix_out)).transpose(1, 2)
        else:
            h = norm(h + attend(h, block, model.config.heads))
        h = norm(h + glu(h, block.gate_up, block.down))
    return h


@BOTH
def test_deep_recursion_equals_the_unrolled_derivation(mixer):
    model = TRM(tiny(mixer=mixer))
    torch.manual_seed(0)
    x, y, z = torch.randn(3, 5, 11, 16).unbind()  # (B, L, D) each
    weights = [list(layer.values()) for layer in model.layers]
    y1, z1 = model.deep_recursion(*(t.transpose(0, 1) for t in (x, y, z)), weights)
    net = lambda h: plain_net(model, h)
    for _ in range(3):  # T cycles of n = 2 latent steps and one answer step
        z = net(x + y + z)
        z = net(x + y + z)
        y = net(y + z)
    torch.testing.assert_close(y1.transpose(0, 1), y, atol=2e-3, rtol=0)
    torch.testing.assert_close(z1.transpose(0, 1), z, atol=2e-3, rtol=0)


@BOTH
def test_gradient_comes_from_the_last_cycle_only(mixer):
    """The embeddings' gradient equals that of the last cycle alone, started from constants."""
    config = tiny(mixer=mixer, num_puzzles=0)
    model = TRM(config)
    inputs = torch.from_numpy(toy_puzzles(5).inputs)
    y, z = model.start(5)
    *_, logits, q = model(inputs, None, y, z)
    (logits.square().sum() + q.sum()).backward()
    full = {k: p.grad.clone() for k, p in model.named_parameters()}

    model.zero_grad()
    x = model.embed(inputs, None)
    weights = [list(layer.values()) for layer in model.layers]
    for _ in range(config.T - 1):
        y, z = model.latent_recursion(x, y, z, weights)
    y, z = model.latent_recursion(x, y.detach(), z.detach(), weights)
    logits = (y[config.puzzle_tokens :] @ model.output_head.T).transpose(0, 1)
    (logits.square().sum() + model.halt_head(y[0])[:, 0].sum()).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, full[name], atol=1e-4, rtol=1e-3)
    assert full["token_embedding"].abs().sum() > 0

    # And it is not the gradient through all cycles.
    model.zero_grad()
    y, z = model.start(5)
    x = model.embed(inputs, None)
    for _ in range(config.T):
        y, z = model.latent_recursion(x, y, z, weights)
    (y[config.puzzle_tokens :] @ model.output_head.T).square().sum().backward()
    assert (model.token_embedding.grad - full["token_embedding"]).abs().max() > 1e-3


def test_returned_states_carry_no_gradient():
    model = TRM(tiny())
    y, z, logits, q = model(
        torch.ones(2, 9, dtype=torch.long), model.puzzle_rows(torch.tensor([0, 1])), *model.start(2)
    )
    assert not y.requires_grad and not z.requires_grad and logits.requires_grad and q.requires_grad


def test_initialization():
    model = TRM(dataclasses.replace(PRESETS["sudoku-att"]))
    block = model.layers[0]
    assert block.gate_up.std().item() == pytest.approx(512**-0.5, rel=0.01)
    assert block.down.std().item() == pytest.approx(1536**-0.5, rel=0.01)
    assert block.gate_up.abs().max().item() <= 2 / 0.8796 * 512**-0.5
    assert (model.halt_head.bias == -5).all() and (model.halt_head.weight == 0).all()
    assert model.y_init.std().item() == pytest.approx(1, abs=0.1) and not torch.equal(
        model.y_init, model.z_init
    )
    assert (model.puzzle_table == 0).all()


def test_model_depends_on_its_seed_alone():
    torch.manual_seed(1)
    a = TRM(tiny())
    torch.manual_seed(2)
    b, c = TRM(tiny()), TRM(tiny(seed=1))
    assert torch.equal(a.output_head, b.output_head) and not torch.equal(
        a.output_head, c.output_head
    )


@BOTH
def test_bfloat16_is_close_to_float32(mixer):
    outputs = []
    for dtype in ("float32", "bfloat16"):
        model = TRM(tiny(mixer=mixer, dtype=dtype, n=1, T=1))
        y, z, logits, q = model(
            torch.from_numpy(toy_puzzles(4).inputs),
            model.puzzle_rows(torch.zeros(4, dtype=torch.long)),
            *model.start(4),
        )
        assert y.dtype == getattr(torch, dtype) and logits.dtype == q.dtype == torch.float32
        outputs.append(logits)
    torch.testing.assert_close(*outputs, atol=0.1, rtol=0.1)


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
    logits = torch.tensor(
        [
            [[0.0, 2.0, -1.0], [0.0, -3.0, 1.0]],
            [[0.0, 0.5, 0.0], [3.0, 0.0, 0.0]],
            [[0.0, 1.0, 0.0]] * 2,
        ]
    )
    labels = torch.tensor(
        [[1, 2], [1, 0], [0, 0]]
    )  # all right; one labelled cell; nothing labelled
    q = torch.tensor([2.0, -1.0, 0.5])
    answer, halting, share = tinytrm.losses(config, logits, q, labels)

    def cross_entropy(row, label):
        s = [math.exp(v) if kind == "softmax" else v + 1 if v >= 0 else 1 / (1 - v) for v in row]
        return -math.log(s[label] / sum(s))

    assert answer[0].item() == pytest.approx(
        (cross_entropy([0, 2, -1], 1) + cross_entropy([0, -3, 1], 2)) / 2, abs=1e-5
    )
    assert answer[1].item() == pytest.approx(cross_entropy([0, 0.5, 0], 1), abs=1e-5)
    assert answer[2].item() == 0
    right = [1, 1, 1]  # a row without labels counts as right in the halting target
    expected = [
        -math.log(1 / (1 + math.exp(-v))) if r else -math.log(1 - 1 / (1 + math.exp(-v)))
        for v, r in zip(q.tolist(), right)
    ]
    assert halting.tolist() == pytest.approx(expected, abs=1e-5)
    assert share.tolist() == [1, 1, 0]
    wrong = tinytrm.losses(config, -logits, q, labels)
    assert wrong[1][0].item() == pytest.approx(-math.log(1 - 1 / (1 + math.exp(-2.0))), abs=1e-5)


def test_halting_rules():
    config = tiny(max_steps=4, halt_exploration=0.5)
    steps = torch.tensor([1, 4, 2, 2, 3])
    q = torch.tensor([1.0, -1.0, -1.0, 0.5, 0.5])
    assert tinytrm.should_halt(config, q, steps).tolist() == [True, True, False, True, True]
    explore = torch.tensor(
        [[0.1, 0.0], [0.1, 0.9], [0.1, 0.0], [0.1, 0.99], [0.9, 0.99]]
    )  # at least 2, 4, 2, 4, not exploring
    assert tinytrm.should_halt(config, q, steps, explore).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]


def test_exploration_draws_two_to_max_steps_evenly():
    config, random = (
        tiny(max_steps=5, halt_exploration=1.0),
        torch.rand(40000, 2, generator=torch.Generator().manual_seed(0)),
    )
    halts = [
        tinytrm.should_halt(config, torch.ones(40000), torch.full((40000,), s), random)
        .float()
        .mean()
        .item()
        for s in range(1, 6)
    ]
    assert halts == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.01)


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
    assert [tinytrm.learning_rate(constant, s) for s in (0, 4, 9, 10, 109)] == pytest.approx(
        [0.1, 0.5, 1, 1, 1]
    )
    assert [tinytrm.learning_rate(cosine, s) for s in (0, 9, 10, 60, 110)] == pytest.approx(
        [0.1, 1, 1, 0.5, 0], abs=1e-9
    )


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
    state = State(config)
    reference = TRM(config)
    trained = tinytrm.train(
        config, puzzles, state=state, on_step=lambda s, m: seen.append(m.clone())
    )

    p = dict(reference.named_parameters())
    first, second, ema = ({k: torch.zeros_like(v) for k, v in p.items()} for _ in range(3))
    ema = {k: v.detach().clone() for k, v in p.items()}
    inputs, labels, ids = (
        torch.from_numpy(a.astype(np.int64)) for a in puzzles.draw(np.arange(4), config.seed)
    )
    y, z = reference.start(4)
    for step in (1, 2):  # no slot halts in two steps, since q starts at -5
        rows = reference.puzzle_table[ids].requires_grad_()
        y, z, logits, q = reference(inputs, rows, y, z)
        answer, halting, _ = tinytrm.losses(config, logits, q, labels)
        loss = (answer + 0.5 * halting).sum() / 4
        assert loss.item() == pytest.approx(seen[step - 1][0].item(), rel=1e-5)
        reference.zero_grad()
        loss.backward()
        lr = config.lr * step / 2
        with torch.no_grad():
            for k, v in p.items():
                first[k] = 0.9 * first[k] + 0.1 * v.grad
                second[k] = 0.95 * second[k] + 0.05 * v.grad**2
                v *= 1 - lr * config.weight_decay
                v -= (
                    lr
                    * (first[k] / (1 - 0.9**step))
                    / ((second[k] / (1 - 0.95**step)).sqrt() + 1e-8)
                )
                ema[k] = config.ema * ema[k] + (1 - config.ema) * v
            for i in ids.unique():
                row = reference.puzzle_table[i]
                row *= 1 - config.puzzle_lr * step / 2 * 0.1
                row -= config.puzzle_lr * step / 2 * rows.grad[ids == i].sum(0).sign()
    for k, v in trained.named_parameters():
        torch.testing.assert_close(v, ema[k], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(
            dict(state.model.named_parameters())[k], p[k], atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(trained.puzzle_table, reference.puzzle_table)


# ------------------------------------------------------------------------------------------------
# Training


@BOTH
def test_overfits_one_batch(mixer):
    puzzles = toy_puzzles(8)
    model = tinytrm.train(
        tiny(
            mixer=mixer,
            steps=200,
            lr=3e-3,
            dim=32,
            heads=4,
            weight_decay=0,
            ema=0.9,
            n=1,
            T=1,
            max_steps=2,
        ),
        puzzles,
    )
    assert tinytrm.evaluate(model, puzzles, halt=True)["exact_accuracy"] == 1.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_seed_same_weights(dtype):
    models = [tinytrm.train(tiny(dtype=dtype), toy_puzzles()) for _ in range(2)]
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values()):
        assert torch.equal(a, b)
    other = tinytrm.train(tiny(dtype=dtype, seed=1), toy_puzzles())
    assert not torch.equal(models[0].output_head, other.output_head)


def test_shallow_training_begins_with_one_shorter_cycle():
    state, calls, per_step = State(tiny(steps=6, shallow=0.5, n=4)), [], []
    plain = state.model.net
    state.model.net = lambda h, weights: (calls.append(h.requires_grad), plain(h, weights))[1]
    tinytrm.train(
        state.model.config,
        toy_puzzles(),
        state=state,
        on_step=lambda *_: (per_step.append((len(calls), sum(calls))), calls.clear()),
    )
    # n + 1 calls with gradient, T (n + 1) in all; first with T = 1 and n = 3, then with 3 and 4.
    assert per_step == [(4, 4)] * 3 + [(15, 5)] * 3
    assert (state.ema.n, state.ema.T) == (4, 3)  # what is evaluated is never shallow


def test_accumulation_is_the_same_mathematics():
    # Rounding grows about tenfold with each step of so small a network: few and small steps.
    states = [State(tiny(micro_batch=m, steps=4, lr=1e-4, puzzle_lr=1e-4)) for m in (0, 3)]
    for state in states:
        tinytrm.train(state.model.config, toy_puzzles(), state=state)
    for a, b in zip(states[0].model.state_dict().values(), states[1].model.state_dict().values()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)  # moved by 4e-4


def test_slots_draw_only_when_halted_and_from_their_own_place():
    config, drawn = tiny(steps=9, max_steps=4, batch_size=4), []

    class Watched(Puzzles):
        def draw(self, positions, seed):
            drawn.append(positions.tolist())
            return super().draw(positions, seed)

    p = toy_puzzles()
    tinytrm.train(config, Watched(p.inputs, p.labels, p.ids))
    # q starts at -5, so all four slots take max_steps = 4 steps: they draw at steps 0, 4, 8.
    assert drawn == [[0, 1, 2, 3], [16, 17, 18, 19], [32, 33, 34, 35]]


def test_on_step_metrics():
    config, rows = tiny(steps=8), []
    tinytrm.train(config, toy_puzzles(), on_step=lambda s, m: rows.append((s.step, m)))
    assert [step for step, _ in rows] == list(range(1, 9))
    last = dict(zip(tinytrm.METRICS, rows[3][1].tolist()))
    assert last["count"] == 8 and last["steps"] == 8 * 4
    assert last["loss"] == pytest.approx(last["answer_loss"] + 0.5 * last["halting_loss"], rel=1e-5)
    assert rows[2][1][3] == 0


# ------------------------------------------------------------------------------------------------
# Data


def test_random_rows_are_stateless_and_uniform():
    positions = np.arange(50_000)
    r = tinytrm.random_rows(3, positions)
    a, b = r(2), r(3)
    again = tinytrm.random_rows(3, positions[[7, 123]])
    assert np.array_equal(np.hstack([again(2), again(3)]), np.hstack([a, b])[[7, 123]])
    numbers = np.hstack([a, b])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.stack([np.histogram(c, 20, (0, 1))[0] for c in numbers.T])
    chi2 = ((counts - 2500) ** 2 / 2500).sum(1)  # 19 degrees of freedom: above 50 once in 7000
    assert (chi2 < 50).all()
    correlation = np.corrcoef(
        np.vstack([numbers.T, np.roll(numbers[:, 0], 1), tinytrm.random_rows(4, positions)(1).T])
    )
    assert np.abs(correlation - np.eye(7)).max() < 0.02  # between columns, neighbours and seeds


def test_stream_shows_every_puzzle_once_an_epoch():
    p = toy_puzzles(10)
    p = Puzzles(np.arange(10)[:, None], np.zeros((10, 1), int))
    rows = p.draw(np.arange(30), seed=0)[0][:, 0].reshape(3, 10)
    assert all(sorted(r) == list(range(10)) for r in rows.tolist()) and not np.array_equal(
        rows[0], rows[1]
    )
    assert np.array_equal(p.draw(np.array([27, 3, 11]), 0)[0][:, 0], rows.ravel()[[27, 3, 11]])
    assert not np.array_equal(p.draw(np.arange(10), seed=1)[0][:, 0], rows[0])


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(inputs=np.zeros((0, 9), int), labels=np.zeros((0, 9), int)), "(0, 9)"),
        (dict(labels=np.ones((3, 8), int)), "(3, 8)"),
        (dict(ids=np.zeros(2, int)), "3 puzzles need as many ids"),
    ],
)
def test_malformed_puzzles(change, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        Puzzles(**{**dict(inputs=np.ones((3, 9), int), labels=np.ones((3, 9), int)), **change})


@pytest.mark.parametrize(
    "inputs, labels, ids, words",
    [
        (np.ones((3, 8), int), np.ones((3, 8), int), None, "8 cells"),
        (np.array([[1] * 9, [6] + [1] * 8]), np.ones((2, 9), int), None, "inputs row 1 holds 6"),
        (np.ones((2, 9), int), np.array([[1] * 9, [-1] + [1] * 8]), None, "labels row 1 holds -1"),
        (np.ones((2, 9), int), np.ones((2, 9), int), np.array([0, 3]), "ids row 1 holds 3"),
        (np.ones((2, 9)), np.ones((2, 9), int), None, "must be an integer"),
    ],
)
def test_puzzles_that_do_not_fit_the_model(inputs, labels, ids, words):
    with pytest.raises(ValueError, match=words):
        tinytrm.train(tiny(), Puzzles(inputs, labels, ids))


@pytest.mark.parametrize(
    "field, value",
    [("mixer", "conv"), ("dim", 0), ("n", 0), ("lr", float("nan")), ("ema", -1), ("batch_size", 0)],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=field):
        tiny(**{field: value})


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
            y, z, logits, q = model(inputs, model.puzzle_rows(ids), y, z)
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
    return torch.stack([q for _, q, _ in tinytrm.think(model, inputs, ids, 8)]).amax(0)


def test_halting_keeps_the_first_sure_answer(model):
    puzzles = toy_puzzles(40, seed=6)
    inputs, ids = torch.from_numpy(puzzles.inputs), torch.from_numpy(puzzles.ids)
    with torch.no_grad():
        model.halt_head.bias.add_(
            shift := 1e-3 - highest_q(model, inputs, ids).median()
        )  # about half halt early
        full = list(tinytrm.think(model, inputs, ids, 8))
        q = torch.stack([q for _, q, _ in full])
        first = torch.where((q > 0).any(0), (q > 0).float().argmax(0), 7)
        solution = tinytrm.solve(
            model, puzzles.inputs, puzzles.ids, steps=8, halt=True, batch_size=16
        )
        model.halt_head.bias.sub_(shift)
    assert 0 < (first < 7).sum() < 40, "the case is not interesting"
    assert np.array_equal(solution.steps, first + 1)
    expected = torch.stack([full[k][0][i] for i, k in enumerate(first.tolist())])
    assert np.array_equal(solution.answers, expected)


def test_save_and_load(model, tmp_path):
    path = tmp_path / "model.pt"
    tinytrm.save(path, model, note="hello", rows=torch.arange(3))
    again = tinytrm.load(tmp_path)
    assert again.config == model.config and again.extra["note"] == "hello"
    for a, b in zip(model.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]


def test_damaged_and_foreign_files(model, tmp_path):
    path = tmp_path / "model.pt"
    tinytrm.save(path, model)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            tinytrm.load(path)
    torch.save({"some": "dict"}, path)
    with pytest.raises(ValueError, match="not made by TinyTRM"):
        tinytrm.load(path)
    torch.save(
        dict(
            format="tinytrm-1",
            config=dataclasses.asdict(tiny(dim=32)),
            weights=model.state_dict(),
            extra={},
        ),
        path,
    )
    with pytest.raises(ValueError, match="do not fit") as e:
        tinytrm.load(path)
    assert "\n" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        tinytrm.load(tmp_path / "nowhere.pt")


def test_loading_executes_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"format": "tinytrm-1", "config": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        tinytrm.load(tmp_path)
    assert not (tmp_path / "touched").exists()


def test_failed_save_keeps_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    tinytrm.save(path, model)
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        tinytrm.save(path, model)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@BOTH
def test_official_round_trip(mixer, tmp_path):
    """Our weights under the authors' names load as the same model, sizes read off the tensors."""
    config = tiny(mixer=mixer, width_multiple=256)
    model = TRM(config)
    reverse = [(ours, theirs) for theirs, ours in OFFICIAL_NAMES.items() if ours]
    official = {}
    for key, value in model.state_dict().items():
        kinds = ["mlp_t." if mixer == "mlp" else "self_attn."] if "mix" in key else ["mlp."]
        for ours, theirs in reverse:
            if ours in key and (
                not theirs.startswith(("mlp", "self_attn")) or theirs.startswith(kinds[0])
            ):
                key = key.replace(ours, theirs)
                break
        official["_orig_mod.model.inner." + key.replace("layers.", "L_level.layers.")] = value
    torch.save(official, tmp_path / "step_1")
    loaded = load_official(
        tmp_path / "step_1", seq_len=9, n=2, T=3, heads=2, puzzle_tokens=2
    )
    for a, b in zip(model.state_dict().values(), loaded.state_dict().values()):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="not a checkpoint of the authors"):
        load_official({"a": torch.zeros(1)}, seq_len=9, n=2, T=3)
    with pytest.raises(ValueError, match="do not fit"):
        load_official(
            tmp_path / "step_1", seq_len=9, n=2, T=3, heads=2, puzzle_tokens=2, expansion=99
        )


def test_import_is_silent_and_leaves_no_trace():
    import subprocess
    import sys

    from conftest import ROOT

    code = (
        "import torch; s = torch.get_rng_state(); import tinytrm; "
        "assert torch.equal(s, torch.get_rng_state())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
