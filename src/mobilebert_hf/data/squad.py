"""Loads SQuAD v1.1 and v2.0, and question-answering files in the same columns, and checks every question.

A file is JSON in the official layout (data > paragraphs > qas), JSON with one question per row (`data` or a list), or
JSON Lines; compressed or not. Answers are a list of `{"text", "answer_start"}`, or lists of both. All faults of a file
are named at once.
"""

import json
import logging
import lzma
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value, load_dataset
from datasets.fingerprint import Hasher

from .edges import visible
from .faults import Fault, settle, shown, surrogate
from .plain_text import OPENERS, open_text

logger = logging.getLogger(__name__)

EXAMPLES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
    }
)
LAYOUT = "the official layout (data > paragraphs > qas), one question per row, or JSON Lines"


def load_squad(source: str, split: str, *, repair_offsets: bool = False, skipped: Path | None = None) -> Dataset:
    """Loads questions with their contexts and answers.

    Invisible characters at the edges of an answer (white space, zero-width and control characters) are removed. An
    answer without other characters is no answer, as in SQuAD v2.0.

    Args:
        source: A JSON or JSON Lines file, compressed or not; or a Hub dataset with SQuAD's columns, or a local copy.
        split: Split of a Hub dataset; ignored for a file.
        repair_offsets: Whether a wrong `answer_start` is corrected where the context has the answer exactly once.
        skipped: Folder for the faulty questions of each split, which are left out. By default they are errors.

    Returns:
        A dataset with one question per row: `id`, `title`, `context`, `question`, and `answers` with `text` and
        `answer_start` (in characters), which are empty if there is no answer.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not JSON, or questions are faulty: a field is missing or has another type, an id is
            there twice, or an answer is not at its offset. The message lists the first 20 of them.
    """
    path = Path(source).expanduser()
    skipped = None if skipped is None else skipped / f"{split}.jsonl"
    if path.is_file():
        rows, faults = _read_file(path, repair_offsets)
        settle(faults, len(rows), skipped)
        stat = path.stat()
        return Dataset.from_generator(
            _good_rows,
            features=EXAMPLES,
            gen_kwargs={"path": path.resolve(), "repair_offsets": repair_offsets},
            fingerprint=Hasher.hash(
                ["questions", str(path.resolve()), stat.st_size, stat.st_mtime_ns, repair_offsets]
            ),
        )
    if path.suffix.lower() in (".json", ".jsonl", *OPENERS):
        raise FileNotFoundError(f"There is no file {source}: give a JSON file in SQuAD's layout, or a Hub dataset.")
    return _load_hub(source, split, repair_offsets, skipped)


def is_version_2(examples: Dataset) -> bool:
    """Whether some questions have no answer."""
    return any(not answers["text"] for answers in examples["answers"])


def _load_hub(source: str, split: str, repair_offsets: bool, skipped: Path | None) -> Dataset:
    where = f"{source}, split {split}"
    try:
        examples = load_dataset(source, split=split)
    except FileNotFoundError as error:  # of an empty folder, too
        raise FileNotFoundError(f"{where}: {error}. Give a JSON file in SQuAD's layout, or a Hub dataset.") from error
    if missing := sorted(set(EXAMPLES) - {"title"} - set(examples.column_names)):
        raise ValueError(f"{where}: no column {', '.join(missing)}: expected SQuAD's columns.")
    questions = ((f"{where}, row {number}", example) for number, example in enumerate(examples))
    rows, faults = _check(questions, where, repair_offsets, version_1=False)
    settle(faults, len(rows), skipped)
    return Dataset.from_list(rows, features=EXAMPLES)


# ---- files


def _good_rows(path: Path, repair_offsets: bool) -> Iterator[dict[str, Any]]:
    yield from _read_file(path, repair_offsets)[0]


def _read_file(path: Path, repair_offsets: bool) -> tuple[list[dict[str, Any]], list[Fault]]:
    try:
        with open_text(path) as stream:
            text = stream.read()
        content = json.loads(text)
    except json.JSONDecodeError as error:
        items = _read_lines(path, text, error)
        return _check(_questions(path, items), str(path), repair_offsets, version_1=False)
    except (ValueError, RecursionError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete JSON file ({error}): download it again.") from error
    version_1 = isinstance(content, dict) and str(content.get("version", "")).lower().lstrip("v").startswith("1")
    listed = content.get("data") if isinstance(content, dict) else content
    if isinstance(content, dict) and listed is None and "question" in content:
        listed = [content]  # JSON Lines of one line
    if not isinstance(listed, list):
        raise ValueError(f"{path} does not have {LAYOUT}: it is {shown(content)}. Correct the file.")
    if not listed:
        raise ValueError(f"{path} has no questions: expected {LAYOUT}.")
    items = [(f"{path}, row {number}", item) for number, item in enumerate(listed, 1)]
    return _check(_questions(path, items), str(path), repair_offsets, version_1)


def _read_lines(path: Path, text: str, error: json.JSONDecodeError) -> list[tuple[str, Any]]:
    """The rows of JSON Lines; a line that is not JSON is a `Fault`. Raises ValueError if the first line is not."""
    items: list[tuple[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            items.append((where, json.loads(line)))
        except (ValueError, RecursionError) as wrong:
            if not items:
                raise ValueError(f"{path} is not a complete JSON file ({error}): download it again.") from error
            items.append((where, Fault(where, f"not JSON ({wrong}). Correct or remove the line.", line)))
    if not items:
        raise ValueError(f"{path} is not a complete JSON file ({error}): download it again.") from error
    return items


def _questions(path: Path, items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The place and the fields of each question: those of articles, paragraph by paragraph, and rows as they are."""
    for where, article in items:
        if not isinstance(article, dict) or "paragraphs" not in article:
            yield where, article
            continue
        title = article.get("title", "")
        paragraphs = article["paragraphs"]
        if not isinstance(paragraphs, list):
            yield where, Fault(where, f"paragraphs is {shown(paragraphs)}: expected a list.", article)
            continue
        for number, paragraph in enumerate(paragraphs, 1):
            place = f"{path}, paragraph {number} of {title!r}"
            if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
                yield place, Fault(place, "qas is missing or not a list of questions.", paragraph)
                continue
            for index, question in enumerate(paragraph["qas"], 1):
                if not isinstance(question, dict):
                    yield place, question
                    continue
                name = f"question {question['id']!r}" if "id" in question else f"question {index}"
                fields = {"title": title, "context": paragraph.get("context"), **question}
                yield f"{path}, {name} of {title!r}", fields


# ---- questions


class _Wrong(ValueError):
    """What is wrong with a question."""


def _check(
    questions: Iterable[tuple[str, Any]], source: str, repair_offsets: bool, version_1: bool
) -> tuple[list[dict[str, Any]], list[Fault]]:
    """The questions in the columns of `EXAMPLES`, and the faults of the others."""
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    places: dict[str, str] = {}  # by id
    changes: Counter[str] = Counter()
    for where, question in questions:
        if isinstance(question, Fault):
            faults.append(question)
            continue
        try:
            row = _read_question(question, repair_offsets, version_1, changes)
            if row["id"] in places:
                raise _Wrong(f"id {row['id']!r} is also that of {places[row['id']]}. Give each question its own id.")
        except _Wrong as error:
            faults.append(Fault(where, str(error), question))
        else:
            places[row["id"]] = where
            rows.append(row)
    for change, count in changes.items():
        logger.warning("%s: %d answers %s", source, count, change)
    return rows, faults


def _read_question(question: Any, repair_offsets: bool, version_1: bool, changes: Counter[str]) -> dict[str, Any]:
    if not isinstance(question, Mapping):
        raise _Wrong(f"{shown(question)} is not a question: expected {LAYOUT}.")
    identifier = question.get("id")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    fields = {"title": "", **question, "id": identifier}
    fields["title"] = fields["title"] or ""
    row = {name: _text(fields, name) for name in ("id", "title", "context", "question")}
    for name in ("id", "context", "question"):
        if not row[name].strip():
            raise _Wrong(f"{name!r} is empty. Fill it in, or remove the question.")
    impossible = question.get("is_impossible") is True
    pairs = _pairs(question.get("answers"), impossible)
    found = [_place(row["context"], *pair, repair_offsets, changes) for pair in pairs]
    answers = [answer for answer in found if answer is not None]
    if impossible and answers:
        raise _Wrong("is_impossible is true, but there are answers. Remove one of the two.")
    if version_1 and not answers and not impossible:
        raise _Wrong("no answer, which v1.1 requires. Add an answer, or set the file's version to v2.0.")
    texts, starts = [text for text, _ in answers], [start for _, start in answers]
    return {**row, "answers": {"text": texts, "answer_start": starts}}


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        raise _Wrong(f"{name!r} is missing. Add it, or remove the question.")
    if not isinstance(value, str):
        raise _Wrong(f"{name!r} is {shown(value)}, a {type(value).__name__}: expected a string. Correct it.")
    if (index := surrogate(value)) is not None:
        raise _Wrong(f"{name!r} has a lone surrogate, {value[index]!a}, at character {index}. Remove it.")
    return value


def _pairs(answers: Any, impossible: bool) -> list[tuple[Any, Any]]:
    """Texts and offsets, unchecked, of either layout of answers."""
    if answers is None:
        if impossible:
            return []
        raise _Wrong("'answers' is missing: expected a list, empty if there is no answer. Add it.")
    names = ("text", "answer_start")
    if isinstance(answers, Mapping):
        texts, starts = (answers.get(name) for name in names)
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise _Wrong(f"'answers' is {shown(answers)}: expected as many texts as values of answer_start.")
        return list(zip(texts, starts, strict=True))
    if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
        raise _Wrong(f"'answers' is {shown(answers)}, of the wrong type: expected text and answer_start of each.")
    return [(answer.get("text"), answer.get("answer_start")) for answer in answers]


def _place(context: str, text: Any, start: Any, repair_offsets: bool, changes: Counter[str]) -> tuple[str, int] | None:
    """The visible part of an answer and where it starts in the context; None if there is none."""
    if not isinstance(text, str):
        raise _Wrong(f"an answer's text is {shown(text)}: expected a string. Correct it, or remove the answer.")
    begin, end = visible(text, 0, len(text))
    if begin == end:
        changes["without text are no answers, as in SQuAD v2.0"] += 1
        return None
    if not isinstance(start, int) or isinstance(start, bool):
        raise _Wrong(f"answer_start of {shown(text)} is {start!r}: expected an integer, in characters. Correct it.")
    wanted = text[begin:end]
    if begin or end < len(text):
        changes["have invisible characters at an edge, which are removed"] += 1
    if start + begin >= 0 and context.startswith(wanted, start + begin):
        return wanted, start + begin
    first = context.find(wanted)
    once = first >= 0 and context.find(wanted, first + 1) < 0
    if once and repair_offsets:
        changes["had a wrong answer_start, which is corrected"] += 1
        return wanted, first
    there = context[start : start + len(text)] if start >= 0 else ""
    found = f"it is at {first}" if first >= 0 else "it is not in the context"
    raise _Wrong(
        f"at answer_start {start} the context has {shown(there)}, not the answer {shown(text)}; {found}. "
        + ("Use repair_offsets, or correct" if once else "Correct")
        + " answer_start (in characters), or remove the question."
    )
