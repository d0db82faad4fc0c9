"""Run by torchrun in test_distributed.py: train a small model; process 0 saves what came out."""
import json
import sys

import torch
import torch.distributed as dist

import tinytrm
from conftest import tiny, toy_puzzles
from support.scoring import shared


def work(changes) -> dict:
    """Weights, losses, and the result of an evaluation."""
    losses = []

    def on_step(state, metrics):
        loss = metrics["loss"].clone()
        if tinytrm.ranks()[1] > 1:
            dist.all_reduce(loss)
        losses.append(loss.item())

    model = tinytrm.train(tiny(**changes), toy_puzzles(), on_step=on_step)
    result = shared(model, toy_puzzles(23, seed=5))
    return dict(weights=model.state_dict(), losses=losses, result=result)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    done = work(json.loads(sys.argv[2]))
    if dist.get_rank() == 0:
        torch.save(done, sys.argv[1])
    dist.destroy_process_group()
