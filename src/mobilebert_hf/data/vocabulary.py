"""Trains, loads and checks WordPiece tokenizers."""

import bisect
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .corpus import load_documents
from .vocabulary_file import guess_normalization, read_vocabulary, write_vocabulary

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MODEL_MAX_LENGTH = 512
CHARACTER_COVERAGE = 0.9999
HELD_OUT_EVERY, HELD_OUT_DOCUMENTS = 20, 500
SHOWN_UNKNOWN = 10
MAX_WORD_LENGTH = 100  # characters; WordPiece takes longer words for unknown
MAX_UNKNOWN_FRACTION = 0.2
SAMPLE_CHARACTERS = 2000


def train_wordpiece(
    corpus: Sequence[str],
    vocab_size: int,
    output_dir: str | Path,
    *,
    lowercase: bool = True,
    strip_accents: bool = False,
    character_coverage: float = CHARACTER_COVERAGE,
    min_frequency: int = 2,
    text_column: str = "text",
    encoding_errors: str = "strict",
) -> BertTokenizer:
    """Trains a BERT tokenizer and saves it as a folder that `AutoTokenizer.from_pretrained` loads.

    The corpus is streamed twice. Training is deterministic. Every 20th document, up to 500 of them, is held out to
    log the share of unknown tokens.

    Args:
        corpus (`Sequence[str]`): see [`load_documents`].
        vocab_size (`int`): largest number of tokens, including special tokens.
        output_dir (`str` or `Path`): folder of `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`.
        lowercase (`bool`, *optional*, defaults to `True`): whether to lowercase the text.
        strip_accents (`bool`, *optional*, defaults to `False`):
            whether to strip accents and other marks, as BERT's uncased tokenizers do. They distinguish words in most
            languages, and letters in Indic scripts.
        character_coverage (`float`, *optional*, defaults to `0.9999`):
            share of the corpus' characters that the vocabulary can represent. The rarest ones beyond it are unknown.
        min_frequency (`int`, *optional*, defaults to `2`): smallest number of occurrences of a pair to merge.
        text_column (`str`, *optional*, defaults to `"text"`): see [`load_documents`].
        encoding_errors (`str`, *optional*, defaults to `"strict"`): see [`load_documents`].

    Returns:
        `BertTokenizer`: the trained tokenizer.

    Raises:
        ValueError: if `vocab_size` is smaller than the alphabet, `character_coverage` is not a share, or the corpus is
            invalid (see [`load_documents`]).
    """
    if not 0 < character_coverage <= 1:
        raise ValueError(f"character_coverage is {character_coverage}: expected a share larger than 0, up to 1")
    documents = load_documents(corpus, text_column=text_column, streaming=True, encoding_errors=encoding_errors)

    def lines() -> Iterator[str]:
        for index, document in enumerate(documents):
            if not _is_held_out(index):
                yield from document["text"].split("\n")

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet, continuing = _alphabet(tokenizer, lines(), character_coverage)
    smallest = len(SPECIAL_TOKENS) + len(alphabet) + len(continuing)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size is {vocab_size}, but the special tokens and the characters of the corpus, with and without "
            f"'##', already need {smallest}: set vocab_size to more than that, or a smaller character_coverage than "
            f"{character_coverage}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # The trainer orders ## characters by a hash map, which is not deterministic, and breaks ties between tokens by
        # this order. The order of special tokens is fixed.
        special_tokens=SPECIAL_TOKENS + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    tokenizer.train_from_iterator(lines(), trainer)
    trained = _save(tokenizer.get_vocab(), Path(output_dir), lowercase, strip_accents)
    held_out = [row["text"] for row in documents.filter(_is_held_out_row, with_indices=True).take(HELD_OUT_DOCUMENTS)]
    kind = "held-out" if held_out else "training"
    sample = held_out or [row["text"] for row in documents.take(HELD_OUT_DOCUMENTS)]
    logger.warning("%d %s documents: %s", len(sample), kind, measure_unknown(sample, trained))
    return trained


def _is_held_out(index: int) -> bool:
    return index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 and index < HELD_OUT_EVERY * HELD_OUT_DOCUMENTS


def _is_held_out_row(row: Any, index: int) -> bool:
    return _is_held_out(index)


def _alphabet(tokenizer: Tokenizer, lines: Iterator[str], coverage: float) -> tuple[list[str], list[str]]:
    """The characters that cover a share of the normalized text, and the `##` tokens of those inside words."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(tokenizer.normalizer.normalize_str(line))
    frequent = sorted((char for char in counts if not char.isspace()), key=lambda char: (-counts[char], char))
    reached = list(itertools.accumulate(counts[char] for char in frequent))
    needed = bisect.bisect_left(reached, coverage * reached[-1]) + 1 if reached else 0
    alphabet = sorted(frequent[:needed])
    if needed:
        share = reached[needed - 1] / reached[-1]
        logger.info("%d of %d different characters kept, %.4f%% of the text", needed, len(frequent), 100 * share)

    def can_be_inside(char: str) -> bool:
        # Punctuation and CJK characters are separate words.
        return len(tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str("a" + char))) == 1

    return alphabet, [f"##{char}" for char in alphabet if can_be_inside(char)]


def _save(vocabulary: dict[str, int], folder: Path, lowercase: bool, strip_accents: bool) -> BertTokenizer:
    tokenizer = _bert_tokenizer(vocabulary, do_lower_case=lowercase, strip_accents=strip_accents)
    tokenizer.save_pretrained(folder)
    # transformers 5 does not write vocab.txt, which TensorFlow Text and LiteRT's task library read.
    write_vocabulary(vocabulary, folder / "vocab.txt")
    logger.info("a vocabulary of %d tokens is in %s", len(vocabulary), folder)
    return tokenizer


def load_tokenizer(name_or_path: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a tokenizer by Hub id, from a folder, or from a `vocab.txt`.

    Args:
        name_or_path (`str` or `Path`):
            Hub id or folder as in `AutoTokenizer.from_pretrained`; or a `vocab.txt`, or a folder with only a
            `vocab.txt` (see [`load_vocabulary`]).
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code that comes with it.

    Returns:
        `PreTrainedTokenizerBase`

    Raises:
        OSError: if the tokenizer does not exist.
    """
    path = Path(name_or_path)
    vocabulary = path / "vocab.txt" if path.is_dir() else path
    only_vocabulary = path.is_file() or not any(
        (path / f"{name}.json").exists() for name in ("tokenizer", "tokenizer_config")
    )
    if not (vocabulary.is_file() and only_vocabulary):
        return AutoTokenizer.from_pretrained(str(name_or_path), trust_remote_code=trust_remote_code)
    return load_vocabulary(vocabulary)


def load_vocabulary(path: Path) -> BertTokenizer:
    """A BERT tokenizer of a `vocab.txt` (see [`read_vocabulary`]) that normalizes text as its tokens suggest."""
    vocabulary = read_vocabulary(path)
    return _bert_tokenizer(vocabulary, **guess_normalization(path, vocabulary))


def _bert_tokenizer(vocabulary: dict[str, int], **normalization: Any) -> BertTokenizer:
    return BertTokenizer(
        vocab=vocabulary,
        model_max_length=MODEL_MAX_LENGTH,
        # Without this, transformers 5.2 loads a saved BertTokenizer without token_type_ids.
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **normalization,
    )


def check_special_tokens(tokenizer: PreTrainedTokenizerBase, masks: bool = True) -> None:
    """Checks that a tokenizer has what examples of pre-training need.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        masks (`bool`, *optional*, defaults to `True`): whether tokens are masked.

    Raises:
        ValueError: if a special token is missing, or there is not one before and one after a text.
    """
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token") if masks else ("pad_token",)
    missing = [name for name in names if getattr(tokenizer, f"{name}_id") is None]
    if missing:
        raise ValueError(
            f"the tokenizer has no {', '.join(missing)}: pre-training needs all of {', '.join(names)}. "
            "Use a BERT tokenizer, or train one with train_wordpiece"
        )
    sequence_frame(tokenizer)


def sequence_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids that a tokenizer puts before and after a text, as `[CLS]` and `[SEP]`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.

    Returns:
        `tuple[int, int]`

    Raises:
        ValueError: if it does not put one on each side.
    """
    [text], ids = encode(["a"], tokenizer), tokenizer("a")["input_ids"]
    if len(ids) != len(text) + 2 or ids[1:-1] != text:
        raise ValueError(
            f"the tokenizer makes {tokenizer.convert_ids_to_tokens(ids)} of the text 'a': expected one token before a "
            "text and one after it, as [CLS] and [SEP]"
        )
    return ids[0], ids[-1]


def count_token_types(tokenizer: PreTrainedTokenizerBase) -> int:
    """The number of token types that a tokenizer gives for a pair of texts; 1 if it gives none."""
    return 1 + max(tokenizer("a", "a").get("token_type_ids", [0]))


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, masks: bool = True) -> None:
    """Checks that a tokenizer matches a model's configuration.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.
        config (`PreTrainedConfig`): a configuration with `vocab_size` and `pad_token_id`.
        masks (`bool`, *optional*, defaults to `True`): whether tokens are masked.

    Raises:
        ValueError: if the tokenizer has more tokens than `vocab_size`, the padding ids differ, or a special token is
            missing.
    """
    check_special_tokens(tokenizer, masks)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model's vocab_size is {config.vocab_size}: "
            f"set vocab_size={len(tokenizer)} or more in the configuration, or use the model's own tokenizer"
        )
    if tokenizer.pad_token_id != config.pad_token_id:
        raise ValueError(
            f"the tokenizer's {tokenizer.pad_token} has id {tokenizer.pad_token_id}, but the model's pad_token_id is "
            f"{config.pad_token_id}: set pad_token_id={tokenizer.pad_token_id} in the configuration"
        )


def check_unknown_tokens(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a tokenizer's vocabulary fits the corpus.

    Args:
        documents (`Sequence[str]`): a sample of the documents. Only the beginning of each is checked.
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer.

    Raises:
        ValueError: if more than 20 % of the tokens are unknown, or if there are no tokens.
    """
    measured = measure_unknown(documents, tokenizer)
    if not measured.tokens:
        raise ValueError(f"a sample of {len(documents)} documents has no tokens: expected text, check the corpus")
    if measured.share > MAX_UNKNOWN_FRACTION:
        raise ValueError(
            f"{measured.share:.0%} of the tokens in a sample of {len(documents)} documents are "
            f"{tokenizer.unk_token}, expected at most {MAX_UNKNOWN_FRACTION:.0%}: the vocabulary does not fit the "
            "corpus' language, alphabet or case. Train one with train_wordpiece, or check do_lower_case. "
            f"The most frequent unknown pieces: {measured.listed()}"
        )
    logger.warning("a sample of %d documents: %s", len(documents), measured)


@dataclass(frozen=True)
class Unknown:
    """The unknown tokens of a sample of text.

    Args:
        tokens: Number of all tokens.
        pieces: The unknown pieces of the text, and how often each occurs.
    """

    tokens: int
    pieces: Counter[str]

    @property
    def share(self) -> float:
        """The share of unknown tokens, 0 without tokens."""
        return self.pieces.total() / self.tokens if self.tokens else 0.0

    def listed(self) -> str:
        """The most frequent unknown pieces. Of a word that is too long, its beginning and length."""
        return ", ".join(
            repr(piece) if len(piece) <= MAX_WORD_LENGTH else f"{piece[:20]!r}... (a word of {len(piece)} characters)"
            for piece, _ in self.pieces.most_common(SHOWN_UNKNOWN)
        )

    def __str__(self) -> str:
        known = f"{self.share:.2%} of {self.tokens} tokens are unknown"
        return f"{known}, most of all {self.listed()}" if self.pieces else known


def measure_unknown(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Unknown:
    """The unknown tokens in the beginnings of documents.

    Raises:
        ValueError: if the tokenizer is not fast.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer: load one with a tokenizer.json")
    texts = [document[:SAMPLE_CHARACTERS] for document in documents]
    encoded = _encode(texts, tokenizer, return_offsets_mapping=True)
    pieces: Counter[str] = Counter()
    for text, ids, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        unknown = [span for token, span in zip(ids, spans, strict=True) if token == tokenizer.unk_token_id]
        pieces.update(text[slice(*span)] for span in unknown)
    return Unknown(sum(map(len, encoded["input_ids"])), pieces)


def encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokenizes texts without adding special tokens; special tokens in a text, such as `[SEP]`, are split."""
    return _encode(texts, tokenizer)["input_ids"]


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase, **more: Any) -> Any:
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, **options, **more)
