"""SQuAD v1.1 and v2.0, from official JSON files or the Hub, to features: windows of question and context.

A context that is too long becomes several windows that overlap. What is learned of a window is where the answer is in
it, or the [CLS] token where it is not (Devlin et al., 2018, section 4.2 and 4.3).
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
        source: An official JSON file, compressed or not, or a Hub data set (or a local copy of it) in its form.
        split: Which split of a data set; a file is taken as it is.

    Returns:
        A row a question: `id`, `title`, `context`, `question`, and `answers` with `text` and `answer_start` (in
        characters), which are empty where there is no answer.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A field is missing, there are no questions, or an answer is not where its offset says; names the
            file, the question, and what to do.
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
        raise FileNotFoundError(f"There is no file {source}: give an official SQuAD JSON file, or a Hub data set.")
    examples = load_dataset(source, split=split)
    if missing := sorted(set(EXAMPLES) - {"title"} - set(examples.column_names)):
        raise ValueError(f"{source}, split {split}: no column {', '.join(missing)}: expected SQuAD's on the Hub.")
    for number, example in enumerate(examples):
        _check_answers(example, f"{source}, split {split}, row {number}")
    return examples


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    found = False
    for example in _read_questions(path):
        _check_answers(example, f"{path}, question {example['id']!r} of {example['title']!r}")
        found = True
        yield example
    if not found:
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
        raise ValueError(f"{path} is not a whole JSON file ({error}): download it again.") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} has not the official layout, data > paragraphs > qas > answers: {error} is missing or not what "
            "it should be. Convert it, or correct the entry."
        ) from error


def _check_answers(example: Mapping[str, Any], where: str) -> None:
    context, answers = example["context"], example["answers"]
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        if start < 0 or context[start : start + len(text)] != text:
            place = context.find(text)
            there = f"it stands at {place}" if place >= 0 else "it stands nowhere in the context"
            raise ValueError(
                f"{where}: at answer_start {start} the context has {context[max(start, 0) :][: len(text)]!r}, not the "
                f"answer {text!r}; {there}. Correct answer_start, in characters, or remove the question."
            )


def is_version_2(examples: Dataset) -> bool:
    """Whether there are questions without an answer."""
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
    """Windows of all questions, not padded.

    Args:
        examples: Of `load_squad`.
        tokenizer: A fast tokenizer.
        training: Whether the windows get labels; if not, they get what is needed to find answers in the text.
        max_length: Tokens of a window, with question and special tokens.
        doc_stride: Tokens that a window shares with the next one, as in the library's pipeline and examples. (The
            original BERT code calls so how far a window begins after the one before.)
        max_question_length: Tokens of the question; later ones are cut off.
        processes: How many to use.

    Returns:
        A row a window, with the tokenizer's columns and
            for training: `start_positions`, `end_positions`: places of the answer's first and last token, or of
                [CLS], 0, twice.
            else: `example`: the row of the question; `offsets`: for each token of the context in the window where it
                begins and ends in the context, in characters, flattened; `context_start`: the place of the first one.

    Raises:
        ValueError: The tokenizer is not fast, does not begin with [CLS], or windows would not go forward.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} gives no character offsets: use a fast tokenizer.")
    if tokenizer.cls_token_id is None or tokenizer("")["input_ids"][:1] != [tokenizer.cls_token_id]:
        raise ValueError(f"{type(tokenizer).__name__} does not begin with [CLS], which stands for no answer.")
    room = max_length - max_question_length - tokenizer.num_special_tokens_to_add(pair=True)
    if not 0 <= doc_stride < room:
        raise ValueError(
            f"doc_stride={doc_stride} must be from 0 to {room - 1}, less than the context's part of a window: "
            f"max_length={max_length} less max_question_length={max_question_length} and special tokens."
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
    columns.pop("attention_mask", None)  # all ones; the collator makes it
    more: dict[str, list[Any]] = {name: [] for name in (TRAINING_COLUMNS if training else EVALUATION_COLUMNS)}
    for window, source in enumerate(sources):
        places = np.flatnonzero([part == 1 for part in encoded.sequence_ids(window)])
        spans = np.array(offsets[window], dtype=np.int32)[places]
        if training:
            answers = {key: values[:1] for key, values in rows["answers"][source].items()}
            found = _find_answer(answers, spans)
            values = tuple(places[0] + place for place in found) if found else (0, 0)
        else:
            values = (indices[source], spans.ravel(), places[0] if len(places) else 0)
        for name, value in zip(more, values, strict=True):
            more[name].append(value)
    return {**columns, **more}


TRAINING_COLUMNS = ("start_positions", "end_positions")
EVALUATION_COLUMNS = ("example", "offsets", "context_start")


def shorten(questions: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> list[str]:
    """Questions cut off after their first `max_tokens` tokens, without the white space that some begin with."""
    questions = [question.lstrip() for question in questions]
    encoded = tokenizer(
        questions, add_special_tokens=False, truncation=True, max_length=max_tokens, return_offsets_mapping=True
    )
    ends = [spans[-1][1] if spans else 0 for spans in encoded["offset_mapping"]]
    return [question[:end] for question, end in zip(questions, ends, strict=True)]


def _find_answer(answers: Mapping[str, list[Any]], spans: np.ndarray) -> tuple[int, int] | None:
    """Of the context's tokens in a window [n, 2], the first and last one of the answer; None if not all is there."""
    if not answers["text"] or not len(spans):
        return None
    begin = answers["answer_start"][0]
    end = begin + len(answers["text"][0])
    if begin < spans[0, 0] or end > spans[-1, 1]:
        return None
    first = int(np.searchsorted(spans[:, 0], begin, side="right")) - 1
    last = int(np.searchsorted(spans[:, 1], end, side="left"))
    return (first, last) if first <= last else None
