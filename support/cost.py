"""What a run costs: FLOPs, memory, hours, dollars, by formula and by the clock; torch.compile."""
from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

import tinytrm
from support.console import out_of_memory, say, warn
from support.processes import first_said
from tinytrm import Config, State, compute_dtype, inner_width, rank_and_world

# The GPU of the estimates: an NVIDIA H100. What it reaches in practice, not what is printed on it.
CARD, BANDWIDTH = "H100", 2.6e12  # bytes/s
FLOPS = 550e12, 250e12  # FLOP/s of bfloat16 products along the features and along the sequence
# How often each number that a network call makes travels to memory or back: eager, compiled.
TRAVELS = {"mlp": (4.0, 1.5), "attention": (7.6, 1.75)}


# ------------------------------------------------------------------------------------------------
# By formula


def symbols(config: Config) -> int:
    """K of tinytrm_beyond.symbols; 1 in the paper."""
    return getattr(config, "symbols", 1)


def products(config: Config) -> tuple[float, float]:
    """FLOPs of the matrix products of one optimizer step, forward calls + 2 x the calls with
    gradient: those along the features, and those along the sequence."""
    L, D, K, inner = config.length, config.dim, symbols(config), partial(inner_width, config)
    if config.mixer == "mlp":
        features, sequence = 0, 2 * K * D * 3 * L * inner(L)
    else:
        features, sequence = 2 * K * L * 4 * D * D, 4 * K * L * L * D
    features += 2 * L * (3 * K * D * inner(D) + (K > 1) * D * D)
    heads = 2 * config.seq_len * K * D * config.vocab_size
    calls = config.batch_size * (config.T + 2) * (config.n + 1)
    return (calls * config.layers * features + 3 * config.batch_size * heads,
            calls * config.layers * sequence)


def flops_per_step(config: Config) -> float:
    """FLOPs of all matrix products of one optimizer step."""
    return sum(products(config))


def numbers_per_call(config: Config) -> int:
    """Numbers that one call of the network makes on the way, for one puzzle."""
    L, D = config.length, config.dim
    mix = 3 * inner_width(config, L) * D if config.mixer == "mlp" else 5 * L * D
    return config.layers * symbols(config) * (mix + 3 * L * inner_width(config, D))


def seconds_per_step(config: Config, gpus: int) -> tuple[float, float]:
    """An estimate for this CARD: eager, compiled. Right within a third for models that fill it."""
    calls = (config.T + 2) * (config.n + 1)  # the backward pass of a call counts twice
    made = 2 * numbers_per_call(config) * calls * config.batch_size / gpus  # bytes, bfloat16
    seconds = sum(flops / gpus / speed for flops, speed in zip(products(config), FLOPS))
    eager, compiled = (seconds + k * made / BANDWIDTH for k in TRAVELS[config.mixer])
    return eager, compiled


def hours(config: Config, gpus: int) -> tuple[float, float]:
    """Hours of training on so many CARDs: eager, compiled."""
    eager, compiled = (step * config.steps / 3600 for step in seconds_per_step(config, gpus))
    return eager, compiled


def shapes(config: Config) -> dict[str, tuple[int, int]]:
    """The matrices of one layer, (out, in)."""
    L, D, inner = config.length, config.dim, partial(inner_width, config)
    mlp = dict(mix_in=(2 * inner(L), L), mix_out=(L, inner(L)))
    mix = mlp if config.mixer == "mlp" else dict(mix_in=(3 * D, D), mix_out=(D, D))
    symbol = dict(mix_symbols=(D, D)) if symbols(config) > 1 else {}
    return dict(**mix, gate_up=(2 * inner(D), D), down=(D, inner(D)), **symbol)


def parameters(config: Config) -> int:
    """Trained numbers of the network, without the puzzle table, and without making them."""
    layer, D = sum(out * k for out, k in shapes(config).values()), config.dim
    rows = min(config.vocab_size, config.vocab_size - symbols(config) + 2)  # as in SymbolTRM
    return config.layers * layer + 2 * rows * D + 2 * D + 2


def dry_run(config: Config, gpus: int, price: float) -> None:
    """Print parameters, FLOPs, steps, hours and dollars. Raises ValueError."""
    network, rows, cycle = parameters(config), config.num_puzzle_ids, config.n + 1
    say(f"parameters  {network:,} in the network, {network + rows * config.dim:,} with the "
        f"{rows:,}-row puzzle table\n"
        f"FLOPs       {flops_per_step(config):.3g} a step: {config.batch_size} puzzles, "
        f"{config.T * cycle} network calls, {cycle} of them with gradient\n"
        f"steps       {config.steps:,}, {config.steps * flops_per_step(config):.3g} FLOPs in all")
    for name, h, step in zip(("compiled", "eager"), hours(config, gpus)[::-1],
                             seconds_per_step(config, gpus)[::-1]):
        say(f"{name:11} {h:.1f} hours, ${h * gpus * price:,.0f}; {1000 * step:.0f} ms a step")
    say(f"            estimates, not measured, for {gpus} x {CARD} at ${price:g} an hour each: "
        f"products at\n            {FLOPS[0] / 1e12:.0f} TFLOP/s, those along the sequence at "
        f"{FLOPS[1] / 1e12:.0f}, the rest at {BANDWIDTH / 1e12:g} TB/s; small models\n"
        "            take longer. --rehearse measures")


# ------------------------------------------------------------------------------------------------
# Memory


def fits_in_memory(config: Config, device: torch.device) -> None:
    """Raise ValueError when the weights, or what one backward pass must remember, are clearly too
    much: Linux hands out memory that it does not have, and kills the process later without a word.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
    if device.type in ("cpu", "mps") and hasattr(os, "sysconf"):  # not on Windows
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    elif device.type == "cuda":
        have = torch.cuda.get_device_properties(device).total_memory / 2**30
    else:
        return
    # Weights, their gradients, two moments, the average, in float32; the table is not copied.
    weights = here * (20 * parameters(config) + 4 * config.num_puzzle_ids * config.dim) / 2**30
    if weights > have:
        raise ValueError(f"the model's weights and their optimizer need {weights:.0f} GiB, there "
                         f"are {have:.0f}: lower dim, layers, expansion, seq_len, vocab_size or "
                         "num_puzzle_ids")
    batch = pieces(config)
    one = 2 * (config.n + 1) * numbers_per_call(config) + 8 * config.seq_len * config.vocab_size
    needed = here * batch * one / 2**30
    if needed > have:
        fits = max(1, int(batch * have / needed / 4))
        raise ValueError(f"{batch} puzzles at a time{' in each process' * (here > 1)} need over "
                         f"{needed:.0f} GiB of memory, there are {have:.0f}; --micro_batch {fits} "
                         "computes the same")


def pieces(config: Config) -> int:
    """Puzzles in one backward pass of one process."""
    share = config.batch_size // rank_and_world()[1]
    return min(config.micro_batch or share, share)


@contextmanager
def advice_on_memory(batch: int, flag: str) -> Iterator[None]:
    """Turn running out of memory in here, with so many puzzles at a time, into a ValueError that
    says what helps. No flag: there are no puzzles yet, only the model."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        if not flag:
            raise ValueError("the model does not fit in memory; take a smaller one") from None
        fits = (f"{flag} {batch // 4} computes the same" if batch >= 4
                else "take a smaller model, or more processes")
        raise ValueError(f"{batch} puzzles at a time do not fit in memory; {fits}") from None


def memory_used(device: torch.device) -> float:
    """GiB: on CUDA the most that was allocated, else the most this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def gib(memory: float, digits: int = 1) -> str:
    """Of what `memory_used` returns."""
    return "? GiB" if math.isnan(memory) else f"{memory:.{digits}f} GiB"


def describe_device(device: torch.device) -> str:
    """The name of the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    can: dict = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 cannot say
    name = can.get("cpu_name", "")
    return f"{device.type}" + (f" ({name})" if name else "")


def hardware(device: torch.device) -> str:
    """What all processes run on."""
    processes = f"{rank_and_world()[1]} x " if rank_and_world()[1] > 1 else ""
    return processes + describe_device(device) + threads(device)


def threads(device: torch.device) -> str:
    """How many, where that matters."""
    count = torch.get_num_threads()
    return f", {count} thread{'s' * (count > 1)}" if device.type == "cpu" else ""


def dtype_name(config: Config, device: torch.device) -> str:
    """Of the forward pass, as people write it."""
    return str(compute_dtype(config, device)).removeprefix("torch.")


# ------------------------------------------------------------------------------------------------
# torch.compile


def wants_compilation(flag: bool | None, device: torch.device, config: Config | None = None
                      ) -> bool:
    """What --compile and --no-compile say, else: on a GPU, which it makes twice as fast; but not
    for a training that should gain less than the minute it takes: by `hours`, or, as small networks
    wait for launches that those do not count, by its steps."""
    if flag is not None or device.type != "cuda":
        return bool(flag)
    if config is None:
        return True
    eager, compiled = hours(config, rank_and_world()[1])
    return 3600 * (eager - compiled) > 60 or config.steps >= 10_000


def compile_net(model: tinytrm.TRM, batch: int, training: bool = True) -> bool:
    """Replace `model.net` by a compiled one; False, and a warning, where that is impossible.

    The network alone, not the whole step: it is compiled once without gradient and, for training,
    once with, and called T * (n + 1) times; the loops around it stay Python. The whole step takes
    longer to compile and was not faster (docs/experiments.md).
    """
    plain, problem = model.net, ""
    # Training has one shape of batches, evaluation two or more: its second is compiled for all.
    model.net = torch.compile(plain,  # type: ignore[method-assign]
                              dynamic=False if training else None)
    h = model.start(batch)[0]
    try:  # compilers complain at the first call only
        with torch.no_grad():
            model.net(h)
        if training:
            model.net(h.requires_grad_()).float().sum().backward()  # as in training: x learns, too
            model.zero_grad()
    except Exception as e:  # torch names the reasons by a dozen classes
        if out_of_memory(e):
            raise
        problem = " ".join(str(e).split())[:100]
    if problem := first_said(problem):
        model.net = plain  # type: ignore[method-assign]
        if rank_and_world()[0] == 0:
            warn(f"--compile found no working compiler, going on without: {problem}")
    return model.net is not plain


# ------------------------------------------------------------------------------------------------
# By the clock


def bench(config: Config, device: torch.device, name: str, seconds: float, gpus: int) -> None:
    """Print steps/s, puzzles/s (supervision steps of one puzzle), FLOP/s of the matrix products,
    their share of what this machine reaches at those shapes, and peak memory, for the share that
    one of `gpus` processes has of the batch, plain and compiled. Raises ValueError."""
    config = dataclasses.replace(config, num_puzzle_ids=min(config.num_puzzle_ids, 100_000),
                                 batch_size=max(1, config.batch_size // gpus))
    fits_in_memory(config, device)
    cells = (config.batch_size, config.seq_len)
    tokens = np.random.default_rng(config.seed).integers(1, config.vocab_size, cells)
    puzzles, peak, lines = tinytrm.Puzzles(tokens, tokens), matmul_peak(config, device), []
    for how in ("plain", "compiled"):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        state, begun = State(config, device), time.perf_counter()
        times: list[float] = []
        if how == "compiled" and not compile_net(state.model, pieces(config)):
            break
        while len(times) < 5 or sum(times[3:]) < seconds:
            times.append(timed_step(state, puzzles))
            if len(times) == 3:  # the first steps compile and warm up
                ready = time.perf_counter() - begun
        peak = max(peak, matmul_peak(config, device))  # before and after: clocks change
        lines.append((how, float(np.median(times[3:])), ready, memory_used(device)))
    K = symbols(config)
    width = f"{K} x " * (K > 1) + str(config.dim)
    say(f"bench     {name}: {config.mixer} mixer, {config.length} positions, D {width}, n "
        f"{config.n}, T {config.T}, batch {config.batch_size}, {dtype_name(config, device)} on "
        f"{describe_device(device)}{threads(device)}\n"
        f"matmul    {peak / 1e9:,.0f} GFLOP/s, the best of the network's own products")
    for how, step, ready, memory in lines:
        speed = flops_per_step(config) / step
        say(f"{how:9} {1 / step:.3g} steps/s   {config.batch_size / step:,.0f} puzzles/s   "
            f"{speed / 1e9:,.0f} GFLOP/s, {speed / peak:.0%} of matmul   {gib(memory, 2)}   "
            f"first 3 steps {ready:.0f} s")


def timed_step(state: State, puzzles: tinytrm.Puzzles) -> float:
    """Seconds of one more training step, on the clock of the device."""
    start = time.perf_counter()
    one = dataclasses.replace(state.model.config, steps=state.step + 1)
    tinytrm.train(one, puzzles, state=state, on_step=lambda _, m: m["loss"].item())
    return time.perf_counter() - start


def matmul_peak(config: Config, device: torch.device) -> float:
    """FLOP/s of the fastest of the matrix products of one layer, at their own shapes."""
    B, L, D, dtype = config.batch_size, config.length, config.dim, compute_dtype(config, device)
    rates = []
    for name, (out, fan_in) in shapes(config).items():
        along_sequence = config.mixer == "mlp" and name in ("mix_in", "mix_out")
        columns = B * (D if along_sequence else L)
        columns *= 1 if name == "mix_symbols" else symbols(config)
        weight, h = torch.randn(out, fan_in), torch.randn(fan_in, columns)
        # Features last, as in F.linear; the mixing along the sequence multiplies from the left.
        product = (weight, h) if along_sequence else (h.T.contiguous(), weight.T)
        a, b = (t.to(device, dtype) for t in product)
        seconds = []
        for _ in range(12):
            start = time.perf_counter()
            c = a @ b
            if device.type != "cpu":
                c.ravel()[0].item()  # wait
            seconds.append(time.perf_counter() - start)
        rates.append(2 * out * fan_in * columns / np.median(seconds[2:]))
    return max(rates)
