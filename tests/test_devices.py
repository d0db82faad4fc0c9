"""What a GPU would meet, without one: on the meta device tensors have a shape but no values, so
that whatever asks for a value, or mixes devices, raises."""
import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tinytrm
from support.presets import PRESETS
from tinytrm import State


class AnyPuzzles:
    """Random tokens, at once, for any config."""

    def __init__(self, config):
        self.config = config

    def check(self, config):
        assert config == self.config

    def draw(self, positions, seed, random):
        B, config = len(positions), self.config
        tokens = np.full((B, config.seq_len), config.vocab_size - 1)
        return tokens, tokens, (random(1)[:, 0] * config.num_puzzle_ids).astype(int)


class Watched(TorchDispatchMode):
    """Counts the operations that leave the device or depend on a value there."""

    WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2"}

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, tensors = function.overloadpacket.__name__, [a for a in args if torch.is_tensor(a)]
        if name in self.WAITING and any(t.is_meta for t in tensors):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def small(config, **changes):
    """The preset, with a puzzle table that a test can hold."""
    return dataclasses.replace(config, num_puzzle_ids=min(config.num_puzzle_ids, 1000), **changes)


@pytest.fixture
def asked(monkeypatch):
    """The tensors fetched from the device; every second slot says that it has halted."""
    fetched = []

    def cpu(tensor):
        fetched.append(tensor)
        return torch.arange(len(tensor), device="cpu") % 2 == 0

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    return fetched


def meta_state(config):
    """A State on the meta device; its AdamW is not fused, which meta tensors cannot be."""
    with torch.device("meta"):  # else all weights are drawn first, on the CPU
        state = State(config, "meta")
    state.slots.halted = torch.ones(config.batch_size, dtype=torch.bool, device="cpu")
    state.optimizer = torch.optim.AdamW(state.model.parameters(), betas=(0.9, 0.95), foreach=True,
                                        weight_decay=config.weight_decay)
    return state


@pytest.mark.parametrize("name, pieces", [
    *((name, 1) for name in PRESETS if name != "arc2"), ("sudoku6", 2)])  # arc2 is arc1 here
def test_training_steps_of_every_preset_wait_for_the_device_once(name, pieces, asked):
    """Refill, supervise and update, twice: one fetch a backward pass, of who has halted,
    and nothing else that would make a GPU wait or the host wait for it."""
    preset = PRESETS[name].config
    config = small(preset, steps=2, micro_batch=preset.batch_size // pieces)
    state, watched, metrics = meta_state(config), Watched(), []
    with watched:
        tinytrm.train(config, AnyPuzzles(config), "meta", state, lambda s, m: metrics.append(m))
    assert state.step == 2 and not watched.seen
    assert len(asked) == 2 * pieces and all(t.dtype == torch.bool for t in asked)
    assert all(v.is_meta for m in metrics for v in m.values())


class Sent(TorchDispatchMode):
    """Lists what is sent to the device."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if torch.is_tensor(out) and out.is_meta and args and not getattr(args[-1], "is_meta", True):
            self.events.append("sent")
        return out


def test_puzzles_are_drawn_before_anything_is_sent_to_the_device(asked):
    """What is sent waits for the step before; until then the GPU is at work on that."""
    config, events = small(PRESETS["sudoku6"].config, steps=2), []

    class Drawn(AnyPuzzles):
        def draw(self, *where):
            events.append("draw")
            return super().draw(*where)

    state = meta_state(config)
    with Sent(events):
        tinytrm.train(config, Drawn(config), "meta", state, lambda s, m: events.append("step"))
    one = ["draw", *["sent"] * 5, "step"]  # which slots, inputs, labels, ids; exploration
    assert events == one + one


def test_the_watch_would_see_a_wait():
    watched = Watched()
    with watched, pytest.raises((RuntimeError, NotImplementedError)):
        torch.zeros(3, device="meta").sum().item()
    assert watched.seen == ["_local_scalar_dense"]


class Counting(TorchDispatchMode):
    """Counts all operations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_a_step_launches_as_much_whatever_the_batch():
    counts = []
    for batch in (8, 32):
        config = small(PRESETS["sudoku4"].config, steps=2, batch_size=batch, dtype="float32")
        state = State(config)
        with Counting() as counting:
            tinytrm.train(config, AnyPuzzles(config), state=state)
        counts.append(counting.count)
    assert counts[0] == counts[1]
