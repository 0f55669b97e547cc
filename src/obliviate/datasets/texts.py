"""Texts that people wrote, or that are about people: TOFU and the speeches of Shakespeare."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from obliviate.datasets.loaded import Loaded
from obliviate.datasets.sources import SPEECHES, TOFU
from obliviate.options import path_text, regular

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeGuard

    from obliviate.datasets.sources import Source

    Text = dict[str, str]

_QUESTIONS = 20
"""How many questions TOFU has about an author."""
_FORGET = "forget10"
_RETAIN = "retain90"
_FIRST_TASK = "1"
_PACKED = ".xz"
_SPEECHES = ("speeches.jsonl", "speeches.jsonl.xz", "input.txt")


class Texts(Dataset[Any]):
    """Texts, each a mapping of names to strings, or what a function makes of it.

    Attributes:
        texts: All of them.
        tokenise: What makes a record of one; None to give it as it is.
    """

    def __init__(
        self, texts: Sequence[Text], tokenise: Callable[[Text], Any] | None = None
    ) -> None:
        self.texts, self.tokenise = texts, tokenise

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, record: int) -> Any:
        text = self.texts[record]
        return text if self.tokenise is None else self.tokenise(text)


def tofu(place: str | Path, *, tokenise: Callable[[Text], Any] | None = None) -> Loaded:
    """TOFU: 20 questions and answers about each of 200 invented authors.

    Source: Maini, Feng, Schwarzschild, Lipton, Kolter 2024, "TOFU: a task of fictitious unlearning
    for LLMs".

    Args:
        place: The folder with full.json, or with retain90.json and forget10.json, which are the
            same cut in two; or such a file of all questions. Lines of JSON, or a list; may be
            packed (.xz).
        tokenise: Makes a record of {"question": ..., "answer": ...}: tokens, say. Nothing of it may
            have been learned from these texts.

    Returns:
        The records in the order of full.json, with "author-0" to "author-199" as subjects. Of the
        published sets to be forgotten, forget10 is the last tenth of the authors.

    Raises:
        InvalidOption: A file is missing or damaged, or does not have 20 questions for each author.
    """
    path = Path(path_text(place, "the place of TOFU"))
    if path.is_file() or _named(path, "full") is not None:
        whole = path if path.is_file() else TOFU.file(path, _names("full"))
        texts = _questions(whole)
    else:
        parts = [TOFU.file(path, [*_names(each), *_names("full")]) for each in (_RETAIN, _FORGET)]
        texts = [text for part in parts for text in _questions(part)]
        whole = parts[0]
    if not texts or len(texts) % _QUESTIONS:
        raise TOFU.damaged(
            whole, f"gives {len(texts):,} questions, not {_QUESTIONS} for each author"
        )
    return Loaded(
        data=Texts(texts, tokenise),
        subjects=[f"author-{at // _QUESTIONS}" for at in range(len(texts))],
    )


def speeches(place: str | Path, *, tokenise: Callable[[Text], Any] | None = None) -> Loaded:
    """Speeches of Shakespeare's plays, each with its speaker: "tiny Shakespeare".

    Source: Karpathy 2015, "The unreasonable effectiveness of recurrent neural networks".

    Args:
        place: The file input.txt as it is published: speeches apart by an empty line, each headed
            by the speaker's name and a colon; or speeches.jsonl, lines of JSON with `speaker` and
            `text`, also packed (.xz); or the folder of one of them.
        tokenise: As for `tofu`, of {"text": ...}.

    Raises:
        InvalidOption: The file is missing or damaged.
    """
    path = SPEECHES.file(place, _SPEECHES)
    if path.suffix == ".txt":
        pairs = _spoken(path)
    else:
        rows = _rows(path, SPEECHES, ("speaker", "text"))
        pairs = [(row["speaker"], row["text"]) for row in rows]
    texts = [{"text": text} for _, text in pairs]
    return Loaded(data=Texts(texts, tokenise), subjects=[speaker for speaker, _ in pairs])


def _names(stem: str) -> list[str]:
    return [f"{stem}.json", f"{stem}.jsonl", f"{stem}.json{_PACKED}"]


def _named(folder: Path, stem: str) -> Path | None:
    return next((folder / name for name in _names(stem) if (folder / name).is_file()), None)


def _questions(path: Path) -> list[Text]:
    rows = _rows(path, TOFU, ("question", "answer"))
    # some copies repeat the questions for each of several tasks
    return [
        {"question": row["question"], "answer": row["answer"]}
        for row in rows
        if row.get("task_id", _FIRST_TASK) == _FIRST_TASK
    ]


def _rows(path: Path, source: Source, wanted: Sequence[str]) -> list[dict[str, Any]]:
    content = _text(path, source)
    try:
        is_list = content.lstrip().startswith("[")
        rows = json.loads(content) if is_list else [json.loads(line) for line in _lines(content)]
    except ValueError as error:
        raise source.damaged(path, f"is no JSON: {error}") from error
    odd = next((at for at, row in enumerate(rows, 1) if not _has(row, wanted)), None)
    if odd is not None or not rows:
        what = f"has no text {' and '.join(wanted)} in row {odd}" if rows else "holds no rows"
        raise source.damaged(path, what)
    return rows


def _lines(content: str) -> list[str]:
    # not splitlines: a text may hold the other line ends of Unicode
    return [line for line in content.split("\n") if line.strip()]


def _has(row: object, wanted: Sequence[str]) -> TypeGuard[dict[str, Any]]:
    return isinstance(row, dict) and all(isinstance(row.get(name), str) for name in wanted)


def _text(path: Path, source: Source) -> str:
    try:
        content = regular(path).read_bytes()
        packed = path.suffix == _PACKED
        return (lzma.decompress(content) if packed else content).decode("utf-8-sig")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise source.damaged(path, f"cannot be read: {error}") from error


def _spoken(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for part in _text(path, SPEECHES).replace("\r\n", "\n").split("\n\n"):
        head, _, text = part.strip().partition("\n")
        if head.endswith(":") and text.strip():
            pairs.append((head.removesuffix(":").strip(), text.strip()))
    if not pairs:
        raise SPEECHES.damaged(path, "holds no speeches, headed by a name and a colon")
    return pairs
