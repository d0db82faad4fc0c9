"""The authors' checkpoints: their names for the weights, and a loader."""

from __future__ import annotations

from pathlib import Path

import torch

from tinytrm import TRM, Config, fill, read

OFFICIAL_NAMES = {  # theirs -> ours; applied in this order
    "_orig_mod.": "", "model.inner.": "", "L_level.": "", "H_init": "y_init", "L_init": "z_init",
    "embed_tokens.embedding_weight": "token_embedding", "puzzle_emb.weights": "puzzle_table",
    "embed_pos.embedding_weight": "position_embedding", "lm_head.weight": "output_head",
    "q_head": "halt_head", "self_attn.qkv_proj.weight": "mix_in",
    "self_attn.o_proj.weight": "mix_out", "mlp_t.gate_up_proj.weight": "mix_in",
    "mlp_t.down_proj.weight": "mix_out", "mlp.gate_up_proj.weight": "gate_up",
    "mlp.down_proj.weight": "down"}


def load_official(source: dict | str | Path, *, seq_len: int, n: int, T: int, **fields) -> TRM:
    """A model from the authors' state dict, or from a file that holds it.

    Sizes are read off the tensors. What they cannot tell must be given: seq_len, n (L_cycles) and T
    (H_cycles); also heads if not 8, position if not RoPE, expansion if not 4, puzzle_tokens if not
    16 (for attention without learned positions). Raises FileNotFoundError, ValueError.
    """
    weights = {}
    for key, tensor in (source if isinstance(source, dict) else read(Path(source))).items():
        for theirs, ours in OFFICIAL_NAMES.items():
            key = key.replace(theirs, ours)
        weights[key] = torch.as_tensor(tensor).float()
    try:
        (V, D), mix_out = weights["token_embedding"].shape, weights["layers.0.mix_out"]
    except KeyError as e:
        raise ValueError(f"no {e} in these weights: not a checkpoint of the authors' TRM") from None
    mlp, learned = mix_out.shape != (D, D), weights.get("position_embedding")
    length = (len(mix_out) if mlp else len(learned) if learned is not None
              else seq_len + fields.get("puzzle_tokens", 16))
    sizes = dict(vocab_size=V, dim=D, seq_len=seq_len, n=n, T=T, puzzle_tokens=length - seq_len,
                 mixer="mlp" if mlp else "attention",
                 position="rope" if learned is None else "learned",
                 num_puzzles=len(weights.get("puzzle_table", ())),
                 layers=sum(key.endswith(".down") for key in weights))
    return fill(TRM(Config(**{**sizes, **fields})), weights, "the authors' weights")
