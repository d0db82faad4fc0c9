"""Execute notebooks and keep their outputs, stamped with the code that made them.

    python notebooks/run.py                 # all of them, about ten minutes
    python notebooks/run.py 02_recursion    # one

The stamp is a hash of tinytrm.py, data/*.py, draw.py and the pictures it draws, of what else the
notebook uses of support/ (all without comments and docstrings) and of models/, and of the
notebook's own cells.
tests/test_notebooks.py compares it, so outputs cannot outlive the code that they show.
"""
from __future__ import annotations

import ast
import hashlib
import io
import re
import sys
import tokenize
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
from data.files import replacing  # noqa: E402


def code_of(text: str) -> bytes:
    """Python source without what changes no output: comments, docstrings, blank lines, and where
    lines break. The same in every version of Python."""
    lines = text.splitlines(keepends=True)
    spans = [(*t.start, *t.end) for t in tokenize.generate_tokens(io.StringIO(text).readline)
             if t.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(getattr(body[0].value, "value", None), str):
                d = body[0]  # the tree counts columns in bytes
                end = len(lines[d.end_lineno - 1].encode()[:d.end_col_offset].decode())
                spans.append((d.lineno, d.col_offset, d.end_lineno, end))
    for row, column, last, end in sorted(spans, reverse=True):  # from the end: the rest stays put
        lines[row - 1:last] = [lines[row - 1][:column] + lines[last - 1][end:]]
    return " ".join("".join(lines).split()).encode()


def stamp(notebook) -> str:
    """What the outputs of this notebook depend on, as 16 hex digits."""
    digest, source = hashlib.sha256(), "\n".join(cell.source for cell in notebook.cells)
    modules = sorted({"pictures", *re.findall(r"from support\.(\w+) import", source)})
    for path in [ROOT / "tinytrm.py", *sorted((ROOT / "data").glob("*.py")), HERE / "draw.py",
                 *(ROOT / "support" / f"{module}.py" for module in modules)]:
        digest.update(code_of(path.read_text(encoding="utf-8")))
    for name in sorted(set(re.findall(r"models/([\w-]+\.pt)", source))):
        digest.update((HERE / "models" / name).read_bytes())
    for cell in notebook.cells:
        digest.update(f"{cell.cell_type}\n{cell.source}\n".encode())
    return digest.hexdigest()[:16]


def execute(path: Path):
    """The notebook with fresh outputs. Raises CellExecutionError, except in open exercises."""
    notebook = nbformat.read(path, as_version=4)
    options = dict(timeout=600, kernel_name="python3", record_timing=False, coalesce_streams=True)
    NotebookClient(notebook, resources={"metadata": {"path": str(HERE)}}, **options).execute()
    notebook.metadata["tinytrm_stamp"] = stamp(notebook)
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def main(names: list[str]) -> int:
    """Execute these notebooks, or all; returns the exit status."""
    paths = [HERE / f"{Path(n).stem}.ipynb" for n in names] or sorted(HERE.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            print(f"error: {path}: no such notebook", file=sys.stderr)
            return 2
        notebook = execute(path)
        with replacing(path) as file:
            file.write(nbformat.writes(notebook).encode() + b"\n")
        print(path.name, notebook.metadata["tinytrm_stamp"], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
