"""Devices, several processes under torchrun, and how they end."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tinytrm import TRM, rank_and_world

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # process 0 may have to download or to make data meanwhile
_store: Any = None  # torchrun's own, which outlives the processes


def choose_device(name: str | None) -> torch.device:
    """The device asked for, or the best there is; under torchrun each process its own GPU.

    Raises ValueError.
    """
    several = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1
    if name is None:
        mps = "mps" if torch.backends.mps.is_available() and not several else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    if several and name.startswith("cuda:"):
        raise ValueError(f"--device {name}: several processes need one GPU each; give cuda")
    if several and name.startswith("mps"):
        raise ValueError(f"--device {name}: is for one process; give cpu")
    if name == "cuda":  # by number, as set_device wants it
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        torch.zeros(1, device=name).item()  # "meta" fails here: it computes nothing
    except (RuntimeError, AssertionError) as e:
        why = " ".join(str(e).split())[:100]
        raise ValueError(f"--device {name}: not available on this machine ({why})") from None
    device = torch.device(name)
    if device.type == "cuda":  # else streams and events would belong to GPU 0
        torch.cuda.set_device(device)
    return device


def device_of(model: TRM) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def join_processes(device: torch.device) -> None:
    """Under torchrun, meet the other processes; alone, do nothing."""
    global _store
    import torch.distributed.nn  # noqa: F401  # before they meet: else gloo's threads abort the exit (AdamW
    # imports it at its first step, and then it keeps the group)
    if "LOCAL_RANK" not in os.environ:
        return
    env = os.environ
    how: dict[str, Any] = dict(timeout=PATIENCE)
    if env.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun keeps one store over its restarts: without a prefix of its own a restarted
        # process may find the address of one that has died ("Connection refused").
        store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False,
                              timeout=PATIENCE)
        attempt = env.get("TORCHELASTIC_RESTART_COUNT", 0)
        _store = dist.PrefixStore(f"errors-{attempt}", store)
        how.update(store=dist.PrefixStore(f"attempt-{attempt}", store), rank=int(env["RANK"]),
                   world_size=int(env["WORLD_SIZE"]))
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device, **how)
    else:
        dist.init_process_group("gloo", **how)


def rank_0_first(function: Callable[..., T], *args: Any) -> T:
    """What the function returns, called in process 0 before the others: it may have to make the
    files that they then find."""
    result: list[T] = []
    from_rank_0(lambda: result.append(function(*args)))
    return result[0] if result else function(*args)


def from_rank_0(function: Callable[..., T], *args: Any) -> T:
    """What the function returns in process 0, where alone it is called, in every process; or the
    error that it raises there: on GPUs others would wait for process 0 until they are killed."""
    rank, world = rank_and_world()
    said: list[Any] = [None, None]
    if rank == 0:
        try:
            said[0] = function(*args)
        except (OSError, ValueError) as e:
            said[1] = e
    if world > 1:
        dist.broadcast_object_list(said, 0)
    if said[1]:
        raise said[1]
    return said[0]


def agree(flag: bool, device: torch.device) -> bool:
    """True in every process if it is true in any."""
    if rank_and_world()[1] == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return votes.item() > 0


def first_said(text: str) -> str:
    """The text of the first process whose own is not empty, in every process; else ""."""
    texts = [text] * rank_and_world()[1]
    if len(texts) > 1:
        dist.all_gather_object(texts, text)
    return next(filter(None, texts), "")


def restarted() -> bool:
    """Has torchrun started these processes anew, after one was lost?"""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def first_to_fail() -> bool:
    """Is this the process that may say why all of them end? The others fail in its wake."""
    try:
        return _store is None or _store.add("failed", 1) == 1
    except RuntimeError:  # torchrun itself has gone
        return True


def leave(code: int) -> None:
    """End this process. After success all meet once more, and the interpreter ends as usual. After
    an error nobody is waited for: the others may never come."""
    if code == 0 and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more
            code = code or 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code and "LOCAL_RANK" in os.environ:
        os._exit(code)
    sys.exit(code)
