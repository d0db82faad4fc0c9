"""What keeps the file readable and the rooms apart: its page budget, who imports whom, and that
`pip install .` gives it alone."""
import ast
import io
import shutil
import sys
import tokenize
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

import pytest

from conftest import ROOT, run

TEXT = (ROOT / "tinytrm.py").read_text(encoding="utf-8")
LINES = TEXT.splitlines()
TREE = ast.parse(TEXT)
FILES = sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")])


IGNORED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
           tokenize.ENDMARKER}


def docstring_lines() -> set[int]:
    """Numbers of the lines of tinytrm.py that belong to a docstring."""
    numbers = set()
    for node in ast.walk(TREE):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node):
            numbers.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return numbers


# ------------------------------------------------------------------------------------------------
# The page budget. A token budget cannot be met by compression.


def test_tinytrm_keeps_its_page_budget():
    assert len(LINES) <= 565, f"{len(LINES)} lines: what can move to tinytrm_beyond/ or support/?"
    assert [n for n, line in enumerate(LINES, 1) if len(line) > 100] == []
    assert sum(not line.strip() for line in LINES) >= 0.11 * len(LINES), "blank lines"


def test_tinytrm_is_not_dense():
    tokens = list(tokenize.generate_tokens(io.StringIO(TEXT).readline))
    prose = docstring_lines()
    code = Counter(t.start[0] for t in tokens
                   if t.type not in IGNORED and t.start[0] not in prose)
    assert code.total() <= 4750, "tokens"
    assert sorted(code.values())[int(0.9 * len(code))] <= 22, "tokens in a dense line of code"
    comments = sum(t.type == tokenize.COMMENT for t in tokens)
    assert len(prose) + comments >= len(LINES) / 5, "lines with prose"


def test_the_recursion_comes_early_and_once():
    found = [n for n, line in enumerate(LINES, 1) if "z = self.net(x + y + z)" in line]
    assert len(found) == 1 and found[0] < 140, found


def test_no_file_is_long():
    lines = {f: len((ROOT / f).read_text(encoding="utf-8").splitlines()) for f in FILES}
    assert {"tinytrm.py", "train.py", "data/sudoku.py", "support/tasks.py"} <= set(lines)
    assert {f: n for f, n in lines.items()
            if n > 500 and f != "tinytrm.py" and not f.startswith("tests/")} == {}


# ------------------------------------------------------------------------------------------------
# The rooms


def imports(file) -> set[str]:
    """Top-level names of all that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("floor, forbidden", [
    ("tinytrm.py", "tinytrm_beyond data support train evaluate"),
    ("tinytrm_beyond/", "data support train evaluate"),
    ("data/", "torch tinytrm tinytrm_beyond support train evaluate"),
    ("support/", "train evaluate"),
])
def test_no_floor_imports_one_above(floor, forbidden):
    files = [f for f in FILES if f.startswith(floor)]
    assert files
    assert {f: wrong for f in files if (wrong := imports(f) & set(forbidden.split()))} == {}


def test_tinytrm_needs_numpy_and_torch_alone():
    assert imports("tinytrm.py") - sys.stdlib_module_names == {"numpy", "torch"}


# ------------------------------------------------------------------------------------------------
# The package

PROGRAM = """
import sys, tinytrm
config = tinytrm.Config(vocab_size=4, seq_len=4, puzzle_tokens=1, dim=16, heads=2, batch_size=4,
                        width_multiple=8, n=1, T=2, N_sup=2, steps=3, eval_steps=2, dtype="float32")
model = tinytrm.train(config, tinytrm.Puzzles([[1, 2, 3, 1]], [[2, 3, 1, 2]]), on_step=None)
assert tinytrm.solve(model, [[1, 2, 3, 1]]).answers.shape == (1, 4)
import tinytrm_beyond
assert tinytrm_beyond.for_data(tinytrm.Puzzles([[1, 2, 3, 1]], [[2, 3, 1, 2]])).columns == 2
assert not {"data", "support", "train", "evaluate"} & set(sys.modules)
print(tinytrm.__file__)
"""


@pytest.mark.slow
def test_installed_alone(tmp_path):
    """`pip install .` of a copy of the repository, then both imports far from it."""
    copy, site, far = tmp_path / "copy", tmp_path / "site", tmp_path / "far"
    far.mkdir()

    def left_out(folder, names):  # downloads, runs, and what an installation leaves behind
        downloads = [n for n in names if folder == str(ROOT / "data") and not n.endswith(".py")]
        return {*shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "*.egg-info")(
            folder, names), *downloads}

    shutil.copytree(ROOT, copy, ignore=left_out)
    try:  # the build tool that is here, unless it is older than pyproject.toml wants
        tool = ["--no-build-isolation"] if int(version("setuptools").split(".")[0]) >= 77 else []
    except PackageNotFoundError:
        tool = []
    # Into a folder, not a virtual environment: one made from another does not see its torch.
    pip = run([sys.executable, "-m", "pip", "install", "--no-deps", *tool, "--target",
               site, copy], cwd=far)
    assert pip.returncode == 0, pip.stdout + pip.stderr
    assert [p.name for p in site.glob("*.py")] == ["tinytrm.py"]
    assert {p.name for p in site.iterdir() if p.suffix != ".dist-info"} <= {
        "tinytrm.py", "tinytrm_beyond", "__pycache__"}
    done = run([sys.executable, "-c", PROGRAM], cwd=far, PYTHONPATH=str(site))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.split() == [str(site / "tinytrm.py")]
