"""What README and docs say can be typed, is there, and prints what they say."""
import ast
import dataclasses
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import evaluate
import tinytrm
import train
from conftest import ROOT, program, run
from data import sudoku
from support.cost import parameters
from support.presets import PRESETS
from support.scoring import describe

MANUAL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = [*MANUAL, ROOT / "CHANGELOG.md", ROOT / "notebooks/models/README.md"]
README = MANUAL[0].read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.M | re.S)


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text) if name == language]


def spans(text: str) -> list[str]:
    """What stands in the line as code; it may go over the end of a line."""
    return [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def commands(text: str) -> list[str]:
    """What can be typed, as one would type it first: seed S is 0, preset NAME the laptop's."""
    lines = [line.split("  #")[0] for body in blocks(text, "") for line in body.splitlines()]
    found = [re.sub(r"^for .*; do (.*); done$", r"\1", line.strip())
             for line in lines + spans(text)]
    found = [re.sub(r"(?<=--seed )S\b|\$s\b", "0", line).replace(" NAME", " sudoku6")
             for line in found]
    programs = ("python ", "torchrun ", "pytest", "pip ", "jupyter ")
    return [line for line in found if line.startswith(programs)]


def of(program_name: str, pages=MANUAL) -> list[str]:
    """The commands that call it, each once."""
    texts = (page.read_text(encoding="utf-8") for page in pages)
    return list(dict.fromkeys(c for text in texts for c in commands(text) if program_name in c))


def words(command: str, name: str) -> list[str]:
    """The arguments of the program in a command."""
    parts = shlex.split(command)
    return parts[parts.index(name) + 1:]


def large(command: str) -> bool:
    """Whether it is for a GPU."""
    preset = re.search(r"--preset ([\w-]+)", command)
    return bool(preset) and PRESETS[preset[1]].config.dim >= 512


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------------------------------------
# Commands


def test_there_is_something_to_check():
    assert len(of("train.py")) >= 15 and len(of("evaluate.py")) >= 6 and len(of("pytest")) >= 2
    assert any(map(large, of("train.py")))


@pytest.mark.parametrize("command", of("train.py"))
def test_training_commands_are_understood(command):
    if command.endswith(" -h"):
        program("train.py", "-h")
        return
    args, config = train.parse_args(words(command, "train.py"))
    if large(command):
        instead = [w for w in words(command, "train.py") if w != "--bench"]
        out, _ = program("train.py", *instead, *["--dry-run"] * ("--dry-run" not in instead))
        assert f"{config.steps:,} steps" in out and "hours, $" in out


@pytest.mark.parametrize("command", of("evaluate.py"))
def test_evaluation_commands_are_understood(command):
    evaluate.parse_args(words(command, "evaluate.py"))


@pytest.mark.parametrize("command", of(""))
def test_other_commands_name_what_is_there(command):
    parts = shlex.split(command)
    if parts[0] == "python" and parts[1] != "-m":
        assert (ROOT / parts[1]).is_file()
    if parts[0] == "pip":
        assert parts[1] == "install" and (ROOT / parts[-1]).exists()
    if parts[0] in ("pytest", "jupyter"):
        assert all((ROOT / p).exists() for p in parts[1:] if p not in ("-m", "slow", "lab"))


def test_the_curves_are_drawn_from_the_logs(tmp_path):
    pytest.importorskip("matplotlib")
    command, = of("plot_curves.py")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "docs/curves.png").unlink()
    done = run([sys.executable, *shlex.split(command)[1:]], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs/curves.png").read_bytes()[:4] == b"\x89PNG"


# ------------------------------------------------------------------------------------------------
# Code blocks


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Where code of a page runs: an empty folder with the notebooks' model as the run sudoku6, and
    three steps of training."""
    whole = tinytrm.train
    monkeypatch.setattr(tinytrm, "train", lambda config, *args, **how: whole(
        dataclasses.replace(config, steps=3), *args, **how))
    monkeypatch.chdir(tmp_path)
    Path("runs/sudoku6").mkdir(parents=True)
    shutil.copy(ROOT / "notebooks/models/sudoku6.pt", "runs/sudoku6/model.pt")
    return {}


@pytest.mark.parametrize("page", [p for p in MANUAL if p.name != "your_data.md"], ids=name_of)
def test_code_blocks_run(page, session, capsys):
    """In order, in one session. Where it says in digits what a line prints, that is printed.
    docs/your_data.md: see tests/test_own_data.py."""
    found = blocks(page.read_text(encoding="utf-8"), "python")
    if not found:
        pytest.skip("no code here")
    for body in found:
        exec(compile(body, f"{page.name}, {body.splitlines()[0]}", "exec"), session)
        said = re.findall(r"# (\d{6,})$", body, re.M)
        assert said == re.findall(r"^\d{6,}$", capsys.readouterr().out, re.M)


@pytest.mark.slow
def test_the_laptop_run_and_all_that_follows(tmp_path):
    """`python train.py` in a copy without data, then everything the README does with its result and
    its other small runs, cut short, from another working directory than the copy's."""
    copy, away = tmp_path / "copy", tmp_path / "away"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(
        ".git", "runs", "docs", "notebooks", "tests", "sudoku*-seed*", "maze*-seed*"))
    away.mkdir()
    sudoku.write_csv(away / "puzzles.csv", *sudoku.generate(60, (3, 3), clues=40), (3, 3))

    def python(*arguments):
        done = run([sys.executable, *arguments], cwd=away, PYTHONPATH=str(copy))
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    printed = python(copy / "train.py", "--device", "cpu")
    assert float(re.search(r"held out +([\d.]+)%", printed)[1]) >= 98
    for command in of("evaluate.py runs/sudoku6", MANUAL[:1]):
        assert python(copy / "evaluate.py", *words(command, "evaluate.py"))
    example = blocks(README, "python")[-1]
    (away / "example.py").write_text(example)
    assert python("example.py").split() == re.findall(r"# (\d+)$", example, re.M)
    assert "had been trained before" in python(copy / "train.py", "--resume")

    short = ["--steps", "3", "--eval_puzzles", "20"]
    done = {"python train.py", "python train.py --resume", "python train.py -h"}
    for command in of("python train.py", MANUAL[:1]):
        if command not in done and not large(command):
            more = [] if "--bench" in command else short
            assert python(copy / "train.py", *words(command, "train.py"), *more)


# ------------------------------------------------------------------------------------------------
# Links, paths, pictures


def links(page: Path) -> list[tuple[str, str]]:
    """(text, target) of all links and pictures of a page."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"!?\[([^\]]*)\]\(([^)\s]+)\)", text)
    return found + [("", target) for target in re.findall(r'(?:src|srcset|href)="([^"]+)"', text)]


def anchors(page: Path) -> set[str]:
    """What headings are called in links, by GitHub's rule."""
    seen: list[str] = []
    for title in re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title.strip().lower())
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        seen.append(slug + f"-{seen.count(slug)}" * (slug in seen))
    return set(seen)


def symbols(file: Path) -> dict[str, ast.AST]:
    """Functions, classes and methods of a program, by name and by Class.name."""
    found: dict[str, ast.AST] = {}

    def look(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found[prefix + child.name] = child
                look(child, f"{prefix}{child.name}.")

    look(ast.parse(file.read_text(encoding="utf-8")), "")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for text, target in links(page):
        if target.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert file.resolve().is_relative_to(ROOT), target
        assert not re.fullmatch(r"L\d.*", anchor), f"{target}: lines move; link a symbol's name"
        assert not anchor or anchor in anchors(file), target
        name = text.strip("`")
        if file.suffix == ".py" and text.startswith("`") and not name.endswith(".py"):
            assert name in symbols(file), f"no {name} in {path}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_that_are_mentioned_exist(page):
    """But for those that stand for others, and those that a program writes."""
    shape = r"(?:[\w.-]+/)*[\w-]+\.(?:py|md|ipynb|toml)|(?:[\w.-]+/)+"
    other = "NAME|PRESET|STEP|several|runs/|records/"
    for span in spans(page.read_text(encoding="utf-8")):
        if re.fullmatch(shape, span) and not re.search(other, span):
            assert (ROOT / span).exists() or (page.parent / span).exists(), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pictures_have_a_text(page):
    text = page.read_text(encoding="utf-8")
    texts = re.findall(r"!\[([^\]]*)\]\(", text)
    for tag in re.findall(r"<img[^>]*>", text):
        alt = re.search(r'alt="([^"]*)"', tag)
        assert alt, tag
        texts.append(alt[1])
    assert all(len(t.split()) >= 3 for t in texts), texts


# ------------------------------------------------------------------------------------------------
# The first screen, and the rest of the README


def test_the_first_screen():
    """In its order, and before the first command not too many words."""
    command = README.index("pip install")
    picture, result = README.index("<picture>"), README.index("held out ")
    pseudo = README.index("z = net(x + y + z)")
    assert picture < pseudo < command < README.index("python train.py") < result
    assert result < README.index("## Results")
    before = README[:README.rindex("```", 0, command)]
    assert len(before.split()) <= 165, len(before.split())
    assert len(README.splitlines()) <= 265


def test_the_pseudo_code_is_the_code():
    pseudo, file = blocks(README, "")[0], (ROOT / "tinytrm.py").read_text(encoding="utf-8")
    assert len(pseudo.splitlines()) == 8
    assert max(map(len, pseudo.splitlines())) <= 56, "no room beside the picture"
    for line in "z = net(x + y + z)", "y = net(y + z)":
        assert line in pseudo and line.replace("net", "self.net") in file and line in file


def test_the_last_lines_are_those_of_the_program():
    said = next(b for b in blocks(README, "") if b.startswith("held out"))
    exact, cells = (float(x) / 100 for x in re.findall(r"([\d.]+)% of", said))
    by_step = {int(k): float(v) / 100 for k, v in re.findall(r"(\d+): ([\d.]+)%", said)}
    result = dict(exact_accuracy=exact, cell_accuracy=cells, puzzles=1000, mean_steps=16,
                  by_step=[by_step.get(k, 0) for k in range(1, 17)])
    assert describe(result) + "\n" == said


def table(text: str, first: str) -> list[SimpleNamespace]:
    """The rows of the table whose first column has this title; by their titles' first words."""
    lines = re.search(rf"^\| {first} \|.*\n(?:\|.*\n)+", text, re.M)[0].splitlines()
    titles, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [SimpleNamespace(**dict(zip((t.split()[0] for t in titles), row, strict=True)))
            for row in rows]


def test_the_table_of_results():
    """Each preset has its row and its true size, and what was measured is on the leaderboard."""
    rows = table(README, "preset")
    board = table((ROOT / "docs/results.md").read_text("utf-8"), "date")
    assert {row.preset.strip("`") for row in rows} == set(PRESETS) - {"sudoku4"}
    for row in rows:
        config = PRESETS[row.preset.strip("`")].config
        assert row.parameters == f"{parameters(config):,}"
        figure, preset = row.here.replace("*", ""), f"--preset {row.preset.strip('`')} "
        measured = {r.accuracy.replace("*", "") for r in board
                    if preset in r.command.replace("`", " ")}
        assert bool(figure) == bool(row.time) and (not figure or figure in measured), row


def test_the_leaderboard():
    """Newest first; its commands are understood, and its commits exist and are of that day."""
    rows = table((ROOT / "docs/results.md").read_text(encoding="utf-8"), "date")
    assert len(rows) >= 10
    assert [r.date for r in rows] == sorted((r.date for r in rows), reverse=True)
    for row in rows:
        train.parse_args(shlex.split(row.command.strip("`")))
        assert row.accuracy.endswith(")") and row.steps.isdecimal()
    git = ["git", "-C", str(ROOT)]
    if run([*git, "rev-parse", "--is-shallow-repository"]).stdout.strip() != "false":
        pytest.skip("no whole history here")
    for row in rows:
        shown = run([*git, "show", "-s", "--format=%as", row.commit])
        assert shown.returncode == 0 and shown.stdout.strip() == row.date, row


def test_every_departure_from_the_paper_is_told():
    """The README names each function or class in which a NOTE(paper) stands."""
    told = README.partition("## How it differs")[2].partition("\n## ")[0]
    for file in [ROOT / "tinytrm.py", *sorted(ROOT.glob("data/*.py"))]:
        lines = file.read_text(encoding="utf-8").splitlines()
        for n in (n for n, line in enumerate(lines, 1) if "NOTE(paper):" in line):
            around = {name: s for name, s in symbols(file).items()
                      if s.lineno <= n <= s.end_lineno}
            path = name_of(file)
            if around:  # not the module's docstring, which explains the mark
                assert any(f"[`{name}`]({path})" in told for name in around), f"{path}:{n}"
