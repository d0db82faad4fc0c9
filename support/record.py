"""A finished run as a page of text, to be kept."""
from __future__ import annotations

import dataclasses
import itertools
import shlex
import subprocess
import sys
from pathlib import Path

from data.files import replacing
from support.console import check_target, say
from support.scoring import describe
from support.tasks import ROOT, Task


def check_record(folder: Path) -> None:
    """Raise ValueError, before the work, unless the folder can be made, and written to, after it.
    """
    while not folder.exists() and folder != folder.parent:  # a drive that is none is its own parent
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"--record {folder}: is a file; name a folder")
    check_target("--record", folder / "any")


def commit() -> str:
    """Of this code, as far as that can be known; "-dirty" if files differ from it."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"],
                              capture_output=True, text=True, cwd=ROOT)
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"


def write_record(folder: Path, name: str, out: Path, task: Task, results: list[dict], how: dict
                 ) -> None:
    """folder/NAME.md: command, hardware, time, figures, config; the log beside it. A record of
    other settings is not replaced: then it is NAME-2. how: what `Monitor.trained` says."""
    hardware, minutes = "; before: ".join(reversed(how["hardware"])), how["seconds"] / 60
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    settings = dataclasses.asdict(task.config) | {  # the latter are of the data, not of the model
        k: task.about[k] for k in ("sha256", "augmented", "hints") if task.about.get(k)}
    fields = "\n".join(f"{k} = {v}" for k, v in settings.items())
    figures = "\n".join(map(describe, results))
    paths = (folder / f"{name}{f'-{k}' * (k > 1)}.md" for k in itertools.count(1))
    path = next(p for p in paths
                if not p.exists() or f"\n{fields}\n" in p.read_text(encoding="utf-8"))
    text = f"""# {name}

    {shlex.join(words)}

{hardware}, {how["dtype"]}, torch {how["torch"]}, commit {commit()},
{how["date"]}. Trained {how["steps"]:,} steps in {minutes:.1f} minutes (compilation, evaluation and
pauses between resumptions not included). Log: {path.stem}.csv.

```
{figures}
```

```
{fields}
```
"""
    with replacing(path) as file:
        file.write(text.encode())
    with replacing(path.with_suffix(".csv")) as file:
        file.write((out / "metrics.csv").read_bytes())
    say(f"record    {path}")
