"""The notebooks: committed outputs belong to the code, all cells run, exercises have solutions."""

import re
import sys

import pytest

from conftest import ROOT

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
sys.path.insert(0, str(ROOT / "notebooks"))
import run  # noqa: E402

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = ROOT / "notebooks" / "solutions.ipynb"


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def is_exercise(cell):
    return "exercise" in cell.metadata.get("tags", ())


def errors(cell):
    return [o for o in cell.outputs if o.output_type == "error"]


def check_outputs(path, notebook):
    for cell in code(notebook):
        if is_exercise(cell):
            assert errors(cell), f"{path.name}: an exercise is solved: {cell.source[:80]}"
        else:
            assert not errors(cell), f"{path.name}: {errors(cell)[0].evalue}\n{cell.source}"
        assert not any(o.get("name") == "stderr" for o in cell.outputs), cell.source


def test_all_are_there():
    names = ["00", "01", "02", "03", "04", "05", "06"]
    assert [p.name[:2] for p in PATHS if p != SOLUTIONS] == names and SOLUTIONS.is_file()


def test_comments_and_docstrings_do_not_count():
    """Whoever changes a comment needs not execute the notebooks again."""
    text = 'x = "# no comment"\ndef f(a, b):\n    return a - b\n'
    other = '"""Für alle."""\nx = "# no comment"  # a comment\n\n\ndef f(a,\n      b):\n' \
            '    """A docstring,\n    größer."""\n    # a comment\n    return a - b\n'
    assert run.code_of(other) == run.code_of(text)
    for change in ("# no", "#no"), ("a - b", "b - a"):
        assert run.code_of(text.replace(*change)) != run.code_of(text)
    core = (ROOT / "tinytrm.py").read_text(encoding="utf-8")
    bare = re.sub(r"  # .*", "", core)  # comments behind code
    assert bare != core and run.code_of(bare) == run.code_of(core)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_committed_outputs_come_from_this_code(path):
    notebook = read(path)
    assert notebook.metadata.get("tinytrm_stamp") == run.stamp(notebook), (
        f"{path.name} was executed with other code; run: python notebooks/run.py {path.stem}"
    )
    counts = [c.execution_count for c in code(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "executed once, from top to bottom"
    check_outputs(path, notebook)


@pytest.mark.parametrize("path", [p for p in PATHS if p != SOLUTIONS], ids=lambda p: p.stem)
def test_shape_of_a_notebook(path):
    """Short enough for one sitting, with pictures, exercises, and a statement of its run time."""
    notebook = read(path)
    words = sum(len(c.source.split()) for c in notebook.cells if c.cell_type == "markdown")
    lines = sum(bool(line.strip()) for c in code(notebook) for line in c.source.splitlines())
    pictures = sum("image/png" in o.get("data", {}) for c in code(notebook) for o in c.outputs)
    assert re.search(r"\d+ seconds\b", notebook.cells[0].source)
    assert "(../tinytrm.py)" in "".join(c.source for c in notebook.cells), "links what it explains"
    assert words <= 1800 and path.stat().st_size < 700_000
    if path.stem == "00_one_page":
        assert len(notebook.cells) <= 30 and lines <= 120 and pictures == 1
        return
    assert 30 <= len(notebook.cells) <= 50 and lines <= 200 and pictures >= 2
    assert sum(map(is_exercise, code(notebook))) == 3


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    text = "".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (path.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_every_cell_runs(path):
    check_outputs(path, run.execute(path))
