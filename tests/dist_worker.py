"""Run by torchrun in test_distributed.py: train a small model; process 0 saves what came out."""
import json
import sys
from functools import partial

import torch
import torch.distributed as dist

import tinytrm
from conftest import ROOT, tiny, toy_puzzles
from data import sudoku
from support.rollouts import rollouts, search
from support.scoring import score
from support.tasks import Task


def several_thoughts() -> tuple[dict, dict]:
    """About Sudokus that no number of processes divides, by a model that solves some in a step."""
    model, box = tinytrm.load(ROOT / "notebooks/models/sudoku6.pt"), (2, 3)
    task = Task("sudoku", model.config, None, tinytrm.Puzzles(*sudoku.generate(19, box, seed=5)),
                {}, disguise=partial(sudoku.disguise, box=box),
                keeps_rules=partial(sudoku.keeps_rules, box=box))
    return (rollouts(task, model, 3, steps=1, batch_size=7),
            search(task, model, 4, 2, steps=1, batch_size=7))


def work(changes) -> dict:
    """Weights, losses, and the result of an evaluation."""
    losses = []

    def on_step(state, metrics):
        loss = metrics["loss"].clone()
        if tinytrm.rank_and_world()[1] > 1:
            dist.all_reduce(loss)
        losses.append(loss.item())

    model = tinytrm.train(tiny(**changes), toy_puzzles(), on_step=on_step)
    other = tinytrm.load(ROOT / "notebooks/models/sudoku6.pt")
    other.config.dtype = "float32"  # in bfloat16 another share of the batch may round otherwise
    puzzles = tinytrm.Puzzles(*sudoku.generate(23, (2, 3), seed=5))
    result = score(Task("sudoku", other.config, None, puzzles, {}), other, 3, halt=True)
    return dict(weights=model.state_dict(), losses=losses, result=result,
                thoughts=several_thoughts())


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    done = work(json.loads(sys.argv[2]))
    if dist.get_rank() == 0:
        torch.save(done, sys.argv[1])
    dist.destroy_process_group()
