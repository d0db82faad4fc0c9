"""What the paper does not have, for tinytrm.py, which knows nothing of it.

    import tinytrm
    from tinytrm_beyond import for_data

    config = for_data(puzzles)              # settings for puzzles of your own
    model = tinytrm.train(config, puzzles)  # and then as ever: solve, evaluate, save, load

`BeyondConfig` has a few fields more than `tinytrm.Config`, and builds a subclass of `tinytrm.TRM`.
At their defaults these fields change nothing.

    halting.py   slots that halt by chance; two steps per puzzle at first; the surest answer
    grids.py     attention that tells rows and columns apart
    symbols.py   tokens that are alike, as the digits of a Sudoku
    own_data.py  `for_data`
"""
from tinytrm_beyond.config import BeyondConfig
from tinytrm_beyond.own_data import for_data

__all__ = ["BeyondConfig", "for_data"]
