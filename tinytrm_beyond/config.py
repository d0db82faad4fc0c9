"""The settings that the paper does not have."""
import dataclasses

import tinytrm
from tinytrm_beyond.halting import HaltingTRM
from tinytrm_beyond.symbols import SymbolTRM


@dataclasses.dataclass
class BeyondConfig(tinytrm.Config):
    """A `tinytrm.Config` with five fields more. Raises ValueError."""

    columns: int = 0  # of the grid: attention sees rows and columns; 0: one long row, as the paper
    symbols: int = 1  # K; if more than 1, the last K tokens are alike, as the digits of a Sudoku
    halting: str = "sure"  # when a slot halts in training: "sure", as in the paper, or by "chance"
    two_step_phase: int = 0  # for so many training steps at first, every puzzle has two steps
    keep: str = "last"  # which answer counts: that of the last step, or the "surest" (highest q)

    def __post_init__(self):
        super().__post_init__()
        if self.halting not in ("sure", "chance"):
            raise ValueError(f"halting must be sure or chance, not {self.halting!r}")
        if self.keep not in ("last", "surest"):
            raise ValueError(f"keep must be last or surest, not {self.keep!r}")
        if not 1 <= self.symbols < self.vocab_size:
            raise ValueError(f"symbols must be in 1..{self.vocab_size - 1}, not {self.symbols}")
        if self.columns and self.seq_len % self.columns:
            raise ValueError(f"{self.seq_len} cells are no whole rows of {self.columns} columns")
        if self.columns and self.mixer == "attention" and self.dim % (4 * self.heads):
            raise ValueError(f"with columns, dim {self.dim} must be a multiple of four times the "
                             f"{self.heads} heads")

    def build(self):
        """The network, untrained."""
        return SymbolTRM(self) if self.symbols > 1 else HaltingTRM(self)
