"""The pre-training data, whole way: raw text -> documents -> tokens -> sentence pairs.

`prepare_pretraining_data` gives the examples; `PretrainingCollator` in `masking.py` makes them into batches.
"""

import json
import logging
from collections.abc import Mapping
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
from .vocabulary import check_special_tokens, check_unknown_rate

logger = logging.getLogger(__name__)

# Part of every cached result's name: raise it when tokenization or pair building changes what it gives.
CACHE_VERSION = 1
SAMPLE_DOCUMENTS = 500
# The shortest example is [CLS] a [SEP] b [SEP]; half of that many again leaves something to learn from.
MIN_SEQ_LENGTH = 8
# Random next segments come from another document of the same split.
MIN_DOCUMENTS = 2


PretrainingData = Mapping[str, Dataset | ExampleStream | IterableDataset]


@dataclass
class PretrainingDataArguments:
    r"""What the pre-training data is made of, and how.

    Args:
        corpus (`list[str]`):
            Files, folders, globs, or Hub data sets as `owner/name` or `owner/name:configuration`.
        examples (`str`, *optional*, defaults to `"pairs"`):
            `"pairs"` of segments for next-sentence prediction; single `"sentences"`; or `"windows"` of as many
            following sentences as fit.
        text_column (`str`, *optional*, defaults to `"text"`):
            The column with the document in sources that have columns.
        encoding_errors (`str`, *optional*, defaults to `"strict"`):
            `"strict"` refuses bytes that are not UTF-8, `"replace"` reads them as U+FFFD.
        validation_corpus (`list[str]`, *optional*):
            Sources of held-out documents. Without it `validation_fraction` of the corpus is held out.
        validation_fraction (`float`, *optional*, defaults to `0.05`):
            Share of the documents to hold out, about as many when streaming. Which ones depends on their text only,
            not on the seed.
        max_seq_length (`int`, *optional*, defaults to `128`):
            Longest example in tokens, with the three special ones.
        long_seq_length (`int`, *optional*):
            Longest example of a second phase of training, as BERT's 512 after 128. Without it there is one phase.
        long_seq_ratio (`float`, *optional*, defaults to `0.1`):
            The share of the steps, the last ones, that is the second phase.
        short_seq_probability (`float`, *optional*, defaults to `0.1`):
            How often an example aims at a random shorter length.
        dupe_factor (`int`, *optional*, defaults to `1`):
            How many times each document is cut into pairs, each time differently. Masks are new in every epoch anyway.
        mlm_probability (`float`, *optional*, defaults to `0.15`):
            Chance of a token to be predicted. For the collator.
        whole_word_mask (`bool`, *optional*, defaults to `False`):
            Mask whole words instead of single pieces. For the collator.
        pairing_seed (`int`, *optional*, defaults to `42`):
            Seed of the documents' order and of the pairs.
        preprocessing_num_workers (`int`, *optional*):
            Processes for tokenization and pair building. Without it there is one, in which the tokenizer's own threads
            use all cores. The result is the same.
        streaming (`bool`, *optional*, defaults to `False`):
            Make examples while training, for a corpus that does not fit the disk. Needs `max_steps`.
        streaming_buffer_size (`int`, *optional*, defaults to `500`):
            Documents in memory at a time when streaming: random segments are drawn, and examples shuffled, among them.
        cache_dir (`str`, *optional*):
            Where prepared data is kept. Defaults to the cache of `datasets`.
    """

    corpus: list[str] = field(
        metadata={"help": "Files, folders, globs, or Hub data sets as owner/name[:configuration]."}
    )
    examples: str = field(
        default="pairs",
        metadata={"help": "Pairs of segments, sentences, or windows.", "choices": ["pairs", "sentences", "windows"]},
    )
    text_column: str = field(
        default="text", metadata={"help": "The column with the document in sources that have columns."}
    )
    encoding_errors: str = field(
        default="strict",
        metadata={
            "help": "What to do with bytes that are not UTF-8: refuse them, or read them as U+FFFD.",
            "choices": ["strict", "replace"],
        },
    )
    validation_corpus: list[str] | None = field(
        default=None, metadata={"help": "Sources of held-out documents, instead of a part of the corpus."}
    )
    validation_fraction: float = field(default=0.05, metadata={"help": "Share of the documents to hold out."})
    max_seq_length: int = field(default=128, metadata={"help": "Longest example in tokens, special ones included."})
    long_seq_length: int | None = field(
        default=None, metadata={"help": "Longest example of a second phase of training; none: one phase."}
    )
    long_seq_ratio: float = field(
        default=0.1, metadata={"help": "Share of the steps, the last ones, that is the second phase."}
    )
    short_seq_probability: float = field(
        default=0.1, metadata={"help": "How often an example aims at a random shorter length."}
    )
    dupe_factor: int = field(default=1, metadata={"help": "How many times each document is cut into pairs."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Chance of a token to be predicted."})
    whole_word_mask: bool = field(default=False, metadata={"help": "Mask whole words instead of single pieces."})
    pairing_seed: int = field(default=42, metadata={"help": "Seed of the documents' order and of the pairs."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes for tokenization and pair building."}
    )
    streaming: bool = field(default=False, metadata={"help": "Make examples while training. Needs max_steps."})
    streaming_buffer_size: int = field(default=500, metadata={"help": "Documents in memory when streaming."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where prepared data is kept."})

    def __post_init__(self) -> None:
        in_range = {
            f"max_seq_length: at least {MIN_SEQ_LENGTH}": self.max_seq_length >= MIN_SEQ_LENGTH,
            "long_seq_length: longer than max_seq_length": (self.long_seq_length or 2**31) > self.max_seq_length,
            "long_seq_ratio: between 0 and 1": 0 < self.long_seq_ratio < 1,
            "validation_fraction: between 0 and 1": 0 < self.validation_fraction < 1,
            "short_seq_probability: from 0 to 1": 0 <= self.short_seq_probability <= 1,
            "mlm_probability: between 0 and 1": 0 < self.mlm_probability < 1,
            "dupe_factor: at least 1": self.dupe_factor >= 1,
            f"streaming_buffer_size: at least {MIN_DOCUMENTS}": self.streaming_buffer_size >= MIN_DOCUMENTS,
            "examples: 'pairs', 'sentences' or 'windows'": self.examples in ("pairs", "sentences", "windows"),
            "encoding_errors: 'strict' or 'replace'": self.encoding_errors in ("strict", "replace"),
        }
        for rule, holds in in_range.items():
            if not holds:
                name, _, expected = rule.partition(": ")
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {expected}")


def prepare_pretraining_data(
    arguments: PretrainingDataArguments, tokenizer: PreTrainedTokenizerBase
) -> PretrainingData:
    """Makes examples of a corpus, by default for masked-language modelling and next-sentence prediction.

    Whole documents are held out for validation, so no text of it is trained on, not even as a copy of a document.
    Tokenized text and pairs are cached; a second call with the same arguments and files reads them back.

    Args:
        arguments (`PretrainingDataArguments`): the corpus and the choices.
        tokenizer (`PreTrainedTokenizerBase`): a fast BERT tokenizer.

    Returns:
        `Mapping`: `train` and `validation`, each a `Dataset`; when streaming, `train` is an `ExampleStream` and
        `validation` an `IterableDataset`; of rows

        - **input_ids** (int32): `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` where they are no pairs, at most
          `max_seq_length` ids, unpadded and unmasked;
        - **token_type_ids** (int8): 0 up to the first `[SEP]`, then 1;
        - **next_sentence_label** (int8): 0 if B follows A, 1 if it comes from another document, -100 without B.

    Raises:
        FileNotFoundError: if a source does not exist.
        ValueError: if a source cannot be read as documents, if there are too few, or if the tokenizer lacks special
            tokens or does not know more than 20 % of the corpus' tokens.
    """
    check_special_tokens(tokenizer)
    pairs = PairSettings(
        max_seq_length=arguments.max_seq_length,
        short_seq_probability=arguments.short_seq_probability,
        dupe_factor=arguments.dupe_factor,
        seed=arguments.pairing_seed,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        examples=arguments.examples,
    )
    documents = _load(arguments, arguments.corpus)
    held_out = _load(arguments, arguments.validation_corpus) if arguments.validation_corpus else None
    for part in (documents, held_out):
        if part is not None:
            check_unknown_rate(_sample(part), tokenizer)
    if arguments.streaming:
        return _stream(documents, held_out, arguments, pairs, tokenizer)

    tokens = _tokenize(documents, arguments, tokenizer)
    if held_out is None:
        train, validation = _split(tokens, arguments.validation_fraction)
    else:
        train, validation = tokens, _tokenize(held_out, arguments, tokenizer)
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
    """Documents from all over the corpus; from its beginning if it is streamed."""
    if isinstance(documents, IterableDataset):
        return [row["text"] for row in documents.take(SAMPLE_DOCUMENTS)]
    step = -(-len(documents) // SAMPLE_DOCUMENTS)
    return documents.select(range(0, len(documents), step))["text"][:]


def _tokenize(documents: Dataset, arguments: PretrainingDataArguments, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    tokens = documents.map(
        tokenize_documents,
        batched=True,
        batch_size=100,
        writer_batch_size=100,
        num_proc=arguments.preprocessing_num_workers,
        remove_columns=documents.column_names,
        features=TOKENIZED,
        fn_kwargs={"tokenizer": tokenizer},
        new_fingerprint=Hasher.hash([CACHE_VERSION, "tokens", documents._fingerprint, _tokenizer_state(tokenizer)]),
        desc="Tokenizing",
    )
    check_dropped(len(tokens), len(documents), "the corpus", arguments.text_column)
    return tokens


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the ids depend on. A tokenizer's pickle also holds the truncation and padding of its last call."""
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer: load one that has a tokenizer.json")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in state.items() if name not in ("truncation", "padding")}


def _split(tokens: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """Holds out the documents with the smallest digests: the same ones for any seed, and copies together."""
    digests = np.asarray(tokens.with_format("numpy")["digest"][:], dtype=np.int64)
    count = max(MIN_DOCUMENTS, round(fraction * len(digests)))
    if len(digests) < count + MIN_DOCUMENTS:
        raise ValueError(
            f"the corpus has {len(digests)} documents, of which validation takes {count}: both splits need at least "
            f"{MIN_DOCUMENTS}, since a random next sentence comes from another document. Are the documents separated "
            "by blank lines? Otherwise add documents, or change validation_fraction"
        )
    held_out = digests <= np.sort(digests)[count - 1]
    return tokens.select(np.flatnonzero(~held_out)), tokens.select(np.flatnonzero(held_out))


def _pair(tokens: Dataset, split: str, arguments: PretrainingDataArguments, settings: PairSettings) -> Dataset:
    if len(tokens) < MIN_DOCUMENTS:
        raise ValueError(
            f"the {split} split has {len(tokens)} document: expected at least {MIN_DOCUMENTS}, since a random next "
            "sentence comes from another document. Are the documents separated by blank lines?"
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
    """The same way for documents that come one by one. Validation reads the corpus a second time."""

    # A digest is a uniform number below 2**63.
    border = 0 if held_out is not None else int(arguments.validation_fraction * 2**63)
    size = arguments.streaming_buffer_size
    train = ExampleStream(documents, settings, tokenizer, range(border, 2**63), size)
    if held_out is None:
        return {"train": train, "validation": map_blocks(documents, settings, tokenizer, range(border), size)}
    return {"train": train, "validation": map_blocks(held_out, settings, tokenizer, range(2**63), size)}
