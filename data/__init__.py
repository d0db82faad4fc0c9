"""The tasks, one module each. A module reads the public files of its task, generates puzzles of
its own where that is possible, holds the task's symmetries for augmentation, and draws a puzzle in
the terminal. Every module speaks the same language as `tinytrm.Puzzles`: `inputs` and `labels` are
uint8 arrays (N, L), 0 is padding in the inputs and "not labelled" in the labels. Only numpy and the
standard library are needed here.
"""
