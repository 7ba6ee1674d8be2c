"""Loads SQuAD v1.1 and v2.0 from official JSON files or the Hub, and builds features (windows).

A long context is split into overlapping windows. The label of a window is the answer's span, or the [CLS] token if the
answer is not in the window (Devlin et al., 2018, sections 4.2 and 4.3).
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from .corpus import open_text

EXAMPLES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
    }
)


def load_squad(source: str, split: str) -> Dataset:
    """Loads questions with their contexts and answers.

    Args:
        source: An official JSON file, compressed or not; or a Hub dataset with SQuAD's columns, or a local copy of it.
        split: Split of a Hub dataset; ignored for a file.

    Returns:
        A dataset with one question per row: `id`, `title`, `context`, `question`, and `answers` with `text` and
        `answer_start` (in characters), which are empty if there is no answer.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A field is missing, there are no questions, or an answer is not at its offset.
    """
    path = Path(source).expanduser()
    if path.is_file():
        stat = path.stat()
        try:
            return Dataset.from_generator(
                _read_file,
                features=EXAMPLES,
                gen_kwargs={"path": path.resolve()},
                fingerprint=Hasher.hash(["squad", str(path.resolve()), stat.st_size, stat.st_mtime_ns]),
            )
        except DatasetGenerationError as error:
            raise error.__cause__ or error from None
    if path.suffix in (".json", ".gz"):
        raise FileNotFoundError(f"There is no file {source}: give an official SQuAD JSON file, or a Hub dataset.")
    examples = load_dataset(source, split=split)
    if missing := sorted(set(EXAMPLES) - {"title"} - set(examples.column_names)):
        raise ValueError(f"{source}, split {split}: no column {', '.join(missing)}: expected SQuAD's columns.")
    for number, example in enumerate(examples):
        _check_answers(example, f"{source}, split {split}, row {number}")
    return examples


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    empty = True
    for example in _read_questions(path):
        _check_answers(example, f"{path}, question {example['id']!r} of {example['title']!r}")
        empty = False
        yield example
    if empty:
        raise ValueError(f"{path} has no questions: expected the official layout, data > paragraphs > qas.")


def _read_questions(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_text(path) as stream:
            articles = json.load(stream)["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [] if question.get("is_impossible") else question["answers"]
                    yield {
                        "id": question["id"],
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": {key: [answer[key] for answer in answers] for key in ("text", "answer_start")},
                    }
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a complete JSON file ({error}): download it again.") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not have the official layout, data > paragraphs > qas > answers: {error} is missing or has "
            "the wrong type. Correct the entry."
        ) from error


def _check_answers(example: Mapping[str, Any], where: str) -> None:
    context, answers = example["context"], example["answers"]
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        if start < 0 or context[start : start + len(text)] != text:
            offset = context.find(text)
            found = f"it is at {offset}" if offset >= 0 else "it is not in the context"
            raise ValueError(
                f"{where}: at answer_start {start} the context has {context[max(start, 0) :][: len(text)]!r}, not the "
                f"answer {text!r}; {found}. Correct answer_start (in characters), or remove the question."
            )


def is_version_2(examples: Dataset) -> bool:
    """Whether some questions have no answer."""
    return any(not answers["text"] for answers in examples["answers"])


def build_features(
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    training: bool,
    max_length: int = 384,
    doc_stride: int = 128,
    max_question_length: int = 64,
    processes: int | None = None,
) -> Dataset:
    """Tokenizes questions and contexts into windows, without padding.

    Args:
        examples: Dataset from `load_squad`.
        tokenizer: A fast tokenizer.
        training: Whether to add labels. Otherwise, adds what is needed to find answers in the text.
        max_length: Maximum number of tokens of a window, including question and special tokens.
        doc_stride: Number of tokens that consecutive windows share, as in `transformers`' pipeline and examples. (In
            the original BERT code, it is the distance between the beginnings of windows.)
        max_question_length: Maximum number of tokens of the question; it is truncated.
        processes: Number of processes.

    Returns:
        A dataset with one window per row: the tokenizer's columns, and
            for training: `start_positions` and `end_positions`: indices of the answer's first and last token; 0, the
                [CLS] token, without an answer.
            otherwise: `example`: index of the question; `offsets`: start and end of each context token in the context,
                in characters, flattened; `context_start`: index of the first context token.

    Raises:
        ValueError: The tokenizer is not fast, its sequences do not begin with [CLS], or `doc_stride` is too large.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} has no character offsets: use a fast tokenizer.")
    if tokenizer.cls_token_id is None or tokenizer("")["input_ids"][:1] != [tokenizer.cls_token_id]:
        raise ValueError(f"{type(tokenizer).__name__} does not begin sequences with [CLS]: use a BERT tokenizer.")
    room = max_length - max_question_length - tokenizer.num_special_tokens_to_add(pair=True)
    if not 0 <= doc_stride < room:
        raise ValueError(
            f"doc_stride={doc_stride} must be from 0 to {room - 1}, less than the context's part of a window: "
            f"max_length={max_length} minus max_question_length={max_question_length} and special tokens."
        )
    build = partial(
        _windows,
        tokenizer=tokenizer,
        training=training,
        max_length=max_length,
        doc_stride=doc_stride,
        max_question_length=max_question_length,
    )
    return examples.map(
        build,
        batched=True,
        with_indices=True,
        remove_columns=examples.column_names,
        num_proc=processes,
        desc="building features",
    )


def _windows(
    rows: dict[str, list[Any]],
    indices: list[int],
    tokenizer: PreTrainedTokenizerBase,
    training: bool,
    max_length: int,
    doc_stride: int,
    max_question_length: int,
) -> dict[str, list[Any]]:
    encoded = tokenizer(
        shorten(rows["question"], tokenizer, max_question_length),
        rows["context"],
        truncation="only_second",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    sources = encoded.pop("overflow_to_sample_mapping")
    offsets = encoded.pop("offset_mapping")
    columns: dict[str, list[Any]] = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
    columns.pop("attention_mask", None)  # all ones; the collator creates it
    more: dict[str, list[Any]] = {name: [] for name in (TRAINING_COLUMNS if training else EVALUATION_COLUMNS)}
    for window, source in enumerate(sources):
        positions = np.flatnonzero([part == 1 for part in encoded.sequence_ids(window)])
        spans = np.array(offsets[window], dtype=np.int32)[positions]
        if training:
            answers = {key: values[:1] for key, values in rows["answers"][source].items()}
            found = _find_answer(answers, spans)
            values = tuple(positions[0] + position for position in found) if found else (0, 0)
        else:
            values = (indices[source], spans.ravel(), positions[0] if len(positions) else 0)
        for name, value in zip(more, values, strict=True):
            more[name].append(value)
    return {**columns, **more}


TRAINING_COLUMNS = ("start_positions", "end_positions")
EVALUATION_COLUMNS = ("example", "offsets", "context_start")


def shorten(questions: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[str]:
    """Truncates questions to `max_tokens` tokens, and strips leading white space."""
    questions = [question.lstrip() for question in questions]
    encoded = tokenizer(
        questions, add_special_tokens=False, truncation=True, max_length=max_tokens, return_offsets_mapping=True
    )
    ends = [spans[-1][1] if spans else 0 for spans in encoded["offset_mapping"]]
    return [question[:end] for question, end in zip(questions, ends, strict=True)]


def _find_answer(answers: Mapping[str, list[Any]], spans: np.ndarray) -> tuple[int, int] | None:
    """Indices of the answer's first and last token among the window's context tokens [n, 2]; None if it is outside."""
    if not answers["text"] or not len(spans):
        return None
    begin = answers["answer_start"][0]
    end = begin + len(answers["text"][0])
    if begin < spans[0, 0] or end > spans[-1, 1]:
        return None
    first = int(np.searchsorted(spans[:, 0], begin, side="right")) - 1
    last = int(np.searchsorted(spans[:, 1], end, side="left"))
    return (first, last) if first <= last else None
