"""Execute notebooks and keep their outputs, stamped with the code that made them.

    python notebooks/run.py                 # all of them, about ten minutes
    python notebooks/run.py 02_recursion    # one

The stamp is a hash of tinytrm.py, data/*.py, draw.py (without comments and docstrings), the shipped
models and the notebook's own cells. tests/test_notebooks.py compares it, so outputs cannot outlive
the code that they show.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent


def code_of(path: Path) -> bytes:
    """A Python file as its syntax tree, so that comments and docstrings do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(getattr(body[0].value, "value", None), str):
                body[0].value.value = ""
    return ast.dump(tree).encode()


def stamp(notebook) -> str:
    """What the outputs of this notebook depend on, as 16 hex digits."""
    digest = hashlib.sha256()
    for path in [HERE.parent / "tinytrm.py", *sorted((HERE.parent / "data").glob("*.py"))]:
        digest.update(code_of(path))
    digest.update(code_of(HERE / "draw.py"))
    for path in sorted((HERE / "models").glob("*.pt")):
        digest.update(path.read_bytes())
    for cell in notebook.cells:
        digest.update(f"{cell.cell_type}\n{cell.source}\n".encode())
    return digest.hexdigest()[:16]


def execute(path: Path):
    """The notebook with fresh outputs. Raises CellExecutionError, except in open exercises."""
    notebook = nbformat.read(path, as_version=4)
    options = dict(timeout=600, kernel_name="python3", record_timing=False)
    NotebookClient(notebook, resources={"metadata": {"path": str(HERE)}}, **options).execute()
    notebook.metadata["tinytrm_stamp"] = stamp(notebook)
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def main(names: list[str]) -> int:
    paths = [HERE / f"{Path(n).stem}.ipynb" for n in names] or sorted(HERE.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            print(f"error: {path}: no such notebook", file=sys.stderr)
            return 2
        notebook = execute(path)
        temporary = path.with_suffix(".tmp")
        nbformat.write(notebook, temporary)
        os.replace(temporary, path)
        print(path.name, notebook.metadata["tinytrm_stamp"], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
