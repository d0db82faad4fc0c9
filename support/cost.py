"""What a run costs: FLOPs, memory, hours, dollars. torch.compile, and the benchmark."""
from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import tinytrm
from support.console import out_of_memory, say
from tinytrm import Config, State, rank_and_world

# The GPU of the estimates. A compiled network that fills it should reach about this share of what
# is printed on it; a small one, which waits for launches, reaches less. Not measured yet.
CARD, PEAK, SHARE = "H100", 989e12, 0.27  # FLOP/s in bfloat16


# ------------------------------------------------------------------------------------------------
# By counting


def on_paper(config: Config, batch: int = 1) -> tuple[tinytrm.TRM, tuple[torch.Tensor, ...]]:
    """A network that has shapes but no numbers ("meta"), and what it is given for a batch."""
    with torch.device("meta"):
        model = dataclasses.replace(config, num_puzzle_ids=1, dtype="bfloat16").build()
        inputs = torch.zeros(batch, config.seq_len, dtype=torch.long)
        rows = torch.zeros(batch, config.dim)
        y, z = model.start(batch)
    return model, (inputs, rows, y, z)


def parameters(config: Config) -> int:
    """Trained numbers of the network, without the puzzle table."""
    model, _ = on_paper(config)
    return sum(p.numel() for p in model.parameters())


def flops_per_step(config: Config) -> float:
    """FLOPs of all matrix products of one step of the optimizer, forward and backward."""
    model, (_, _, y, _) = on_paper(config)
    with FlopCounterMode(display=False) as call:
        model.net(y)
    with FlopCounterMode(display=False) as heads:
        model.output_head(y)
        model.halt_head(y)
    # A backward pass costs twice its forward pass, and only the last cycle has one.
    calls = (config.T + 2) * (config.n + 1)
    per_puzzle = calls * call.get_total_flops() + 3 * heads.get_total_flops()
    return config.batch_size * per_puzzle


def bytes_kept(config: Config, batch: int) -> int:
    """Memory that the forward pass keeps of a batch for the backward pass, weights included."""
    model, given = on_paper(config, batch)
    scores = (config.length, config.length)  # of attention; the fused one of a GPU keeps none
    kept: dict[int, torch.UntypedStorage] = {}  # each once, though several tensors may share it

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-2:] != scores:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*given)
    return sum(storage.nbytes() for storage in kept.values())


def bytes_per_puzzle(config: Config) -> int:
    """Memory that a forward pass keeps of each puzzle for the backward pass, in bfloat16."""
    short = [dataclasses.replace(config, T=1, n=n) for n in (1, 2)]  # each call keeps as much
    one, two = (bytes_kept(c, 2) - bytes_kept(c, 1) for c in short)
    return one + (config.n - 1) * (two - one)


def slots_at_once(config: Config) -> int:
    """Slots of one process in one backward pass."""
    share = config.batch_size // rank_and_world()[1]
    return min(config.micro_batch or share, share)


def check_memory(config: Config, device: torch.device) -> None:
    """Raise ValueError when weights or one backward pass clearly need more memory than there is:
    Linux hands out memory that it does not have, and kills the process later without a word."""
    if device.type == "cuda":
        processes, have = 1, torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):  # not on Windows
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    # Weights, their gradients, two moments, the average, in float32; the table is not copied.
    weights = 20 * parameters(config) + 4 * config.num_puzzle_ids * config.dim
    if processes * weights > have:
        raise ValueError(f"the weights and their optimizer need {gib(weights)}, there are "
                         f"{gib(have)}: lower dim, layers, expansion, seq_len, vocab_size or "
                         "num_puzzle_ids")
    slots = slots_at_once(config)
    needed = processes * (weights + slots * bytes_per_puzzle(config))
    if needed > have:
        fits = max(1, int(slots * have / needed / 2))
        raise ValueError(f"{slots} puzzles at a time need about {gib(needed)} of memory, there are "
                         f"{gib(have)}; --micro_batch {fits} computes the same")


@contextmanager
def advice_on_memory(batch: int, flag: str) -> Iterator[None]:
    """Turn running out of memory in here, with so many puzzles at a time, into a ValueError that
    says what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        helps = f"{flag} {batch // 4} computes the same" if batch >= 4 else "take a smaller model"
        raise ValueError(f"{batch} puzzles at a time do not fit in memory; {helps}") from None


def hours(config: Config, gpus: int) -> float:
    """An estimate for so many CARDs, compiled."""
    return config.steps * flops_per_step(config) / (gpus * PEAK * SHARE) / 3600


def dry_run(config: Config, gpus: int, price: float) -> None:
    """Print parameters, FLOPs, memory, hours and dollars."""
    step = flops_per_step(config)
    network = parameters(config)
    table = config.num_puzzle_ids * config.dim
    calls = config.T * (config.n + 1)
    memory = config.batch_size / gpus * bytes_per_puzzle(config)
    time_of_all = hours(config, gpus)
    say(f"parameters  {network:,} in the network, {table:,} in the puzzle table of "
        f"{config.num_puzzle_ids:,} rows")
    say(f"FLOPs       {step:.3g} a step: {config.batch_size} puzzles, {calls} calls of the "
        f"network, {config.n + 1} of them with gradient")
    say(f"            {config.steps * step:.3g} in all {config.steps:,} steps")
    say(f"memory      {gib(memory)} on each GPU for one backward pass; --micro_batch divides it")
    say(f"time        {time_of_all:.1f} hours, ${time_of_all * gpus * price:,.0f} on {gpus} x "
        f"{CARD} at ${price:g} an hour each")
    say(f"            an estimate, not measured: {SHARE:.0%} of a {CARD}'s {PEAK / 1e12:.0f} "
        "TFLOP/s; small networks take longer")


# ------------------------------------------------------------------------------------------------
# This machine


def memory_used(device: torch.device) -> float:
    """Bytes: on CUDA the most that was allocated, else the most this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB"


def hardware(device: torch.device) -> str:
    """What all processes run on."""
    world = rank_and_world()[1]
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        cpu = torch.cpu.get_capabilities().get("cpu_name", "")
        name = f"{device.type} ({cpu}), {threads} thread{'s' if threads > 1 else ''}"
    return f"{world} x {name}" if world > 1 else name


def dtype_name(config: Config, device: torch.device) -> str:
    """Of the forward pass, as people write it."""
    return str(tinytrm.compute_dtype(config, device)).removeprefix("torch.")


# ------------------------------------------------------------------------------------------------
# torch.compile, and the benchmark


def compiles(flag: bool | None, device: torch.device, steps: int | None = None) -> bool:
    """What --compile and --no-compile say; else on a GPU, unless the training is a short one."""
    if flag is not None:
        return flag
    return device.type == "cuda" and (steps is None or steps >= 10_000)


def compile_net(model: tinytrm.TRM, batch: int, training: bool = True) -> None:
    """Replace `model.net` by a compiled one. Raises ValueError with the compiler's whole reason.

    The network alone, not the whole step: it is compiled once without gradient and, for training,
    once with, and called T * (n + 1) times; the loops around it stay Python. The whole step takes
    longer to compile and was not faster (docs/experiments.md).
    """
    # Training has one shape of batches, evaluation two or more: its second is compiled for all.
    dynamic = False if training else None
    model.net = torch.compile(model.net, dynamic=dynamic)  # type: ignore[method-assign]
    h = model.start(batch)[0]
    try:  # compilers complain at the first call only
        with torch.no_grad():
            model.net(h)
        if training:
            model.net(h.requires_grad_()).float().sum().backward()
            model.zero_grad()
    except Exception as e:  # torch names the reasons by a dozen classes
        if out_of_memory(e):
            raise
        raise ValueError(f"torch.compile failed; --no-compile goes without it. {e}") from e


def timed_step(state: State, puzzles: tinytrm.Puzzles) -> float:
    """Seconds of one more training step, on the clock of the device."""
    begun = time.perf_counter()
    config = dataclasses.replace(state.model.config, steps=state.step + 1)
    wait = lambda state, metrics: metrics["loss"].item()
    tinytrm.train(config, puzzles, state=state, on_step=wait)
    return time.perf_counter() - begun


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.randn(n, n, device=device).to(dtype)
    seconds = []
    for _ in range(8):
        begun = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - begun)
    return 2 * n**3 / min(seconds)


def bench(config: Config, device: torch.device, name: str, gpus: int = 1,
          seconds: float = 20) -> None:
    """Time training steps on random puzzles, plain and compiled, for the share that one of `gpus`
    processes has of the batch. Print steps/s, puzzles/s (supervision steps of one puzzle), FLOP/s
    of the matrix products and their share of a large product's, and memory."""
    rows = min(config.num_puzzle_ids, 100_000)
    batch = max(1, config.batch_size // gpus)
    config = dataclasses.replace(config, num_puzzle_ids=rows, batch_size=batch)
    check_memory(config, device)
    rng = np.random.default_rng(config.seed)
    tokens = rng.integers(1, config.vocab_size, (batch, config.seq_len))
    puzzles = tinytrm.Puzzles(tokens, tokens)
    speed = matmul_speed(device, tinytrm.compute_dtype(config, device))
    say(f"bench     {name}: {config.mixer} mixer, {config.length} positions, D {config.dim}, n "
        f"{config.n}, T {config.T}, batch {batch}, {dtype_name(config, device)} on "
        f"{hardware(device)}; a large matrix product: {speed / 1e9:,.0f} GFLOP/s")
    for how in ("plain", "compiled"):
        state = State(config, device)
        begun = time.perf_counter()
        if how == "compiled":
            compile_net(state.model, slots_at_once(config))
        warm = [timed_step(state, puzzles) for _ in range(3)]
        ready = time.perf_counter() - begun
        times = [warm[-1]]
        while len(times) < 3 or sum(times) < seconds:
            times.append(timed_step(state, puzzles))
        step = float(np.median(times))
        flops = flops_per_step(config) / step
        say(f"{how:9} {1000 * step:.4g} ms a step   {batch / step:,.0f} puzzles/s   "
            f"{flops / 1e9:,.0f} GFLOP/s, {flops / speed:.0%} of a large product   "
            f"{gib(memory_used(device))}   first 3 steps {ready:.0f} s")
