"""`pipeline("question-answering")` for any model with a question-answering head. transformers removed it after 5.2.

It is registered when this package is imported. This file requires only transformers (4.57 or newer). `publish_code`
copies it to a model's repository, so that it also works without this package:

    pipeline("question-answering", model="org/name", trust_remote_code=True)
"""

import json
import logging
import os
import shutil
import types
import unicodedata
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
PREPROCESS = ("padding", "doc_stride", "max_question_len", "max_seq_len")
POSTPROCESS = ("top_k", "max_answer_len", "handle_impossible_answer", "align_to_words", "merge_duplicates")
POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
MASKED = -10_000.0  # the logits of tokens outside the context


class QuestionAnsweringPipeline(ChunkPipeline):
    """Finds the answer to a question in a context.

    ```python
    answerer = pipeline("question-answering", model="org/mobilebert-uncased-squad")
    answerer(question="Where do I live?", context="My name is Wolfgang and I live in Berlin")
    # {'score': 0.92, 'start': 34, 'end': 40, 'answer': 'Berlin'}
    ```

    Arguments and results are those of the pipeline in transformers up to 5.2. Its scores and offsets, too, with
    `merge_duplicates=True`; by default, the same text at several places is several answers.
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
            raise ValueError(f"{type(self.tokenizer).__name__} has no character offsets: use a fast tokenizer.")

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given = {name: value for name, value in parameters.items() if value is not None}
        for name in ("top_k", "max_answer_len"):
            if given.get(name, 1) < 1:
                raise ValueError(f"{name} parameter should be >= 1 (got {given[name]})")
        preprocess, postprocess = (
            {name: given[name] for name in names if name in given} for names in (PREPROCESS, POSTPROCESS)
        )
        return preprocess, {}, postprocess

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answers one or several questions.

        Args:
            args: One or several dictionaries with `question` and `context`, or a list, generator or dataset of them.
            question (`str` or `list[str]`): One or several questions.
            context (`str` or `list[str]`): One context for all questions, or one for each.
            top_k (`int`, *optional*, defaults to 1): Maximum number of answers.
            doc_stride (`int`, *optional*, defaults to 128): Number of tokens that consecutive windows share. If a
                window has fewer context tokens than this, half of them are shared.
            max_answer_len (`int`, *optional*, defaults to 15): Maximum number of tokens of an answer.
            max_seq_len (`int`, *optional*, defaults to 384): Maximum number of tokens of a window, at most the number
                of the model's position embeddings.
            max_question_len (`int`, *optional*): Number of tokens to truncate questions to. Not truncated by default.
            handle_impossible_answer (`bool`, *optional*, defaults to `False`): Whether `""` can be an answer.
            align_to_words (`bool`, *optional*, defaults to `True`): Whether answers consist of whole words.
            merge_duplicates (`bool`, *optional*, defaults to `False`): Whether answers with the same text, ignoring
                case, are one answer at the first place found, and scores are added over all windows, as in
                transformers up to 5.2. Scores can then be larger than 1.
            kwargs: The arguments above, and those of every pipeline, such as `batch_size`.

        Returns:
            A dictionary with `score` (0 to 1: the probability in the window that is the most certain of it), `start`
            and `end` (in characters of the context, without invisible characters at the edges) and `answer`; a list of
            them for several answers; a list of these for several questions.

        Raises:
            KeyError: A dictionary has no `question` or `context`.
            ValueError: A question or context is empty, None or has a lone surrogate, their numbers differ, a question
                is so long that a window has no room for the context, or `max_seq_len` is too large for the model.
        """
        examples = _parse_inputs(args, kwargs)
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
        """Yields windows of question and context: the tokenizer's tensors [1, seq], and `p_mask` [1, seq]."""
        example = _validate(example)
        longest = count_positions(self.model)
        if max_seq_len is None:
            max_seq_len = min(self.tokenizer.model_max_length, longest or 384, 384)
        elif longest and max_seq_len > longest:
            raise ValueError(
                f"`max_seq_len` is {max_seq_len}, but {type(self.model).__name__} has {longest} positions: set it to "
                f"{longest} or less. Longer contexts are read in windows."
            )
        if doc_stride is None:
            doc_stride = min(max_seq_len // 2, 128)
        if doc_stride > max_seq_len:
            raise ValueError(f"`doc_stride` ({doc_stride}) is larger than `max_seq_len` ({max_seq_len})")
        question = self._truncate(example["question"], max_question_len)
        room = max_seq_len - len(self.tokenizer(question, "", split_special_tokens=True)["input_ids"])
        if room < 1:
            raise ValueError(
                f"The question has {max_seq_len - room} tokens, including special tokens, and max_seq_len is "
                f"{max_seq_len}: there is no room for the context. Set max_question_len or a larger max_seq_len."
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
            split_special_tokens=True,  # a [SEP] in the text is text
        )
        for window, input_ids in enumerate(encoded["input_ids"]):
            parts = encoded.sequence_ids(window)
            # An answer is in the context. [CLS] means no answer.
            outside = [
                part != int(question_first) and not (part is None and token == self.tokenizer.cls_token_id)
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

    def _truncate(self, question: str, max_tokens: int | None) -> str:
        if max_tokens is None:
            return question
        encoded = self.tokenizer(
            question, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
        )
        offsets = encoded["offset_mapping"]
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
        merge_duplicates: bool = False,
    ) -> Any:
        """Selects the best answers from all windows of a question."""
        # Several candidates can be the same words.
        candidates = 2 * top_k + 10 if align_to_words else top_k
        answers: dict[Any, dict[str, Any]] = {}  # by place, or by text
        null_score = 1.0
        for output in model_outputs:
            (starts, ends), allowed = _probabilities(output)
            # A batch can add padding that the encoding does not have.
            shift = allowed.size - len(output["encoding"].ids) if self._pads_left else 0
            null = shift + self._null_position(output["encoding"])
            null_score = min(null_score, float(starts[null] * ends[null]))
            allowed[null] = False
            context = output["example"]["context"]
            spans = best_spans(starts, ends, allowed, candidates, max_answer_len)
            window: dict[tuple[int, int], float] = {}
            for start, end, score in spans:
                place = visible(
                    context, *self._to_characters(output["encoding"], start - shift, end - shift, align_to_words)
                )
                window[place] = window.get(place, 0.0) + score
            for (begin, stop), score in window.items():
                text = context[begin:stop]
                key = text.lower() if merge_duplicates else (begin, stop)
                answer = answers.setdefault(key, {"score": 0.0, "start": begin, "end": stop, "answer": text})
                answer["score"] = answer["score"] + score if merge_duplicates else max(answer["score"], score)
        ranked = [answer for answer in answers.values() if answer["answer"]]
        if handle_impossible_answer or not ranked:  # there are no answers in a context of white space
            ranked.append(
                {"score": null_score if handle_impossible_answer else 0.0, "start": 0, "end": 0, "answer": ""}
            )
        ranked = sorted(ranked, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return ranked[0] if len(ranked) == 1 else ranked

    def _null_position(self, encoding: Any) -> int:
        """Index of the special token [CLS], which stands for no answer."""
        pairs = zip(encoding.ids, encoding.sequence_ids, strict=True)
        cls = self.tokenizer.cls_token_id
        return next((index for index, (token, part) in enumerate(pairs) if part is None and token == cls), 0)

    @property
    def _pads_left(self) -> bool:
        return self.tokenizer.padding_side == "left"

    def _to_characters(self, encoding: Any, start: int, end: int, align_to_words: bool) -> tuple[int, int]:
        """Start and end in the context, in characters, of the span of tokens from `start` to `end` (inclusive)."""
        if align_to_words:
            context = int(not self._pads_left)
            words = encoding.token_to_word(start), encoding.token_to_word(end)
            spans = [None if word is None else encoding.word_to_chars(word, context) for word in words]
            if spans[0] is not None and spans[1] is not None:  # some tokenizers have no words
                return spans[0][0], spans[1][1]
        return encoding.offsets[start][0], encoding.offsets[end][1]

    # ---- saving

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model, tokenizer and the code of this pipeline (see `publish_code`)."""
        super().save_pretrained(save_directory, **kwargs)
        publish_code(save_directory)


def _parse_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Converts the inputs of a call to a list of dictionaries. Generators and datasets are returned unchanged."""
    if args:
        examples = args[0] if len(args) == 1 else list(args)
        if isinstance(examples, (types.GeneratorType, Dataset)):
            return examples
        examples = [examples] if isinstance(examples, Mapping) else list(examples)
        return [_validate(example) for example in examples]
    if "question" not in kwargs or "context" not in kwargs:
        raise ValueError(f"expected `question` and `context`, got {', '.join(kwargs) or 'nothing'}")
    question, context = kwargs.pop("question"), kwargs.pop("context")
    questions = question if isinstance(question, list) else [question]
    contexts = context if isinstance(context, list) else [context] * len(questions)
    if len(questions) != len(contexts):
        raise ValueError(f"Questions and contexts don't have the same lengths ({len(questions)} and {len(contexts)})")
    return [_validate({"question": q, "context": c}) for q, c in zip(questions, contexts, strict=True)]


def _validate(example: Any) -> dict[str, str]:
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
        try:
            example[name].encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"`{name}` has a lone surrogate at character {error.start}: remove it") from error
    return dict(example)


def count_positions(model: Any) -> int | None:
    """The longest sequence that a model with learned or fixed absolute positions takes; None for others."""
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES
    ]
    if not tables:
        return None
    # RoBERTa and its relatives count positions from the padding token's id + 1.
    unused = (tables[0].padding_idx + 1) if tables[0].padding_idx is not None else 0
    room = tables[0].num_embeddings - unused
    return min(room, getattr(model.config, "max_position_embeddings", None) or room)


def visible(text: str, begin: int, end: int) -> tuple[int, int]:
    """Start and end of `text[begin:end]` without white space, control and zero-width characters at its edges."""

    def hidden(char: str) -> bool:  # format characters from U+E0000 on spell the flags of regions
        return char.isspace() or (unicodedata.category(char) in ("Cc", "Cf") and char < "\U000e0000")

    shown = [index for index in range(begin, end) if not hidden(text[index])]
    return (shown[0], shown[-1] + 1) if shown else (end, end)


def _probabilities(output: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Start and end probabilities [2, seq], and whether an answer can begin or end at a token, bool [seq]."""
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
    """Yields the most probable spans of a window.

    Args:
        start: [seq], float, start probabilities.
        end: [seq], float, end probabilities.
        allowed: [seq], bool, whether a span can begin or end at a token.
        top_k: Maximum number of spans.
        max_answer_len: Maximum number of tokens of a span.

    Yields:
        Index of the first token, index of the last token, and the product of their probabilities.
    """
    scores = np.tril(np.triu(np.outer(start, end)), max_answer_len - 1)
    # Allowed spans can have the score 0, too.
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
    """Copies this file to a saved model's folder, and adds a reference to it to the configuration.

    Then `pipeline("question-answering", trust_remote_code=True)` works without this package. Without
    `trust_remote_code`, transformers up to 5.2 uses its own pipeline.

    Raises:
        FileNotFoundError: The folder has no `config.json`.
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    name = type(transformers.AutoConfig.for_model(config["model_type"])).__name__
    if not hasattr(transformers, name):
        logger.warning("transformers has no %s: pipelines with %s require the package that defines it.", name, folder)
        return
    config.setdefault("auto_map", {})["AutoConfig"] = f"{Path(__file__).stem}.{name}"
    code = Path(folder) / Path(__file__).name
    if not code.exists():
        shutil.copyfile(__file__, code)
    staging = path.with_name(".config.json")
    staging.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    staging.replace(path)


def __getattr__(name: str) -> type:
    """A subclass of transformers' configuration class `name` with this pipeline as `custom_pipelines`.

    With `custom_pipelines` in `config.json`, transformers up to 5.2 would require `trust_remote_code`. The subclass
    has the same name, because the Auto classes find a model by the name of its configuration class.
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
