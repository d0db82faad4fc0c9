"""What a run costs, counted and measured: FLOPs, memory, the compiler, the benchmark."""
import dataclasses
import re

import pytest
import torch

import tinytrm
from conftest import program, tiny
from support import cost
from support.presets import PRESETS
from tinytrm import inner_width

SUDOKU4 = PRESETS["sudoku4"].config


def flops_by_formula(config):
    """Each product (m, k) @ (k, n) is 2 m k n; a backward pass costs twice its forward pass."""
    L, D, K = config.length, config.dim, getattr(config, "symbols", 1)
    inner_L, inner_D = inner_width(config, L), inner_width(config, D)
    layer = 2 * 3 * L * K * D * inner_D  # gate, up and down along the features
    if config.mixer == "mlp":
        layer += 2 * 3 * K * D * L * inner_L  # the same along the positions
    else:
        layer += 2 * 4 * K * L * D * D  # query, key, value and the output
        layer += 2 * 2 * K * L * L * D  # scores, and the sum of values
    if K > 1:
        layer += 2 * L * D * D  # where the symbols meet
    calls = (config.T + 2) * (config.n + 1)  # those of the last cycle count three times
    head = 2 * config.seq_len * K * D * config.vocab_size
    return config.batch_size * (calls * config.layers * layer + 3 * head)


@pytest.mark.parametrize("preset", ["sudoku", "sudoku-att", "sudoku6", "sudoku9", "arc-mini"])
def test_flops_are_those_of_the_formula(preset):
    config = PRESETS[preset].config
    assert cost.flops_per_step(config) == pytest.approx(flops_by_formula(config), rel=1e-3)


@pytest.mark.parametrize("preset", ["sudoku", "sudoku-att", "sudoku9", "arc-mini"])
def test_parameters_without_making_them(preset):
    config = PRESETS[preset].config
    assert cost.parameters(config) == sum(p.numel() for p in config.build().parameters())


def test_memory_grows_with_what_carries_gradient():
    small = cost.bytes_per_puzzle(tiny())
    assert cost.bytes_per_puzzle(tiny(T=9)) == small, "cycles without gradient keep nothing"
    one_more = cost.bytes_per_puzzle(tiny(n=3)) - small
    assert cost.bytes_per_puzzle(tiny(n=4)) - small == pytest.approx(2 * one_more, rel=1e-3)
    config = dataclasses.replace(PRESETS["sudoku"].config, batch_size=99_999_999)
    with pytest.raises(ValueError, match=r"puzzles at a time need about .* --micro_batch \d+"):
        cost.check_memory(config, torch.device("cpu"))
    wide = dataclasses.replace(config, dim=2**20, batch_size=1)
    with pytest.raises(ValueError, match="lower dim"):
        cost.check_memory(wide, torch.device("cpu"))


def test_advice_on_memory_helps(monkeypatch):
    """In numbers of one process, and never of puzzles where one is too many."""
    config = PRESETS["sudoku"].config
    for world, said in ((1, "--micro_batch 192 computes"), (4, "--micro_batch 48"), (768, "small")):
        monkeypatch.setattr(cost, "rank_and_world", lambda world=world: (0, world))
        with pytest.raises(ValueError, match=said):
            with cost.advice_on_memory(cost.slots_at_once(config), "--micro_batch"):
                raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="another"), cost.advice_on_memory(8, "--batch_size"):
        raise RuntimeError("another")


@pytest.mark.parametrize("preset, numbers", [
    ("sudoku", ["5,028,866", "65,104", "3.28e+13 a step", "0.6 hours"]),
    ("arc1", ["6,829,058", "876,401 rows", "hours, $4", "not measured"])])
def test_dry_run(preset, numbers, tmp_path):
    stdout, _ = program("train.py", "--preset", preset, "--dry-run", "--out", tmp_path / "none")
    assert all(n in stdout for n in numbers) and not (tmp_path / "none").exists()


def test_compiled_on_cuda_unless_told_otherwise():
    import evaluate
    import train

    for parse in (lambda w: train.parse_args(w)[0], lambda w: evaluate.parse_args(["run", *w])):
        assert [parse(w).compile for w in ([], ["--compile"], ["--no-compile"])] == [
            None, True, False], "None: where the device is a GPU"
    cases = ((None, "cpu"), (None, "cuda"), (False, "cuda"), (True, "cpu"))
    wanted = [cost.compiles(flag, torch.device(name)) for flag, name in cases]
    assert wanted == [False, True, False, True]
    assert not cost.compiles(None, torch.device("cuda"), steps=1200), "a run of seconds"


def test_a_compiler_that_fails_is_an_error_with_its_reason(monkeypatch):
    """Also in the backward pass, at once and not in the first step."""
    state = tinytrm.State(dataclasses.replace(SUDOKU4, dim=8))

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h * 1

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no backward here")

    monkeypatch.setattr(torch, "compile", lambda net, **_: lambda h: Fails.apply(net(h)))
    with pytest.raises(ValueError, match="torch.compile failed; --no-compile .* no backward here"):
        cost.compile_net(state.model, 4)


def test_bench_reports_what_it_measured(monkeypatch):
    monkeypatch.setattr(cost, "compile_net", lambda *_: None)
    stdout, _ = program("train.py", "--preset", "sudoku4", "--bench", "--device", "cpu")
    large = float(re.search(r"product: ([\d,]+) GFLOP/s", stdout)[1].replace(",", ""))
    for how in ("plain", "compiled"):
        line = rf"{how} +([\d.]+) ms a step.* ([\d,]+) GFLOP/s, (\d+)% of a large product"
        ms, rate, share = re.search(line, stdout).groups()
        counted = cost.flops_per_step(SUDOKU4) / float(ms) * 1000 / 1e9
        assert float(rate) == pytest.approx(counted, rel=0.02, abs=1)
        assert float(share) == pytest.approx(100 * counted / large, abs=2)
