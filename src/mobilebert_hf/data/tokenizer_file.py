"""The pieces of a fast tokenizer, and the same tokenizer with only some of them.

A text whose pieces are all kept is tokenized as before:

- WordPiece takes the longest piece at each position, and WordLevel whole words. They are still there.
- Unigram takes the pieces with the highest sum of scores. Their scores stay, and so does that of an unknown character,
  which depends on the lowest score of all pieces.
- BPE takes the merges in their order. Those that lead to a kept piece are kept.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

# How tokenizers of SentencePiece write a space. Bytes cannot stand for it: decoders replace it before they join bytes.
METASPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# The parts of sequences of normalizers, pre-tokenizers and post-processors.
SEQUENCES = ("normalizers", "pretokenizers", "processors")


class TokenizerFile:
    """The content of `tokenizer.json`.

    Args:
        tokenizer (`Tokenizer`): not changed. Its model can be of any kind.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._content: dict[str, Any] = json.loads(tokenizer.to_str())
        self._model: dict[str, Any] = self._content["model"]
        self.kind: str = self._model["type"]
        vocabulary = self._model["vocab"]
        if self.kind == "Unigram":
            self.pieces = {index: piece for index, (piece, _) in enumerate(vocabulary)}
        else:
            self.pieces = {index: piece for piece, index in vocabulary.items()}
        self._ids = {piece: index for index, piece in self.pieces.items()}
        added = sorted(self._content["added_tokens"], key=lambda token: token["id"])
        self._special: set[int] = {token["id"] for token in added}
        if self.unknown is not None:
            self._special.add(self.unknown)
        self._outside = [token["id"] for token in added if token["id"] not in self.pieces]
        self._has_bytes = bool(self._model.get("byte_fallback")) and all(name in self._ids for name in BYTES)
        self._ranks = {tuple(merge): rank for rank, merge in enumerate(self._model.get("merges", ()))}

    @property
    def unknown(self) -> int | None:
        """The id of the unknown token, or None."""
        if self.kind == "Unigram":
            return self._model["unk_id"]
        return self._ids.get(self._model.get("unk_token"))

    def required(self) -> set[int]:
        """The ids that the tokenizer needs for any text: special and added tokens, and bytes."""
        ids = set(self._special)
        for part in _parts(self._content["post_processor"]):
            ids.update(_template_ids(part))
        if self._content["padding"]:
            ids.add(self._content["padding"]["pad_id"])
        names = [METASPACE]
        if self._has_bytes:
            names += BYTES
        sections = (self._content["normalizer"], self._content["pre_tokenizer"])
        if any(part["type"] == "ByteLevel" for section in sections for part in _parts(section)):
            names += pre_tokenizers.ByteLevel.alphabet()
        ids.update(self._ids[name] for name in names if name in self._ids)
        if self.kind == "Unigram":
            scores = [score for _, score in self._model["vocab"]]
            ids.add(scores.index(min(scores)))
        return ids

    def substitutes(self, index: int) -> set[int]:
        """The pieces that a piece can always be written with: its characters, or itself if one of them is no piece.

        Empty if the tokenizer has bytes.
        """
        if self._has_bytes or index not in self.pieces:
            return set()
        found = {self._ids.get(symbol) for symbol in self._symbols(self.pieces[index])}
        return {index} if None in found else {each for each in found if each is not None}

    def with_path(self, index: int) -> set[int]:
        """A piece and those that BPE merges on the way to it, always the same ones in all texts."""
        if self.kind != "BPE" or index not in self.pieces:
            return {index}
        symbols = self._symbols(self.pieces[index])
        passed = {index, *(self._ids[symbol] for symbol in symbols if symbol in self._ids)}
        while len(symbols) > 1:
            ranks = [(self._ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self._ranks]
            if not ranks:
                return {index}  # BPE takes it as a whole word (`ignore_merges`), or not at all
            at = min(ranks)[1]
            symbols[at : at + 2] = [self._merge(symbols[at], symbols[at + 1])]
            passed.add(self._ids[symbols[at]])
        return passed

    def select(self, kept: Iterable[int]) -> tuple[Tokenizer, list[int]]:
        """The tokenizer of the pieces `kept`, and the former id of each of its pieces.

        The new ids have no gaps. Special tokens keep their ids as far as those exist: some models and tokenizers
        depend on them.
        """
        order = self._order(set(kept))
        ids = order + self._outside
        new = {former: index for index, former in enumerate(ids)}
        content = json.loads(json.dumps({**self._content, "model": None}))
        content["model"] = {**self._model, **self._select_model(order, new)}
        for token in content["added_tokens"]:
            token["id"] = new[token["id"]]
        content["added_tokens"].sort(key=lambda token: token["id"])
        for part in _parts(content["post_processor"]):
            _renumber_template(part, new)
        if content["padding"]:
            content["padding"]["pad_id"] = new[content["padding"]["pad_id"]]
        return Tokenizer.from_str(json.dumps(content)), ids

    def _order(self, kept: set[int]) -> list[int]:
        """The model's kept pieces by new id: special tokens where they were, the others in their order around them."""
        inside = sorted(kept & self.pieces.keys())
        fixed = {index for index in inside if index in self._special and index < len(inside)}
        others = iter([index for index in inside if index not in fixed])
        return [index if index in fixed else next(others) for index in range(len(inside))]

    def _select_model(self, order: list[int], new: dict[int, int]) -> dict[str, Any]:
        """The fields of the model that have pieces or ids."""
        if self.kind == "Unigram":
            unknown = None if self.unknown is None else new[self.unknown]
            return {"vocab": [self._model["vocab"][former] for former in order], "unk_id": unknown}
        vocabulary = {self.pieces[former]: new[former] for former in order}
        if self.kind != "BPE":
            return {"vocab": vocabulary}
        merges = [pair for pair in self._ranks if all(piece in vocabulary for piece in (*pair, self._merge(*pair)))]
        return {"vocab": vocabulary, "merges": merges}

    def _symbols(self, piece: str) -> list[str]:
        """The characters of a piece, as the model writes them inside and at the end of a word."""
        prefix, suffix = (
            self._model.get("continuing_subword_prefix") or "",
            self._model.get("end_of_word_suffix") or "",
        )
        continues = bool(prefix) and piece.startswith(prefix)
        ends = bool(suffix) and piece.endswith(suffix)
        bare = piece[len(prefix) * continues : len(piece) - len(suffix) * ends]
        symbols = [prefix * (continues or at > 0) + character for at, character in enumerate(bare)]
        if ends and symbols:
            symbols[-1] += suffix
        return symbols

    def _merge(self, left: str, right: str) -> str:
        return left + right.removeprefix(self._model.get("continuing_subword_prefix") or "")


def _parts(section: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A section of `tokenizer.json`, or the parts of a sequence."""
    if section is None:
        return
    nested = [part for name in SEQUENCES for part in section.get(name, ())]
    if nested:
        for part in nested:
            yield from _parts(part)
    else:
        yield section


def _template_ids(part: dict[str, Any]) -> list[int]:
    """The ids that a post-processor adds."""
    if part["type"] == "TemplateProcessing":
        return [index for token in part["special_tokens"].values() for index in token["ids"]]
    return [part[name][1] for name in ("sep", "cls") if name in part]


def _renumber_template(part: dict[str, Any], new: dict[int, int]) -> None:
    if part["type"] == "TemplateProcessing":
        for token in part["special_tokens"].values():
            token["ids"] = [new[index] for index in token["ids"]]
    for name in ("sep", "cls"):
        if name in part:
            part[name][1] = new[part[name][1]]
