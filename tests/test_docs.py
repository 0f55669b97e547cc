"""The documents keep their word: what they show is executed, in order, in an empty folder.

In README.md and docs/*.md, every ```python block is executed, all blocks of a file in one
namespace (one that begins with the name of a file, `# project.py`, becomes that file, which is run
by itself), and so is every line of a ```console block that starts with `$ obliviate`, `$ python` or
`$ torchrun`.
A command that is meant to fail says so: `$ obliviate status nowhere  # exit code 2`. The folder
holds what a clone of the repository would, `examples/`, and a small stand-in for the MNIST files in
data/mnist.
"""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import prepared
from tests.idx_files import write_digits

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
# what a reader does before there is anything to test
SETTING_UP = {"git", "cd", "make", "pip", "python3"}
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*([^\n]*)$")
FILE_NAME = re.compile(r"# (\w+\.py)\n")
APART = re.compile(r"<!-- apart -->.*?(?=<!-- together -->|\Z)", flags=re.DOTALL)
EXIT_CODE = re.compile(r"\s#\s*exit code (\d+)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the number of its first line, and its text."""

    language: str
    line: int
    text: str


def blocks_of(document: str) -> list[Block]:
    """The fenced blocks of a Markdown text.

    Raises:
        ValueError: A fence is never closed: what follows would silently go untested.
    """
    blocks, fence, lines = [], None, []
    for number, line in enumerate(document.splitlines(), start=1):
        found = FENCE.match(line)
        if fence is None:
            if found:
                fence, lines = (*found.groups(), number + 1), []
        elif found and found[1].startswith(fence[0]) and not found[2]:
            blocks.append(Block(fence[1].strip(), fence[2], "\n".join(lines) + "\n"))
            fence = None
        else:
            lines.append(line)
    if fence is not None:
        raise ValueError(f"the block that begins on line {fence[2]} is never closed")
    return blocks


def commands_of(block: Block) -> list[tuple[int, str]]:
    """The lines of a console block that start with `$ `, with their numbers."""
    commands, text = [], ""
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if text or line.startswith("$ "):
            text += line if text else line.removeprefix("$ ")
            if text.endswith("\\"):
                text = text.removesuffix("\\")
                continue
            commands.append((number, text))
            text = ""
    return commands


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """The working directory of a reader."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    write_digits(tmp_path / "data" / "mnist", train=60, test=20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def parts_of(document: str) -> list[str]:
    """What stands between `<!-- apart -->` and `<!-- together -->`, and all the rest.

    Parts need nothing of each other, and take long enough to be tested side by side. Lines keep
    their numbers.
    """
    parts, rest = [], document
    for found in APART.finditer(document):
        before, apart = document[: found.start()], found[0]
        parts.append("\n" * before.count("\n") + apart)
        rest = rest.replace(apart, "\n" * apart.count("\n"))
    return [rest, *parts]


PARTS = [
    pytest.param(path, part, id=f"{path.name}-{number}" if number else path.name)
    for path in DOCUMENTS
    for number, part in enumerate(parts_of(path.read_text(encoding="utf-8")))
]


@pytest.mark.e2e
@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize(("document", "part"), PARTS)
def test_what_is_shown_works(document, part):
    namespace = {"__name__": "__main__"}
    for block in blocks_of(part):
        execute(block, document, namespace)


def execute(block: Block, document: Path, namespace: dict) -> None:
    named = FILE_NAME.match(block.text)
    if block.language == "python" and named:
        Path(named[1]).write_text(block.text, encoding="utf-8")
        run(f"python {named[1]}", f"{document.name}, line {block.line}")
    elif block.language == "python":
        # so many empty lines before it that a traceback shows the document's own line
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, document, "exec"), namespace)
    elif block.language == "console":
        for number, command in commands_of(block):
            run(command, f"{document.name}, line {number}")
    elif block.language.startswith(("python", "py", "console", "sh", "bash")):
        raise AssertionError(
            f"{document.name}, line {block.line}: {block.language!r} blocks are not executed; "
            "write ```python or ```console"
        )


def run(command: str, place: str) -> None:
    expected = EXIT_CODE.search(command)
    words = shlex.split(command, comments=True)
    if words[0] in SETTING_UP:
        return
    assert words[0] in ("obliviate", "python", "torchrun"), f"{place}: cannot test `{command}`"
    if words[0] == "torchrun":  # it starts processes of its own
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300)
    else:
        done = prepared.run(words)
    told = f"{place}: `{command}` ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == (int(expected[1]) if expected else 0), told


# The harness itself: a hole in it would let every document lie


def test_every_block_is_found():
    text = "a\n```python\n1\n```\n~~~console\n$ b\n```\n~~~\n````text\n```python\n```\n````\n"
    assert [(block.language, block.line, block.text) for block in blocks_of(text)] == [
        ("python", 3, "1\n"),
        ("console", 6, "$ b\n```\n"),
        ("text", 10, "```python\n```\n"),
    ]


def test_parts_are_cut_out_and_lines_keep_their_numbers():
    text = "a\n<!-- apart -->\nb\n<!-- together -->\nc\n<!-- apart -->\nd\n"
    rest, first, second = parts_of(text)
    assert rest.splitlines() == ["a", "", "", "<!-- together -->", "c"] + [""] * 2
    assert first.splitlines() == ["", "<!-- apart -->", "b"]
    assert second.splitlines() == [""] * 5 + ["<!-- apart -->", "d"]


def test_a_block_that_is_never_closed_is_found():
    with pytest.raises(ValueError, match="line 2 is never closed"):
        blocks_of("```python\n1 / 0\n")


def test_commands_may_go_over_several_lines():
    block = Block("console", 7, "$ obliviate fit a \\\n    b\ntrained\n$ obliviate status b\n")
    assert commands_of(block) == [(8, "obliviate fit a     b"), (10, "obliviate status b")]


@pytest.mark.parametrize(
    ("language", "text", "error"),
    [
        ("python", "1 / 0\n", ZeroDivisionError),
        ("python no-run", "1\n", AssertionError),
        ("console", "$ python -c 'raise SystemExit(1)'\n", AssertionError),
        ("console", "$ python -c 'pass'  # exit code 2\n", AssertionError),
        ("console", "$ obliviat status\n", AssertionError),
        ("bash", "obliviate fit\n", AssertionError),
    ],
)
def test_what_does_not_work_is_found(language, text, error):
    with pytest.raises(error):
        execute(Block(language, 1, text), Path("document.md"), {})


def test_what_works_passes():
    namespace = {}
    execute(Block("python", 1, "a = 1\n"), Path("document.md"), namespace)
    execute(Block("python", 4, "b = a + 1\n"), Path("document.md"), namespace)
    assert namespace["b"] == 2
    failing = "$ pip install obliviate\n$ python -c 'raise SystemExit(2)'  # exit code 2\n"
    execute(Block("console", 1, failing), Path("document.md"), {})
