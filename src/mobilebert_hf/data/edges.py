"""The visible part of a piece of text.

Answers and tokens can begin or end with white space, no-break spaces, zero-width or control characters. Tokenizers
treat these differently: WordPiece drops them, byte-level BPE has tokens of them, and some offsets include the blank
before a word. (The question-answering pipeline has the same rule: it is published as one file.)
"""

import unicodedata

FIRST_TAG = "\U000e0000"  # from here on, format characters spell the flags of regions


def visible(text: str, begin: int, end: int) -> tuple[int, int]:
    """Start and end of `text[begin:end]` without invisible characters at its edges; equal if there are no others."""
    while begin < end and _is_invisible(text[begin]):
        begin += 1
    while begin < end and _is_invisible(text[end - 1]):
        end -= 1
    return begin, end


def _is_invisible(char: str) -> bool:
    return char.isspace() or (unicodedata.category(char) in ("Cc", "Cf") and char < FIRST_TAG)
