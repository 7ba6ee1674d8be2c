"""Pre-training data: raw text -> documents -> tokens -> examples.

`prepare_pretraining_data` creates the examples; `PretrainingCollator` in `masking.py` collates them into batches.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from .corpus import check_dropped, load_documents
from .pairs import EXAMPLES, PairSettings, make_examples
from .streaming import ExampleStream, map_blocks
from .tokenization import TOKENIZED, tokenize_documents
from .vocabulary import check_special_tokens, check_unknown_tokens, sequence_frame

logger = logging.getLogger(__name__)

# Part of the name of cached results. Increase it when the results of tokenization or pair building change.
CACHE_VERSION = 1
SAMPLE_DOCUMENTS = 500
# The shortest pair, [CLS] a [SEP] b [SEP], has 5 tokens.
MIN_SEQ_LENGTH = 8
# A random next segment comes from another document of the same split.
MIN_DOCUMENTS = 2


PretrainingData = Mapping[str, Dataset | ExampleStream | IterableDataset]


@dataclass
class PretrainingDataArguments:
    """Corpus, splits, lengths and masking of the pre-training data. Each argument is documented by its `help`."""

    corpus: list[str] = field(
        metadata={"help": "Files, folders, globs, or Hub datasets as owner/name or owner/name:configuration."}
    )
    examples: str = field(
        default="auto",
        metadata={
            "help": "Pairs of segments for next-sentence prediction; single sentences; or windows of as many "
            "consecutive sentences as fit. auto: pairs where next sentences are learned, sentences for a sentence "
            "encoder, else windows.",
            "choices": ["auto", "pairs", "sentences", "windows"],
        },
    )
    text_column: str = field(default="text", metadata={"help": "Column of the documents, for sources with columns."})
    encoding_errors: str = field(
        default="strict",
        metadata={
            "help": "For bytes that are not UTF-8: raise an error (strict), or read them as U+FFFD (replace).",
            "choices": ["strict", "replace"],
        },
    )
    max_characters: int | None = field(
        default=None,
        metadata={
            "help": "Read a random sample of the documents with about this many characters together. By default all "
            "are read; `minutes` reads as many as there is time for."
        },
    )
    validation_corpus: list[str] | None = field(
        default=None,
        metadata={"help": "Sources of the validation documents. By default a part of the corpus is held out."},
    )
    validation_fraction: float = field(
        default=0.05,
        metadata={"help": "Fraction of the documents to hold out for validation. They do not depend on the seed."},
    )
    max_seq_length: int = field(
        default=128, metadata={"help": "Maximum length of an example in tokens, including special tokens."}
    )
    long_seq_length: int | None = field(
        default=None,
        metadata={"help": "Maximum length in a second phase of training, such as 512. By default there is one phase."},
    )
    long_seq_ratio: float = field(
        default=0.1, metadata={"help": "Fraction of the training steps in the second phase, at the end of training."}
    )
    short_seq_probability: float = field(
        default=0.1, metadata={"help": "Probability that an example has a random shorter target length."}
    )
    dupe_factor: int = field(
        default=1, metadata={"help": "Number of times that each document is split into pairs, differently each time."}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Probability that a token is predicted."})
    whole_word_mask: bool = field(default=False, metadata={"help": "Mask whole words instead of single tokens."})
    pairing_seed: int = field(default=42, metadata={"help": "Seed of the order of the documents and of the pairs."})
    preprocessing_num_workers: int | None = field(
        default=None,
        metadata={"help": "Processes for tokenization and pair building. By default one, with several threads."},
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Create examples during training, for a corpus larger than the disk. Requires max_steps."},
    )
    streaming_buffer_size: int = field(
        default=500,
        metadata={
            "help": "Documents in memory when streaming. Examples are shuffled, and random segments drawn, among them."
        },
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder of the prepared data. Defaults to the cache of datasets."}
    )

    def __post_init__(self) -> None:
        rules = {
            f"max_seq_length: at least {MIN_SEQ_LENGTH}": self.max_seq_length >= MIN_SEQ_LENGTH,
            "long_seq_length: longer than max_seq_length": (self.long_seq_length or 2**31) > self.max_seq_length,
            "long_seq_ratio: between 0 and 1": 0 < self.long_seq_ratio < 1,
            "validation_fraction: between 0 and 1": 0 < self.validation_fraction < 1,
            "short_seq_probability: from 0 to 1": 0 <= self.short_seq_probability <= 1,
            "mlm_probability: between 0 and 1": 0 < self.mlm_probability < 1,
            "dupe_factor: at least 1": self.dupe_factor >= 1,
            f"streaming_buffer_size: at least {MIN_DOCUMENTS}": self.streaming_buffer_size >= MIN_DOCUMENTS,
            "max_characters: None or at least 1": self.max_characters is None or self.max_characters >= 1,
            "examples: 'auto', 'pairs', 'sentences' or 'windows'": self.examples
            in ("auto", "pairs", "sentences", "windows"),
            "encoding_errors: 'strict' or 'replace'": self.encoding_errors in ("strict", "replace"),
        }
        for rule, valid in rules.items():
            if not valid:
                name, _, expected = rule.partition(": ")
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {expected}")


def prepare_pretraining_data(
    arguments: PretrainingDataArguments, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str] = ()
) -> PretrainingData:
    """Creates examples from a corpus, by default for masked-LM and next-sentence prediction.

    Validation documents, and copies of them, are not in the training data. Tokens and examples are cached.

    Args:
        arguments (`PretrainingDataArguments`): corpus and settings.
        tokenizer (`PreTrainedTokenizerBase`): a fast BERT tokenizer.
        prompts (`Sequence[str]`, *optional*): texts that are put before sentences, before a share of them each.

    Returns:
        `Mapping`: `train` and `validation`, each a `Dataset`. When streaming, `train` is an `ExampleStream` and
        `validation` an `IterableDataset`. The columns are

        - **input_ids** (int32): `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` without pairs; at most `max_seq_length`
          ids, not padded and not masked;
        - **token_type_ids** (int8): 0 up to the first `[SEP]`, then 1;
        - **next_sentence_label** (int8): 0 if B follows A, 1 if it comes from another document, -100 without B.

    Raises:
        FileNotFoundError: if a source does not exist.
        ValueError: if a source cannot be read as documents, if there are too few documents, if the tokenizer lacks
            special tokens, or if more than 20 % of the tokens are unknown.
    """
    check_special_tokens(tokenizer, masks=arguments.mlm_probability > 0)
    first, last = sequence_frame(tokenizer)
    pairs = PairSettings(
        max_seq_length=arguments.max_seq_length,
        short_seq_probability=arguments.short_seq_probability,
        dupe_factor=arguments.dupe_factor,
        seed=arguments.pairing_seed,
        cls_token_id=first,
        sep_token_id=last,
        examples="pairs" if arguments.examples == "auto" else arguments.examples,
    )
    documents = _load(arguments, arguments.corpus)
    held_out = _load(arguments, arguments.validation_corpus) if arguments.validation_corpus else None
    for part in (documents, held_out):
        if part is not None:
            check_unknown_tokens(_sample(part), tokenizer)
    if arguments.streaming:
        return _stream(documents, held_out, arguments, pairs, tokenizer)

    documents = _limit(documents, arguments)
    tokens = _tokenize(documents, arguments, tokenizer, prompts)
    if held_out is None:
        train, validation = _split(tokens, arguments.validation_fraction)
    else:
        train, validation = tokens, _without_copies(_tokenize(held_out, arguments, tokenizer, prompts), tokens)
    examples = DatasetDict(
        train=_pair(train, "train", arguments, pairs), validation=_pair(validation, "validation", arguments, pairs)
    )
    logger.info("%d training and %d validation examples", len(examples["train"]), len(examples["validation"]))
    return examples


def _load(arguments: PretrainingDataArguments, corpus: list[str]) -> Dataset | IterableDataset:
    return load_documents(
        corpus,
        text_column=arguments.text_column,
        streaming=arguments.streaming,
        encoding_errors=arguments.encoding_errors,
        cache_dir=arguments.cache_dir,
    )


def _sample(documents: Dataset | IterableDataset) -> list[str]:
    """Evenly spaced documents of the corpus, or the first ones when streaming."""
    if isinstance(documents, IterableDataset):
        return [row["text"] for row in documents.take(SAMPLE_DOCUMENTS)]
    step = -(-len(documents) // SAMPLE_DOCUMENTS)
    return documents.select(range(0, len(documents), step))["text"][:]


def _limit(documents: Dataset, arguments: PretrainingDataArguments) -> Dataset:
    """A random sample of the documents with about `max_characters`, in their order."""
    if arguments.max_characters is None:
        return documents
    mean = np.mean([len(text) for text in _sample(documents)])
    count = max(2 * MIN_DOCUMENTS, round(arguments.max_characters / mean))
    if count >= len(documents):
        return documents
    chosen = np.random.default_rng(arguments.pairing_seed).permutation(len(documents))[:count]
    logger.info("reading %d of %d documents", count, len(documents))
    return documents.select(np.sort(chosen))


def _tokenize(
    documents: Dataset,
    arguments: PretrainingDataArguments,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] = (),
) -> Dataset:
    # A cache without prompts stays valid.
    state = [CACHE_VERSION, "tokens", documents._fingerprint, _tokenizer_state(tokenizer), *prompts]
    tokens = documents.map(
        tokenize_documents,
        batched=True,
        batch_size=100,
        writer_batch_size=100,
        num_proc=arguments.preprocessing_num_workers,
        remove_columns=documents.column_names,
        features=TOKENIZED,
        fn_kwargs={"tokenizer": tokenizer, "prompts": prompts},
        new_fingerprint=Hasher.hash(state),
        desc="Tokenizing",
    )
    check_dropped(len(tokens), len(documents), "the corpus", arguments.text_column)
    return tokens


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The tokenizer's state, for the cache, without truncation and padding, which change at every call."""
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer: load one with a tokenizer.json")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in state.items() if name not in ("truncation", "padding")}


def _split(tokens: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """Holds out the documents with the smallest digests. They do not depend on the seed and include all copies."""
    digests = np.asarray(tokens.with_format("numpy")["digest"][:], dtype=np.int64)
    count = max(MIN_DOCUMENTS, round(fraction * len(digests)))
    if len(digests) < count + MIN_DOCUMENTS:
        raise ValueError(
            f"the corpus has {len(digests)} documents, of which validation takes {count}: each split needs at least "
            f"{MIN_DOCUMENTS}. Check that documents are separated by blank lines, add documents, or change "
            "validation_fraction"
        )
    held_out = digests <= np.sort(digests)[count - 1]
    return tokens.select(np.flatnonzero(~held_out)), tokens.select(np.flatnonzero(held_out))


def _without_copies(validation: Dataset, train: Dataset) -> Dataset:
    """Leaves out the validation documents that are also training documents."""
    known, digests = (
        np.asarray(part.with_format("numpy")["digest"][:], dtype=np.int64) for part in (train, validation)
    )
    new = ~np.isin(digests, known)
    copies = int((~new).sum())
    if not copies:
        return validation
    logger.warning("%d of %d validation documents are also training documents: left out", copies, len(new))
    if new.sum() < MIN_DOCUMENTS:
        raise ValueError(
            f"{copies} of the {len(new)} documents of validation_corpus are also in corpus: validation needs at least "
            f"{MIN_DOCUMENTS} others. Take other documents, or set validation_fraction instead of validation_corpus"
        )
    return validation.select(np.flatnonzero(new))


def _pair(tokens: Dataset, split: str, arguments: PretrainingDataArguments, settings: PairSettings) -> Dataset:
    if len(tokens) < MIN_DOCUMENTS:
        raise ValueError(
            f"the {split} split has {len(tokens)} document: expected at least {MIN_DOCUMENTS}. Check that documents "
            "are separated by blank lines"
        )
    order = np.random.default_rng(settings.seed).permutation(len(tokens))
    shuffled = tokens.select(order)
    return shuffled.map(
        make_examples,
        with_indices=True,
        batched=True,
        batch_size=50,
        num_proc=arguments.preprocessing_num_workers,
        remove_columns=tokens.column_names,
        features=EXAMPLES,
        fn_kwargs={"settings": settings, "pool": shuffled.with_format("numpy")},
        new_fingerprint=Hasher.hash([CACHE_VERSION, "pairs", shuffled._fingerprint, vars(settings)]),
        desc=f"Building {split} pairs",
    )


def _stream(
    documents: IterableDataset,
    held_out: IterableDataset | None,
    arguments: PretrainingDataArguments,
    settings: PairSettings,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, ExampleStream | IterableDataset]:
    """Creates examples while iterating. Validation reads the corpus a second time."""
    # A digest is a uniform random number below 2**63.
    threshold = 0 if held_out is not None else int(arguments.validation_fraction * 2**63)
    size = arguments.streaming_buffer_size
    train = ExampleStream(documents, settings, tokenizer, range(threshold, 2**63), size)
    if held_out is None:
        return {"train": train, "validation": map_blocks(documents, settings, tokenizer, range(threshold), size)}
    return {"train": train, "validation": map_blocks(held_out, settings, tokenizer, range(2**63), size)}
