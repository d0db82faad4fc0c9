"""What the two programs need besides the method: tinytrm and data <- support <- train, evaluate.

    presets.py      the paper's settings and laptop-sized ones, and the kind of puzzle of each
    tasks.py        a kind of puzzle with its data: open_task for training, reopen for evaluation
    official.py     the authors' checkpoints
    scoring.py      score, ARC's vote, and both in words
    rollouts.py     test-time compute: think several times, choose one answer
    console.py      flags, errors of one line, signals, output that nobody reads any more
    processes.py    devices, several processes, and how they end
    folders.py      whose run folder it is, and how nothing in it gets lost
    checkpoints.py  a folder that appears whole or not at all
    monitor.py      during training: the log, evaluations, checkpoints
    cost.py         FLOPs, memory, hours, dollars; torch.compile; the benchmark
    record.py       a finished run as a page of text
    puzzle.py       one puzzle, step by step: in words, as JSON, as pictures
    pictures.py     how puzzles are drawn; the only file that needs matplotlib to be imported
    report.py       runs as one page to look at (with report.html and report*.js)
"""
