"""The authors' checkpoints: their names for the weights, and a loader."""
from __future__ import annotations

from pathlib import Path

import torch

from data import arc
from support.checkpoints import read_dict
from support.tasks import Task, reopen
from tinytrm import TRM, Config

OFFICIAL_NAMES = {  # theirs -> ours; applied in this order
    "_orig_mod.": "", "model.inner.": "", "L_level.": "", "H_init": "y_init", "L_init": "z_init",
    "embed_tokens.embedding_weight": "token_embedding", "puzzle_emb.weights": "puzzle_table",
    "lm_head.weight": "output_weight", "q_head.weight": "q_weight", "q_head.bias": "q_bias",
    "self_attn.qkv_proj.weight": "mix_in",
    "self_attn.o_proj.weight": "mix_out", "mlp_t.gate_up_proj.weight": "mix_in",
    "mlp_t.down_proj.weight": "mix_out", "mlp.gate_up_proj.weight": "gate_up",
    "mlp.down_proj.weight": "down"}
CELLS = dict(sudoku=81, maze=900, arc1=900, arc2=900)


def load_official(source: dict | str | Path, *, seq_len: int, n: int, T: int, **fields) -> TRM:
    """A model from the authors' state dict, or from a file that holds it.

    Sizes are read off the tensors. What they cannot tell must be given: seq_len, n (L_cycles) and T
    (H_cycles); also heads if not 8, expansion if not 4, puzzle_tokens if not 16 (for attention).
    Raises FileNotFoundError, ValueError.
    """
    weights, where = {}, "the authors' weights" if isinstance(source, dict) else source
    for key, tensor in (source if isinstance(source, dict) else read_dict(Path(source))).items():
        if not isinstance(key, str) or key == "config_class":
            raise ValueError(f"{where}: is TinyTRM's own: python evaluate.py {where}")
        for theirs, ours in OFFICIAL_NAMES.items():
            key = key.replace(theirs, ours)
        try:
            weights[key] = torch.as_tensor(tensor).float()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"{where}: {key!r} is no tensor; what is wanted is the state dict "
                             "itself, not a file in which it is one entry") from None
    try:
        (V, D), mix_out = weights["token_embedding"].shape, weights["layers.0.mix_out"]
    except KeyError as e:
        raise ValueError(f"{where}: no {e} in it: not a checkpoint of the authors' TRM") from None
    if "embed_pos.embedding_weight" in weights:
        raise ValueError(f"{where}: has learned positions, which this model does not")
    mlp = mix_out.shape != (D, D)
    length = len(mix_out) if mlp else seq_len + fields.get("puzzle_tokens", 16)
    weights.setdefault("puzzle_table", torch.zeros(1, D))
    sizes = dict(vocab_size=V, dim=D, seq_len=seq_len, n=n, T=T, puzzle_tokens=length - seq_len,
                 mixer="mlp" if mlp else "attention", num_puzzle_ids=len(weights["puzzle_table"]),
                 layers=sum(key.endswith(".down") for key in weights))
    model = TRM(Config(**{**sizes, **fields}))
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise ValueError(f"{where}: is of another shape than was said: "
                         f"{' '.join(str(e).split())[:300]}") from None
    if not all(bool(t.isfinite().all()) for t in weights.values()):
        raise ValueError(f"{where}: has weights that are not finite")
    return model.eval()


def official_task(file: Path, name: str, data: Path | None, identifiers: Path | None, *, n: int,
                  T: int, **fields: int) -> tuple[TRM, Task]:
    """The model in a file of the authors' and its task: sudoku, maze, arc1 or arc2."""
    model = load_official(file, seq_len=CELLS[name], n=n, T=T, **fields)
    if data is None:
        raise ValueError(f"--official needs --data: where the {name} puzzles are")
    if name in ("sudoku", "maze"):
        model.extra = dict(about=dict(  # type: ignore[assignment]
            kind=name, data=str(data), box=[3, 3] if name == "sudoku" else None, sha256="",
            split=None))
        return model, reopen(model, data)
    if identifiers is None:
        raise ValueError("--official for ARC needs --identifiers, which says what puzzle each row "
                         "of its table stands for")
    corpus = arc.corpus(name, data)
    table = arc.table_from_identifiers(identifiers, corpus.tasks, rows=model.config.num_puzzle_ids)
    return model, Task("arc", model.config, None, None, dict(sha256=table.sha256()), corpus=corpus,
                       table=table)
