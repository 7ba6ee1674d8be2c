"""`pipeline("question-answering")`, which transformers had up to 5.2, for any model with a question-answering head.

This file needs transformers alone, 4.57 or newer. A copy of it goes into a model's repository (`publish_code`), where

    pipeline("question-answering", model="org/name", trust_remote_code=True)

finds it, and with the package installed it is registered under the same name.
"""

import json
import logging
import os
import shutil
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset
from transformers.pipelines.base import ChunkPipeline

logger = logging.getLogger(__name__)

TASK = "question-answering"
DEFAULT_MODEL = ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")
MASKED = -10_000.0  # what the logits become where no answer may be


class QuestionAnsweringPipeline(ChunkPipeline):
    """Finds the answer to a question in a context.

    ```python
    answerer = pipeline("question-answering", model="org/mobilebert-uncased-squad")
    answerer(question="Where do I live?", context="My name is Wolfgang and I live in Berlin")
    # {'score': 0.92, 'start': 34, 'end': 40, 'answer': 'Berlin'}
    ```

    Arguments, results, scores and offsets are those of the library's pipeline up to 5.2.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    default_input_names = "question,context"
    tokenizer: Any
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} gives no character offsets: use a fast tokenizer.")

    def _sanitize_parameters(
        self,
        padding: Any = None,
        top_k: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        **inputs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if value is not None and value < 1:
                raise ValueError(f"{name} parameter should be >= 1 (got {value})")
        before = {
            "padding": padding,
            "doc_stride": doc_stride,
            "max_question_len": max_question_len,
            "max_seq_len": max_seq_len,
        }
        after = {
            "top_k": top_k,
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
        }
        given_before, given_after = (
            {name: value for name, value in given.items() if value is not None} for given in (before, after)
        )
        return given_before, {}, given_after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answers one or several questions.

        Args:
            args: In place of `question` and `context`: a dictionary with both, several of them, a list of them, or a
                generator or data set of them.
            question (`str` or `list[str]`): One or several questions.
            context (`str` or `list[str]`): The text of all questions, or one for each.
            top_k (`int`, *optional*, defaults to 1): How many answers to give at the most.
            doc_stride (`int`, *optional*, defaults to 128): Tokens that neighbouring windows of a long context share;
                half of what a window holds of the context, where it holds no more than this.
            max_answer_len (`int`, *optional*, defaults to 15): Tokens of an answer at the most.
            max_seq_len (`int`, *optional*, defaults to 384): Tokens of a window of question and context.
            max_question_len (`int`, *optional*): Tokens of the question; the rest is cut off. By default nothing is.
            handle_impossible_answer (`bool`, *optional*, defaults to `False`): Whether `""` may be an answer.
            align_to_words (`bool`, *optional*, defaults to `True`): Whether an answer is made of whole words.
            kwargs: The above, and those of every pipeline, such as `batch_size`.

        Returns:
            A dictionary, for several answers a list of them, and for several questions a list of either: `score` (0 to
            1, the sum over all places with this text), `start` and `end` (characters of the context), `answer`.

        Raises:
            KeyError: A dictionary has no `question` or `context`.
            ValueError: One of them is empty or None, their numbers differ, or a question is so long that no context
                fits beside it.
        """
        examples = _gather(args, kwargs)
        if isinstance(examples, list) and len(examples) == 1:
            return super().__call__(examples[0], **kwargs)
        return super().__call__(examples, **kwargs)

    # ---- from text to windows

    def preprocess(
        self,
        example: Mapping[str, str],
        padding: Any = "do_not_pad",
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        max_seq_len: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Windows of the context, each with the question: the tokenizer's tensors [1, seq] and `p_mask` [1, seq]."""
        example = _checked(example)
        if max_seq_len is None:
            longest = getattr(self.model.config, "max_position_embeddings", None) or 384
            max_seq_len = min(self.tokenizer.model_max_length, longest, 384)
        if doc_stride is None:
            doc_stride = min(max_seq_len // 2, 128)
        if doc_stride > max_seq_len:
            raise ValueError(f"`doc_stride` ({doc_stride}) is larger than `max_seq_len` ({max_seq_len})")
        question = self._shorten(example["question"], max_question_len)
        room = max_seq_len - len(self.tokenizer(question, "")["input_ids"])
        if room < 1:
            raise ValueError(
                f"The question has {max_seq_len - room} tokens with special ones, a window has {max_seq_len}: there "
                "is no room for the context. Give a shorter question, max_question_len, or a larger max_seq_len."
            )
        question_first = self.tokenizer.padding_side == "right"
        encoded = self.tokenizer(
            *((question, example["context"]) if question_first else (example["context"], question)),
            padding=padding,
            truncation="only_second" if question_first else "only_first",
            max_length=max_seq_len,
            stride=doc_stride if doc_stride < room else room // 2,
            return_token_type_ids=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for window, input_ids in enumerate(encoded["input_ids"]):
            parts = encoded.sequence_ids(window)
            # An answer lies in the context. [CLS] stands for none.
            outside = [
                part != int(question_first) and token != self.tokenizer.cls_token_id
                for part, token in zip(parts, input_ids, strict=True)
            ]
            tensors = {name: encoded[name][window] for name in self.tokenizer.model_input_names if name in encoded}
            yield {
                "example": example,
                "encoding": encoded[window],
                "is_last": window == len(encoded["input_ids"]) - 1,
                "p_mask": torch.tensor([outside]),
                **{name: torch.tensor([values]) for name, values in tensors.items()},
            }

    def _shorten(self, question: str, max_tokens: int | None) -> str:
        if max_tokens is None:
            return question
        offsets = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return question if len(offsets) <= max_tokens else question[: offsets[max_tokens - 1][1]]

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = self.model(**{name: inputs[name] for name in self.tokenizer.model_input_names if name in inputs})
        return {"start": outputs["start_logits"], "end": outputs["end_logits"], **inputs}

    # ---- from logits to answers

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int = 1,
        handle_impossible_answer: bool = False,
        max_answer_len: int = 15,
        align_to_words: bool = True,
    ) -> Any:
        """The best answers of all windows of a question."""
        # Some candidates become one when they are aligned to words.
        candidates = 2 * top_k + 10 if align_to_words else top_k
        answers: dict[str, dict[str, Any]] = {}
        null_score = 1.0
        for output in model_outputs:
            probabilities, allowed = _probabilities(output)
            # The encoding was not padded, the tensors may have been.
            shift = int((output["input_ids"] == self.tokenizer.pad_token_id).sum()) if self._pads_left else 0
            null_score = min(null_score, float(probabilities[:, shift].prod()))  # of [CLS]
            allowed[shift] = False
            context = output["example"]["context"]
            start_probabilities, end_probabilities = probabilities
            spans = best_spans(start_probabilities, end_probabilities, allowed, candidates, max_answer_len)
            for start, end, score in spans:
                begin, stop = self._place(output["encoding"], start - shift, end - shift, align_to_words)
                text = context[begin:stop]
                answer = answers.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": text})
                answer["score"] += score
        ranked = list(answers.values())
        if handle_impossible_answer or not ranked:  # a context of white space has no words
            ranked.append(
                {"score": null_score if handle_impossible_answer else 0.0, "start": 0, "end": 0, "answer": ""}
            )
        ranked = sorted(ranked, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return ranked[0] if len(ranked) == 1 else ranked

    @property
    def _pads_left(self) -> bool:
        return self.tokenizer.padding_side == "left"

    def _place(self, encoding: Any, start: int, end: int, align_to_words: bool) -> tuple[int, int]:
        """Where a span of tokens is in the context, in characters."""
        if align_to_words:
            context = int(not self._pads_left)
            words = encoding.token_to_word(start), encoding.token_to_word(end)
            spans = [None if word is None else encoding.word_to_chars(word, context) for word in words]
            if spans[0] is not None and spans[1] is not None:  # some tokenizers know no words
                return spans[0][0], spans[1][1]
        return encoding.offsets[start][0], encoding.offsets[end][1]

    # ---- saving

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and tokenizer, and the code that this pipeline needs elsewhere (see `publish_code`)."""
        super().save_pretrained(save_directory, **kwargs)
        publish_code(save_directory)


def _gather(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The examples that a call names, as a list of dictionaries; a generator or data set as it is."""
    if args:
        examples = args[0] if len(args) == 1 else list(args)
        if isinstance(examples, (types.GeneratorType, Dataset)):
            return examples
        examples = [examples] if isinstance(examples, Mapping) else list(examples)
        return [_checked(example) for example in examples]
    if "question" not in kwargs or "context" not in kwargs:
        raise ValueError(f"expected `question` and `context`, got {', '.join(kwargs) or 'nothing'}")
    question, context = kwargs.pop("question"), kwargs.pop("context")
    questions = question if isinstance(question, list) else [question]
    contexts = context if isinstance(context, list) else [context] * len(questions)
    if len(questions) != len(contexts):
        raise ValueError(f"Questions and contexts don't have the same lengths ({len(questions)} and {len(contexts)})")
    return [_checked({"question": q, "context": c}) for q, c in zip(questions, contexts, strict=True)]


def _checked(example: Any) -> dict[str, str]:
    if not isinstance(example, Mapping):
        raise ValueError(f"{example!r} argument needs to be a dictionary with keys question and context")
    for name in ("question", "context"):
        if name not in example:
            raise KeyError("You need to provide a dictionary with keys {question:..., context:...}")
        if example[name] is None:
            raise ValueError(f"`{name}` cannot be None")
        if not isinstance(example[name], str):
            raise ValueError(f"`{name}` must be a string, not {type(example[name]).__name__}")
        if not example[name]:
            raise ValueError(f"`{name}` cannot be empty")
    return dict(example)


def _probabilities(output: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Of starts and ends [2, seq], each with sum 1; and where an answer may begin or end, bool [seq]."""
    allowed = ~output["p_mask"][0].bool().numpy()
    if output.get("attention_mask") is not None:
        allowed &= output["attention_mask"][0].bool().numpy()
    logits = torch.stack([output["start"][0], output["end"][0]]).float().numpy()
    logits = np.where(allowed, logits, MASKED)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True), allowed


def best_spans(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, top_k: int, max_answer_len: int
) -> Iterator[tuple[int, int, float]]:
    """The likeliest spans of a window.

    Args:
        start: [seq], probabilities.
        end: [seq], likewise.
        allowed: [seq], where a span may begin or end.
        top_k: How many at the most.
        max_answer_len: In tokens.

    Yields:
        First token, last token, and score: the product of both probabilities.
    """
    scores = np.tril(np.triu(np.outer(start, end)), max_answer_len - 1)
    # Many scores are zero: of these only those that are allowed count.
    scores[~np.outer(allowed, allowed)] = -1.0
    flat = scores.ravel()
    if top_k == 1:
        order = np.array([flat.argmax()])
    elif top_k > len(flat):
        order = np.argsort(-flat)
    else:
        order = np.argpartition(-flat, top_k - 1)[:top_k]
        order = order[np.argsort(-flat[order])]
    for first, last in zip(*np.unravel_index(order, scores.shape), strict=True):
        if 0 <= last - first < max_answer_len and scores[first, last] >= 0:
            yield int(first), int(last), float(scores[first, last])


def publish_code(folder: str | os.PathLike) -> None:
    """Puts this file into a saved model's folder, and a reference to it into the configuration.

    With `trust_remote_code=True`, `pipeline("question-answering")` then works without this package. Without it, the
    folder is what it was: transformers up to 5.2 loads it with its own pipeline.

    Raises:
        FileNotFoundError: The folder has no `config.json`.
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    name = type(transformers.AutoConfig.for_model(config["model_type"])).__name__
    if not hasattr(transformers, name):
        logger.warning("transformers has no %s: pipelines of %s need the package that defines it.", name, folder)
        return
    config.setdefault("auto_map", {})["AutoConfig"] = f"{Path(__file__).stem}.{name}"
    code = Path(folder) / Path(__file__).name
    if not code.exists():
        shutil.copyfile(__file__, code)
    aside = path.with_name(".config.json")
    aside.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)


def __getattr__(name: str) -> type:
    """The library's configuration class of this name, as a repository's code: it names the pipeline.

    `custom_pipelines` in `config.json` would do so too, but then transformers up to 5.2 would ask for remote code. The
    Auto classes find a model by the name of its configuration's class, so it must be the same.
    """
    base = getattr(transformers, name) if name.endswith("Config") else None
    if base is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    pipelines = {
        TASK: {
            "impl": f"{Path(__file__).stem}.{QuestionAnsweringPipeline.__name__}",
            "pt": ["AutoModelForQuestionAnswering"],
            "type": "text",
        }
    }
    return type(name, (base,), {"custom_pipelines": pipelines})
