"""Symbols that are alike: the same weights for each, and nothing that tells one from another."""
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tinytrm
from conftest import tiny, toy_puzzles
from tinytrm import TRM, Puzzles
from tinytrm_beyond import BeyondConfig
from tinytrm_beyond.halting import HaltingTRM

BOTH = pytest.mark.parametrize("mixer", ["mlp", "attention"])
K, D = 4, 16  # the tokens of `tiny` are 0, 1 and the symbols 2..5


def model_of(mixer: str, **changes) -> TRM:
    model = tiny(mixer=mixer, symbols=K, **changes).build()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
        model.puzzle_table.normal_()
    return model


def renamed(tokens, order):
    """Tokens with symbol k renamed to symbol order[k]."""
    return torch.cat([torch.tensor([0, 1]), 2 + order])[tokens]


@BOTH
def test_renaming_the_symbols_renames_the_answer_and_nothing_else(mixer):
    model, tokens = model_of(mixer), torch.randint(0, 6, (8, 9))
    rows, order = torch.randn(8, D), torch.tensor([2, 0, 3, 1])
    y, z, logits, q = model(tokens, rows, *model.start(8))
    y2, _, logits2, q2 = model(renamed(tokens, order), rows, *model.start(8))
    columns = renamed(torch.arange(6), order)
    torch.testing.assert_close(logits2[..., columns], logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(q2, q, atol=1e-4, rtol=1e-4)
    part = [t.unflatten(-1, (K, D)) for t in (y, y2)]
    torch.testing.assert_close(part[1][..., order, :], part[0], atol=1e-3, rtol=1e-3)
    assert (logits2 - logits).abs().max() > 0.1, "the test would not see a difference"


@BOTH
def test_the_network_symbol_by_symbol(mixer):
    """One symbol at a time by the network of the plain model, but for the one meeting per layer."""
    model, plain = model_of(mixer), TRM(tiny(mixer=mixer))
    rms = lambda t: t / (t.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    with torch.no_grad():
        h = torch.randn(3, 11, K * D)
        mine, parts = model.net(h), list(h.chunk(K, -1))
        for layer, other in zip(model.layers, plain.layers):
            shared = {k: v for k, v in layer.state_dict().items() if k != "mix_symbols"}
            other.load_state_dict(shared)
            met = []
            for t in parts:  # up to the meeting, which is before the SwiGLU of the features
                if mixer == "mlp":
                    s = t.mT
                    gate, up = (s @ other.mix_in.T).chunk(2, -1)
                    met.append(rms(s + (F.silu(gate) * up) @ other.mix_out.T).mT)
                else:
                    met.append(rms(t + other.attention(t.transpose(0, 1)).transpose(0, 1)))
            mean = sum(met) / K
            parts = [rms(t + mean @ layer.mix_symbols.T) for t in met]
            for i, t in enumerate(parts):
                gate, up = (t @ other.gate_up.T).chunk(2, -1)
                parts[i] = rms(t + (F.silu(gate) * up) @ other.down.T)
    torch.testing.assert_close(mine, torch.cat(parts, -1), atol=1e-3, rtol=1e-3)


def test_vectors_of_the_tokens():
    """Padding and blank are alike to all symbols; a symbol is "this" to itself, else "another"."""
    model, rows = model_of("mlp", puzzle_tokens=1), torch.zeros(1, D)
    x = model.embed(torch.tensor([[0, 1, 2, 3, 4, 5, 0, 0, 0]]), rows)[0, 1:].view(9, K, D) / D**0.5
    for token in range(6):
        for k in range(K):
            row = token if token < 2 else 2 if token == 2 + k else 3
            torch.testing.assert_close(x[token, k], model.token_embedding[row])
    y = torch.randn(1, 10, K * D)
    logits = model.output_head(y)[0, 0]
    for token in range(6):
        which = [token if token < 2 else 2 if token == 2 + k else 3 for k in range(K)]
        mine = (y[0, 1].view(K, D) * model.output_weight[which]).sum()
        torch.testing.assert_close(logits[token], mine, atol=1e-4, rtol=1e-4)
    torch.nn.init.normal_(model.q_weight, generator=torch.Generator().manual_seed(0))
    q = y[0, 0].view(K, D).mean(0) @ model.q_weight[0] + model.q_bias[0]
    torch.testing.assert_close(model.halt_head(y)[0], q, atol=1e-4, rtol=1e-4)


def test_at_their_defaults_the_fields_beyond_change_nothing():
    plain = tiny(mixer="attention", N_sup=3)
    beyond = BeyondConfig(**dataclasses.asdict(plain))
    assert type(beyond.build()) is HaltingTRM and type(plain.build()) is TRM
    a, b = (tinytrm.train(c, toy_puzzles(), on_step=None).state_dict() for c in (plain, beyond))
    assert all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


def test_a_model_of_symbols_is_saved_and_loaded(tmp_path):
    model = model_of("mlp")
    tinytrm.save(tmp_path / "m.pt", model)
    tokens = np.random.default_rng(0).integers(1, 6, (4, 9))
    a, b = (tinytrm.solve(m, tokens) for m in (model, tinytrm.load(tmp_path / "m.pt")))
    assert (a.answers == b.answers).all() and (a.q == b.q).all()


def test_too_many_symbols_are_refused():
    with pytest.raises(ValueError, match="symbols must be in 1..5, not 6"):
        tiny(symbols=6)


def test_what_is_learnt_of_some_symbols_holds_for_all():
    """Symbols 2 and 3 are trained; 4 and 5, never seen, are answered as well."""
    config = tiny(symbols=K, num_puzzle_ids=1, n=1, T=1, batch_size=32, steps=150, lr=1e-2,
                  warmup=5, ema=0.9, loss="softmax", weight_decay=0.1)
    tokens = np.random.default_rng(0).integers(2, 4, (200, 9))
    model = tinytrm.train(config, Puzzles(tokens, np.roll(tokens, 1, 1)), on_step=None)
    right = {s: (tinytrm.solve(model, t := tokens[:50] + s).answers == np.roll(t, 1, 1)).mean()
             for s in (0, 2)}
    assert right[0] > 0.95 and right[2] == right[0], right
