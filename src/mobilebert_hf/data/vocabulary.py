"""Trains, loads and checks WordPiece tokenizers."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from .corpus import load_documents

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MODEL_MAX_LENGTH = 512
MAX_ALPHABET = 1000
MAX_UNKNOWN_FRACTION = 0.2
SAMPLE_CHARACTERS = 2000


def train_wordpiece(
    corpus: Sequence[str],
    vocab_size: int,
    output_dir: str | Path,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    text_column: str = "text",
    encoding_errors: str = "strict",
) -> BertTokenizer:
    """Trains a BERT tokenizer and saves it as a folder that `AutoTokenizer.from_pretrained` loads.

    The corpus is streamed twice. Training is deterministic.

    Args:
        corpus (`Sequence[str]`): see [`load_documents`].
        vocab_size (`int`): largest number of tokens, including special tokens.
        output_dir (`str` or `Path`): folder of `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`.
        lowercase (`bool`, *optional*, defaults to `True`): whether to lowercase the text and strip accents.
        min_frequency (`int`, *optional*, defaults to `2`): smallest number of occurrences of a pair to merge.
        text_column (`str`, *optional*, defaults to `"text"`): see [`load_documents`].
        encoding_errors (`str`, *optional*, defaults to `"strict"`): see [`load_documents`].

    Returns:
        `BertTokenizer`: the trained tokenizer.

    Raises:
        ValueError: if `vocab_size` is smaller than the alphabet, or the corpus is invalid (see [`load_documents`]).
    """
    documents = load_documents(corpus, text_column=text_column, streaming=True, encoding_errors=encoding_errors)

    def lines() -> Iterator[str]:
        for document in documents:
            yield from document["text"].split("\n")

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet, continuing = _alphabet(tokenizer, lines())
    smallest = len(SPECIAL_TOKENS) + len(alphabet) + len(continuing)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size is {vocab_size}, but the special tokens and the characters of the corpus, with and without "
            f"'##', already need {smallest}: set vocab_size to more than that"
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
    return _save(tokenizer.get_vocab(), lowercase, Path(output_dir))


def _alphabet(tokenizer: Tokenizer, lines: Iterator[str]) -> tuple[list[str], list[str]]:
    """The most frequent normalized characters, and the `##` tokens of those that can be inside words."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(tokenizer.normalizer.normalize_str(line))
    frequent = sorted((char for char in counts if not char.isspace()), key=lambda char: (-counts[char], char))
    alphabet = sorted(frequent[:MAX_ALPHABET])

    def can_be_inside(char: str) -> bool:
        # Punctuation and CJK characters are separate words.
        return len(tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str("a" + char))) == 1

    return alphabet, [f"##{char}" for char in alphabet if can_be_inside(char)]


def _save(vocabulary: dict[str, int], lowercase: bool, folder: Path) -> BertTokenizer:
    tokenizer = _bert_tokenizer(vocabulary, lowercase)
    tokenizer.save_pretrained(folder)
    # transformers 5 does not write vocab.txt, which TensorFlow Text and LiteRT's task library read.
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    logger.info("a vocabulary of %d tokens is in %s", len(tokens), folder)
    return tokenizer


def load_tokenizer(name_or_path: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads a tokenizer by Hub id, from a folder, or from a `vocab.txt`.

    Args:
        name_or_path (`str` or `Path`):
            Hub id or folder as in `AutoTokenizer.from_pretrained`; or a `vocab.txt`, or a folder with only a
            `vocab.txt`. Then text is lowercased if the vocabulary has no upper-case letters.
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
    tokens = vocabulary.read_text(encoding="utf-8").splitlines()
    cased = any(token != token.lower() for token in tokens if not token.startswith("["))
    return _bert_tokenizer(str(vocabulary), lowercase=not cased)


def _bert_tokenizer(vocabulary: dict[str, int] | str, lowercase: bool) -> BertTokenizer:
    return BertTokenizer(
        vocab=vocabulary,
        do_lower_case=lowercase,
        model_max_length=MODEL_MAX_LENGTH,
        # Without this, transformers 5.2 loads a saved BertTokenizer without token_type_ids.
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
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
    ids = encode([document[:SAMPLE_CHARACTERS] for document in documents], tokenizer)
    total = sum(map(len, ids))
    if not total:
        raise ValueError(f"a sample of {len(documents)} documents has no tokens: expected text, check the corpus")
    unknown = sum(sequence.count(tokenizer.unk_token_id) for sequence in ids)
    if unknown > MAX_UNKNOWN_FRACTION * total:
        raise ValueError(
            f"{unknown / total:.0%} of the tokens in a sample of {len(documents)} documents are "
            f"{tokenizer.unk_token}, expected at most {MAX_UNKNOWN_FRACTION:.0%}: the vocabulary does not fit the "
            "corpus' language, alphabet or case. Train one with train_wordpiece, or check do_lower_case"
        )


def encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Tokenizes texts without adding special tokens; special tokens in a text, such as `[SEP]`, are split."""
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, **options)["input_ids"]
