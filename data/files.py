"""Files of puzzles: written whole or not at all, read with errors that name the place, downloaded.

Puzzles lie in CSV files with the columns source,question,answer,rating, as in the public sets;
only question and answer are needed, in any order. Whatever is wrong with a file is a ValueError of
one line: which file, where in it, what, and what to do.
"""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data.grid import side_of

# ------------------------------------------------------------------------------------------------
# Writing


# Seconds to wait, one after the other, for a virus scanner to let go of what was just written.
SCANNED = (0.1, 0.5, 2.0) if os.name == "nt" else ()


def patiently(move: Callable[..., None], *args: Any, **how: Any) -> None:
    """Call it, again and again on Windows, where what somebody has open cannot be moved."""
    for wait in SCANNED:
        try:
            return move(*args, **how)
        except PermissionError:
            time.sleep(wait)
    move(*args, **how)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` once complete, and vanishes if it never is.

    Makes the folder. A link stays a link, and what is no ordinary file (/dev/full, a pipe) is
    written to as it is. Raises OSError.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may write at once
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # on the disk before the old file goes
        patiently(os.replace, part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hex digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_rows(path: str | Path, inputs: np.ndarray, labels: np.ndarray, characters: str,
               source: str, ratings: Iterable | None = None, ending: str = "\n") -> None:
    """Write puzzles (N, L) as a CSV file for `read_rows`; token t is written `characters[t]`."""
    letters = np.frombuffer(characters.encode("ascii"), np.uint8)
    questions, answers = ([row.tobytes().decode() for row in letters[tokens]]
                          for tokens in (inputs, labels))
    ratings = [""] * len(questions) if ratings is None else ratings
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ending)
    writer.writerow(["source", "question", "answer", "rating"])
    writer.writerows([source, *row] for row in zip(questions, answers, ratings))
    with replacing(path) as file:
        file.write(text.getvalue().encode())


# ------------------------------------------------------------------------------------------------
# Reading


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. Raises ValueError."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as e:
        raise ValueError(f"{path}: cannot be read: {e.strerror or e}; check the path") from None
    except UnicodeDecodeError as e:
        line = e.object[:e.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None


def _unique(items):
    """json hook: a dict, refusing the same key twice (json itself keeps the last silently)."""
    result = dict(items)
    if len(result) < len(items):
        keys = [key for key, _ in items]
        again = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {again[:60]!r} appears twice")
    return result


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. Raises ValueError, also for an object with the same key twice."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except ValueError as e:
        raise ValueError(f"{path}: no valid JSON: {e}") from None
    except RecursionError:
        raise ValueError(f"{path}: no valid JSON: lists or objects too deep in others") from None


class Rows(NamedTuple):
    """The N puzzles of a CSV file as text, and where they stand."""

    path: Path
    question: list[str]
    answer: list[str]
    line: list[int]  # of the file, on which each row ends

    def where(self, row: int) -> str:
        """How an error names a row, counted from 1, the header apart."""
        return f"{self.path}, row {row} (line {self.line[row - 1]})"

    @property
    def side(self) -> int:
        """Side of the square that the first question fills. Raises ValueError."""
        try:
            return side_of(len(self.question[0]))
        except ValueError as e:
            raise ValueError(f"{self.where(1)}: {e}") from None

    def tokens(self, column: str, alphabet: dict[str, int]) -> np.ndarray:
        """The column "question" or "answer" -> tokens (N, L) uint8.

        `alphabet` has the token, 1 or more, of each character that may occur. Raises ValueError for
        any other, and for a row of another length than the first question.
        """
        texts, L = getattr(self, column), len(self.question[0])
        for row, text in enumerate(texts, 1):
            if len(text) != L:
                raise ValueError(f"{self.where(row)}: the {column} has {len(text)} characters, not "
                                 f"{L} as the first question; a file holds puzzles of one size")
        table = np.zeros(256, np.uint8)
        table[[ord(character) for character in alphabet]] = list(alphabet.values())
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).reshape(-1, L)
        tokens = table[np.minimum(codes, 255)]
        if not tokens.all():
            i, j = np.argwhere(tokens == 0)[0]
            raise ValueError(f"{self.where(i + 1)}: character {j + 1} of the {column} is "
                             f"{texts[i][j]!r}; it is written in {''.join(alphabet)!r}")
        return tokens


def read_rows(path: str | Path) -> Rows:
    """The questions and answers of a CSV file. Raises ValueError."""
    rows = Rows(Path(path), [], [], [])
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip() for name in next(filter(None, reader), ["question", "answer"])]
        missing = [name for name in ("question", "answer") if name not in header]
        if missing:
            raise ValueError(f"{path}, header: no column {' and '.join(missing)}; the first line "
                             f"must name question and answer, it is {','.join(header)[:60]!r}")
        q, a = header.index("question"), header.index("answer")
        for row in filter(None, reader):  # an empty line is no row
            rows.line.append(reader.line_num)
            if len(row) <= max(q, a):
                raise csv.Error(f"{len(row)} columns, not {len(header)} as in the header")
            rows.question.append(row[q])
            rows.answer.append(row[a])
    except csv.Error as e:
        number, line = len(rows.question) + 1, reader.line_num
        place = f"row {number} (line {line})" if line > 1 else "header"
        raise ValueError(f"{path}, {place}: {e}") from None
    if not rows.question:
        raise ValueError(f"{path}: empty; it needs a header and at least one puzzle")
    return rows


# ------------------------------------------------------------------------------------------------
# Downloading


def fetch(url: str, path: str | Path, sha256: str | None = None) -> None:
    """Stream a URL into a file, which appears complete and with this `sha256` or not at all.

    Raises ValueError. Other files, fetched before, stay: a second try begins with this one.
    """
    path, digest, done = Path(path), hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=60) as reply, replacing(path) as file:
            total = int(reply.headers.get("Content-Length") or 0)
            while chunk := reply.read(2**20):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                print(f"{path.name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB",
                      end="\r", file=sys.stderr, flush=True)
            print(file=sys.stderr)
            if done < total:
                raise OSError(f"cut off after {done} of {total} bytes")
            if sha256 and digest.hexdigest() != sha256:
                raise ValueError(f"{url}: sha256 is {digest.hexdigest()}, not {sha256}; "
                                 f"file removed, try again or with another base URL (TINYTRM_HUB)")
    except (OSError, http.client.HTTPException) as e:
        python = "; with Python from python.org on a Mac run Install Certificates.command first"
        raise ValueError(f"{url}: download failed: {e}; check the network and the base URL "
                         f"(TINYTRM_HUB) and run again, or put the file into {path.parent}"
                         + python * ("CERTIFICATE_VERIFY_FAILED" in str(e))) from None
