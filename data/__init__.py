"""Puzzles, in numpy and the standard library alone. One module per task is the front door:

    sudoku   rules and solver, generator, symmetries, CSV files, the Sudoku-Extreme download
    maze     labels, generator, symmetries, CSV files
    arc      tasks and corpora, the table of augmented puzzles, the training stream, votes
    arc_mini a dozen toy ARC tasks

What stands behind them: `files` (whole files, CSV, JSON, downloads) and `grid` (symmetries of a
square) for all, `sudoku_*` and `arc_*` for one. Every task speaks the language of
`tinytrm.Puzzles`: `inputs` and `labels` are uint8 arrays (N, L), L the cells of a puzzle; 0 is
padding in the inputs and "not labelled" in the labels. Every task can draw a puzzle in the
terminal (`render`).
"""
