"""What the docs show is what happens: every `python` and `console` block of README and docs runs, page by page, in order.

In a `console` block, lines that begin with `$ ` are typed, and what follows is compared with what the terminal shows. Ids,
digests, times and sizes are masked; a line `…` stands for any lines, and `…` in a line for anything. A command that is meant to
fail says so behind it: `# exit 1`. Blocks of other languages are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SLOW = re.compile(r"^make test\b")
"""What these tests are part of."""

_EXPORT = re.compile(r"export (\w+)=(\S+)\Z")

_BLOCK = re.compile(r"^```(python|console)[ ]*\n(.*?)^```", re.M | re.S)
_MASKS = [
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,64}\b(…)?"), "HEX"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z| UTC)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b1[0-9]{12,15}\b"), "EPOCH"),
    (re.compile(r"\b[\d.,]+ ?(KiB|MiB|GiB|kB|MB|GB|TB|bytes|ms|s)\b"), "SIZE"),
    (re.compile(r"[─━═┄╌-]{4,}"), "LINE"),
    (re.compile(r"[ \t]+"), " "),
]


class Block(NamedTuple):
    """One block of a page."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)


def mask(line: str) -> str:
    for pattern, name in _MASKS:
        line = pattern.sub(name, line)
    return line.strip()


def matches(shown: list[str], found: list[str]) -> bool:
    """Whether the lines of a page describe the lines of a terminal."""
    if not shown:
        return not found
    if shown[0] in ("…", "..."):
        return any(matches(shown[1:], found[skip:]) for skip in range(len(found) + 1))
    if not found:
        return False
    pattern = ".*".join(map(re.escape, re.split(r" ?(?:…|\.\.\.)", shown[0])))
    return re.fullmatch(pattern, found[0]) is not None and matches(shown[1:], found[1:])


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands with the output shown for each; a command goes on in lines that begin with `> `, as a shell shows them."""
    command, shown = None, []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command, shown
            command, shown = line[2:], []
        elif line.startswith("> ") and command is not None and not shown:
            command = f"{command}\n{line[2:]}"
        else:
            shown.append(line)
    if command is not None:
        yield command, shown


def environment_of_a_reader() -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "110", "PATH": programs}


def run_console(block: Block, folder: Path, page: Path, environment: dict[str, str]) -> None:
    for command, shown in commands(block.text):
        if SLOW.match(command):
            continue
        if export := _EXPORT.match(command):
            environment[export[1]] = export[2]
            continue
        if command == "make demo":  # In a clone; here is none, and the program is on the path.
            command = "ctxlog demo"  # noqa: PLW2901
            shown = [row.replace(".venv/bin/ctxlog", "ctxlog") for row in shown if "Installing" not in row]  # noqa: PLW2901
        expected = int(exit_code[1]) if (exit_code := re.search(r"# exit (\d+)", command)) else 0
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, text=True, timeout=120, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        where = f"{page.relative_to(ROOT)}:{block.line}: $ {command}"
        assert done.returncode == expected, f"{where}\nexit {done.returncode}\n{done.stdout}"
        want = [mask(line) for line in shown if line.strip()]
        have = [mask(line) for line in done.stdout.splitlines() if line.strip()]
        if want:
            assert matches(want, have), (
                f"{where}\n--- the page shows\n{chr(10).join(want)}\n--- the terminal\n{chr(10).join(have)}"
            )


def run_python(block: Block, folder: Path, page: Path, names: dict[str, object]) -> None:
    here = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)  # noqa: S102 - our own pages
    finally:
        os.chdir(here)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_everything_that_a_page_shows_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTXLOG_URL", raising=False)
    names: dict[str, object] = {"__name__": "docs"}
    environment = environment_of_a_reader()
    for block in blocks(page):
        if block.language == "python":
            run_python(block, tmp_path, page, names)
        else:
            run_console(block, tmp_path, page, environment)


def test_a_page_that_shows_something_else_is_found(tmp_path: Path) -> None:
    """The comparison can fail."""
    page, environment = ROOT / "README.md", environment_of_a_reader()
    run_console(Block("console", "$ echo one two\none …\n", 1), tmp_path, page, environment)
    with pytest.raises(AssertionError):
        run_console(Block("console", "$ echo one two\none three\n", 1), tmp_path, page, environment)
    with pytest.raises(AssertionError):
        run_console(Block("console", "$ false\n", 1), tmp_path, page, environment)
