"""Number for number the authors' model: every file in $TINYTRM_GOLDEN (default tests/golden).

The files were recorded from the authors' implementation, float32 on a CPU. They hold no weights
but the rule that makes them. Rounding grows through the recursion, from step to step.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from support.official import OFFICIAL_NAMES, load_official
from tinytrm import State, losses, refill

FILES = sorted(
    Path(os.environ.get("TINYTRM_GOLDEN") or Path(__file__).parent / "golden").glob("*.npz")
)


def make_weights(rule: dict) -> dict:
    """The state dict that the file's rule describes, official key names."""
    def normal(i, r):
        return np.random.default_rng([rule["seed"], i]).standard_normal(r["shape"])

    return {key: torch.from_numpy((normal(i, r) * r["scale"] + r["shift"]).astype(np.float32))
            for i, (key, r) in enumerate(sorted(rule["keys"].items()))}


def ours(official: str) -> str:
    """Our name of one of their parameters."""
    name = official.split("model.inner.")[-1]
    for theirs, mine in OFFICIAL_NAMES.items():
        name = name.replace(theirs, mine)
    return name


def load_golden(path):
    golden = np.load(path)
    c = json.loads(str(golden["config_json"]))
    model = load_official(
        make_weights(json.loads(str(golden["weights_json"]))), seq_len=c["seq_len"],
        n=c["L_cycles"], T=c["H_cycles"], heads=c["num_heads"], expansion=c["expansion"],
        puzzle_tokens=c["puzzle_emb_len"], N_sup=c["halt_max_steps"],
        batch_size=c["batch"], halt_exploration=c["halt_exploration_prob"], dtype="float32")
    return golden, c, model


class Offered:
    """A stream whose puzzle at position step * B + slot is the file's offered row of that slot."""

    def __init__(self, golden, batch):
        self.golden, self.batch = golden, batch

    def draw(self, positions, seed, random):
        step, slots = positions[0] // self.batch, positions % self.batch
        inputs, labels, ids = (self.golden[f"step{step}/offered/{k}"][slots]
                               for k in ("inputs", "labels", "puzzle_identifiers"))
        return inputs, labels.clip(min=0), ids  # they mark unlabelled cells by -100, we by 0


def test_files_are_there():
    assert FILES, "no golden files found"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path):
    golden, c, model = load_golden(path)
    state, offered = State(model.config), Offered(golden, c["batch"])
    state.model, slots = model, state.slots
    slots.y[:], slots.z[:] = model.start(c["batch"])
    steps = 1 + max(int(k.split("/")[0][4:]) for k in golden.files if k.startswith("step"))
    for t in range(steps):
        g = {k.split("/", 1)[1]: golden[k] for k in golden.files if k.startswith(f"step{t}/")}
        tolerance = 5e-4 if t == 0 else 1e-2  # rounding grows; see the specification of the files

        def close(mine, name, scale=1.0):
            theirs = torch.as_tensor(g[name]).double()
            worst = (torch.as_tensor(mine).detach().double() - theirs).abs().max()
            bound = tolerance * max(1.0, scale, float(theirs.abs().max()))
            assert worst <= bound, f"step {t}, {name}: off by {worst:.2e}, allowed {bound:.2e}"

        # Halted slots take the offered row, the others keep theirs.
        state.step = t
        rng = np.random.default_rng((model.config.seed, t))
        explore = torch.from_numpy(rng.random((c["batch"], 2))).float()
        refill(state, offered, rng)
        held = (slots.inputs, torch.where(slots.labels > 0, slots.labels, -100), slots.ids)
        for mine, name in zip(held, ("inputs", "labels", "puzzle_identifiers")):
            assert np.array_equal(mine, g[f"in_slot/{name}"]), f"step {t}: {name} in slot"

        rows = model.puzzle_table[slots.ids].requires_grad_()
        slots.y, slots.z, logits, q = model(slots.inputs, rows, slots.y, slots.z)
        answer_loss, halting_loss, share, exact = losses(model.config, logits, q, slots.labels)
        loss = answer_loss.sum() + model.config.halt_weight * halting_loss.sum()
        slots.steps += 1
        sure = q if c["training"] else torch.full_like(q, -1)
        slots.halted = model.halts(sure, slots.steps, explore, t)

        close(logits, "logits")
        close(q, "q_halt_logits")
        close(slots.y.norm(dim=-1), "y_norm")
        close(slots.z.norm(dim=-1), "z_norm")
        assert np.array_equal(slots.steps, g["steps"]), f"step {t}: steps"
        assert np.array_equal(slots.halted, g["halted"]), f"step {t}: halting"
        close(loss, "loss_sum")
        close(answer_loss.sum(), "lm_loss_sum")
        close(halting_loss.sum(), "q_halt_loss_sum")

        done = slots.halted & (slots.labels > 0).any(-1)
        assert done.sum() == g["metrics/count"]
        close((done * share).sum(), "metrics/accuracy")
        assert (done & exact).sum() == g["metrics/exact_accuracy"]
        assert (done & ((q >= 0) == exact)).sum() == g["metrics/q_halt_accuracy"]
        assert (done * slots.steps).sum() == g["metrics/steps"]

        if any(k.startswith("grad_norm/") for k in g):
            model.zero_grad()
            loss.backward()
            named = dict(model.named_parameters())
            for key in (k.split("/")[1] for k in g if k.startswith("grad_norm/")):
                grad = rows.grad if key == "puzzle_emb_rows" else named[ours(key)].grad
                norm = float(g[f"grad_norm/{key}"])
                close(grad.norm(), f"grad_norm/{key}")
                close(grad.flatten()[:16], f"grad_head/{key}", scale=norm)
