"""How each kind of task is tokenized, batched, decided and scored. `find_method` chooses by the kind.

Fine-tuning, distillation with a head and the scoring of exported graphs use the same methods.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.special import expit, softmax
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
)

from ..data.labelled import Examples
from ..tasks.kinds import Kind
from ..tasks.label_scores import (
    Scores,
    best_thresholds,
    class_scores,
    number_scores,
    ranking_scores,
    set_scores,
    tag_scores,
)

IGNORED = -100
# Of a window, the share that the next one repeats.
OVERLAP = 4
WORST = 20


@dataclass
class Encoded:
    """Tokenized examples.

    Args:
        examples: The examples, with or without labels.
        rows: A tokenized sequence or window per row, with `labels` if there are any.
        windows: For tags: of each window the example, and the words and positions of their first pieces.
    """

    examples: Examples
    rows: Dataset
    windows: "list[Window] | None" = None


@dataclass(frozen=True)
class Window:
    """A window of a long text.

    Args:
        example: Index of the example.
        words: Indices of the words that begin in the window.
        positions: The position of the first piece of each.
    """

    example: int
    words: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Mistake:
    """An example with its answer, to look at.

    Args:
        where: File and line.
        text: The text.
        expected: The label of the data.
        predicted: The answer of the model.
        confidence: The probability of the answer, or the error of a score.
        loss: How wrong the answer is; mistakes are sorted by it.
    """

    where: str
    text: str
    expected: str
    predicted: str
    confidence: float
    loss: float


class Method(ABC):
    """A kind of task with its labels and its tokenizer.

    Args:
        kind: The kind of task.
        names: The names of the classes; empty for scores.
        tokenizer: The tokenizer of the model; fast for tags.
        max_length: Maximum number of tokens in a sequence or window.
    """

    def __init__(
        self, kind: Kind, names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
    ) -> None:
        self.kind, self.names, self.tokenizer = kind, tuple(names), tokenizer
        self.max_length = min(max_length or kind.max_length, tokenizer.model_max_length)

    @property
    @abstractmethod
    def collator(self) -> Any:
        """Makes batches of tokenized rows."""

    @abstractmethod
    def encode(self, examples: Examples) -> Encoded:
        """Tokenizes examples."""

    @abstractmethod
    def score(self, data: Encoded, logits: Sequence[np.ndarray]) -> Scores:
        """The scores of the logits of every row, without or with padding."""

    @abstractmethod
    def answers(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[Any]:
        """The predicted labels, in the form of the column `label`."""

    @abstractmethod
    def mistakes(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[Mistake]:
        """The worst answers first, at most `WORST`."""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the configuration of a model for the task."""
        names = self.names or ("score",)
        fields: dict[str, Any] = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }
        return fields | ({"problem_type": self.kind.problem_type} if self.kind.problem_type else {})


class TextMethod(Method):
    """One answer for a text or for a pair of texts: `classify`, `multilabel`, `regress`, `pairs` and `rerank`.

    Attributes:
        thresholds: For several labels: the logit of each above which it is predicted, [labels]; tuned by `tune`.
    """

    thresholds: np.ndarray | float = 0.0

    @property
    def collator(self) -> Any:
        """Pads a batch."""
        return DataCollatorWithPadding(self.tokenizer)

    def encode(self, examples: Examples) -> Encoded:
        """Tokenizes texts or pairs; of a pair, the longer text is truncated."""
        labels: dict[str, list[Any]] = {"labels": examples.columns["label"]} if "label" in examples.columns else {}
        if labels and self.kind.name == "rerank":  # the loss of several labels, of which there is one
            labels = {"labels": [[value] for value in labels["labels"]]}

        def tokenize(batch: dict[str, list[Any]]) -> Any:
            return self.tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=self.max_length)

        texts = {name: examples.columns[name] for name in ("text", "text_pair") if name in examples.columns}
        rows = Dataset.from_dict(texts | labels).map(
            tokenize, batched=True, remove_columns=list(texts), desc="tokenizing"
        )
        return Encoded(examples, rows)

    def tune(self, data: Encoded, logits: np.ndarray) -> None:
        """Sets the thresholds of several labels to those with the best F1."""
        if self.kind.label == "classes":
            self.thresholds = best_thresholds(logits, np.array(data.examples.columns["label"]) > 0)

    def score(self, data: Encoded, logits: Sequence[np.ndarray]) -> Scores:
        """From logits [n, outputs]."""
        values, expected = np.asarray(logits), np.array(data.examples.columns["label"])
        if self.kind.label == "class":
            return class_scores(values.argmax(-1), expected, self.names)
        if self.kind.label == "classes":
            return set_scores(values > self.thresholds, expected > 0, self.names)
        if self.kind.name == "rerank":
            return ranking_scores(values[:, 0], expected, data.examples.columns["text"])
        return number_scores(values[:, 0], expected)

    def answers(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[Any]:
        """Indices, lists of 0 and 1, or numbers."""
        values = np.asarray(logits)
        if self.kind.label == "class":
            return values.argmax(-1).tolist()
        if self.kind.label == "classes":
            return (values > self.thresholds).astype(float).tolist()
        return (expit(values[:, 0]) if self.kind.name == "rerank" else values[:, 0]).tolist()

    def mistakes(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[Mistake]:
        """By the loss of the label, or by the error of the score."""
        values, labels = np.asarray(logits, dtype=np.float64), data.examples.columns["label"]
        found = []
        for index, (row, label) in enumerate(zip(values, labels, strict=True)):
            found.append(Mistake(data.examples.where(index), _text(data.examples, index), *self._judge(row, label)))
        wrong = [mistake for mistake in found if mistake.expected != mistake.predicted]
        return sorted(wrong, key=lambda mistake: -mistake.loss)[:WORST]

    def _judge(self, logits: np.ndarray, label: Any) -> tuple[str, str, float, float]:
        """Expected and predicted answer, confidence and loss."""
        if self.kind.label == "class":
            probabilities, best = softmax(logits), int(logits.argmax())
            confidence, loss = float(probabilities[best]), -float(np.log(probabilities[label] + 1e-30))
            return self.names[label], self.names[best], confidence, loss
        if self.kind.label == "classes":
            marks, answers = np.array(label) > 0, logits > self.thresholds
            shifted = logits - self.thresholds
            loss = float(np.logaddexp(0, np.where(marks, -shifted, shifted)).sum())
            return self._join(marks), self._join(answers), float(expit(np.abs(shifted)).min()), loss
        value = float(expit(logits[0])) if self.kind.name == "rerank" else float(logits[0])
        error = abs(value - label)
        return f"{label:.3f}", f"{value:.3f}", error, error

    def _join(self, marks: np.ndarray) -> str:
        return ", ".join(name for name, mark in zip(self.names, marks, strict=True) if mark) or "none"


def _text(examples: Examples, index: int) -> str:
    return " | ".join(examples.columns[role][index] for role in ("text", "text_pair") if role in examples.columns)


class TagMethod(Method):
    """A tag for each word. The first piece of a word carries its label; long texts are read in windows.

    Attributes:
        label_all_pieces: Whether all pieces of a word carry its label in training.
    """

    label_all_pieces = False

    @property
    def collator(self) -> Any:
        """Pads a batch, and its labels by -100."""
        return DataCollatorForTokenClassification(self.tokenizer)

    def encode(self, examples: Examples) -> Encoded:
        """Tokenizes words into windows, of which a quarter is repeated in the next one."""
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} does not say which word a token is of: use a fast one.")
        encoded = self.tokenizer(
            examples.columns["tokens"],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            stride=(self.max_length - self.tokenizer.num_special_tokens_to_add()) // OVERLAP,
            return_overflowing_tokens=True,
        )
        sources = encoded.pop("overflow_to_sample_mapping")
        columns = {name: encoded[name] for name in self.tokenizer.model_input_names if name in encoded}
        windows, labels = [], []
        for row, source in enumerate(sources):
            pieces = encoded.word_ids(row)
            starts = _first_pieces(pieces, begins_text=row == 0 or sources[row - 1] != source)
            windows.append(Window(source, np.array([pieces[at] for at in starts], int), np.array(starts, int)))
            if "label" in examples.columns:
                tags = examples.columns["label"][source]
                kept = range(len(pieces)) if self.label_all_pieces else set(starts)
                labels.append(
                    [
                        tags[word] if word is not None and position in kept else IGNORED
                        for position, word in enumerate(pieces)
                    ]
                )
        rows = Dataset.from_dict({**columns, **({"labels": labels} if labels else {})})
        return Encoded(examples, rows, windows)

    def merge(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The logits of every word [words, tags] of each example, from those of the windows [seq, tags].

        A word that is in two windows is decided by the one in which it is further from the edge. A word without pieces
        has zeros.
        """
        assert data.windows is not None
        merged = [np.zeros((len(tokens), len(self.names))) for tokens in data.examples.columns["tokens"]]
        margins = [np.full(len(tokens), -1) for tokens in data.examples.columns["tokens"]]
        for window, values in zip(data.windows, logits, strict=True):
            last = window.positions[-1] if len(window.positions) else 0
            for word, position in zip(window.words, window.positions, strict=True):
                margin = min(position, last - position)
                if margin > margins[window.example][word]:
                    margins[window.example][word] = margin
                    merged[window.example][word] = values[position]
        return merged

    def tags(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[list[str]]:
        """The predicted tag of every word."""
        outside = self.names.index("O") if "O" in self.names else 0
        return [
            [self.names[int(row.argmax()) if row.any() else outside] for row in words]
            for words in self.merge(data, logits)
        ]

    def answers(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[Any]:
        """The indices of the tags."""
        return [[self.names.index(tag) for tag in tags] for tags in self.tags(data, logits)]

    def score(self, data: Encoded, logits: Sequence[np.ndarray]) -> Scores:
        """The scores of whole entities; for tags without entities, of the tags."""
        expected = [[self.names[tag] for tag in tags] for tags in data.examples.columns["label"]]
        return tag_scores(self.tags(data, logits), expected, self.names)

    def mistakes(self, data: Encoded, logits: Sequence[np.ndarray]) -> list[Mistake]:
        """The words with the highest loss."""
        found = []
        for index, words in enumerate(self.merge(data, logits)):
            tokens, tags = data.examples.columns["tokens"][index], data.examples.columns["label"][index]
            for position, (row, tag) in enumerate(zip(words, tags, strict=True)):
                best = int(row.argmax())
                if best != tag and row.any():
                    probabilities = softmax(row)
                    around = [*tokens[max(0, position - 5) : position], f"[{tokens[position]}]"]
                    text = " ".join([*around, *tokens[position + 1 : position + 6]])
                    loss = -float(np.log(probabilities[tag] + 1e-30))
                    confidence = float(probabilities[best])
                    names = self.names[tag], self.names[best]
                    found.append(Mistake(data.examples.where(index), text, *names, confidence, loss))
        return sorted(found, key=lambda mistake: -mistake.loss)[:WORST]


def _first_pieces(pieces: Sequence[int | None], *, begins_text: bool) -> list[int]:
    """The positions where words begin; the first word of a later window may begin before it and is left out."""
    starts = [
        position
        for position, word in enumerate(pieces)
        if word is not None and (position == 0 or pieces[position - 1] != word)
    ]
    return starts if begins_text else starts[1:]


def find_method(
    kind: Kind, names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> TextMethod | TagMethod:
    """The method of a kind that is trained on labelled files."""
    return (TagMethod if kind.label == "tags" else TextMethod)(kind, names, tokenizer, max_length)
