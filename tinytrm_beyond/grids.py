"""Attention that tells rows and columns apart."""
import torch

import tinytrm


class GridLayer(tinytrm.Layer):
    """A layer whose rotary embedding knows the grid.

    The paper numbers the cells in one long row, so that the cell below is as far away as the grid
    is wide. Here half of a head's pairs are turned by the row, and half by the column.
    """

    def rotary_angles(self):
        """How far each pair of a head's features is turned at each position, (L, d / 2)."""
        c = self.config
        if not c.columns:
            return super().rotary_angles()
        position = torch.arange(c.length)[:, None] - c.puzzle_tokens  # cell 0: row 0, column 0
        row = position // c.columns  # the puzzle tokens are in rows above
        column = position % c.columns
        d = c.dim // c.heads
        pair = torch.arange(d // 2)
        place = torch.where(pair < d // 4, row, column)
        return place * 10000 ** (-2 / d * (pair % (d // 4)))
