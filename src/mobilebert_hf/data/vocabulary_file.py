"""`vocab.txt`: one token per line, whose id is the number of the line from 0."""

import logging
import unicodedata
from pathlib import Path

logger = logging.getLogger(__name__)


def read_vocabulary(path: Path) -> dict[str, int]:
    """Reads the tokens with their ids.

    Blank lines and the earlier ones of lines with the same token have no token, as in BERT. They get a name that no
    text has, so that the ids of other tokens stay the numbers of their lines.

    Args:
        path: A file with LF or CR LF line ends. Other characters that end lines in some programs are parts of tokens.

    Raises:
        ValueError: The file is not UTF-8, or has no tokens.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it, for example with iconv.") from error
    lines = [line.strip(" \t\r") for line in text.removesuffix("\n").split("\n")]
    if not any(lines):
        raise ValueError(f"{path} has no tokens: expected one per line.")
    last = {token: index for index, token in enumerate(lines)}
    unused = [index for index, token in enumerate(lines) if not token or last[token] != index]
    if unused:
        numbers = ", ".join(str(index + 1) for index in unused[:20])
        logger.warning(
            "%s: %d lines are blank or have a token that is there again; their ids stay unused: lines %s%s",
            path,
            len(unused),
            numbers,
            ", ..." if len(unused) > 20 else "",
        )
    for index in unused:
        lines[index] = f"[unused line {index + 1}]"  # no tokenizer joins words with blanks
    return {token: index for index, token in enumerate(lines)}


def write_vocabulary(vocabulary: dict[str, int], path: Path) -> None:
    """Writes the tokens, each on the line of its id; lines of ids without a token have `[unused line N]`.

    Raises:
        ValueError: A token has a line end.
    """
    tokens = {index: token for token, index in vocabulary.items()}
    broken = [token for token in vocabulary if "\n" in token or "\r" in token]
    if broken:
        raise ValueError(f"the token {broken[0]!r} has a line end, which {path.name} cannot represent.")
    lines = [tokens.get(index, f"[unused line {index + 1}]") for index in range(max(tokens) + 1)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def guess_normalization(path: Path, vocabulary: dict[str, int]) -> dict[str, bool]:
    """Arguments of `BertTokenizer` for a vocabulary whose tokenizer has no configuration.

    Text is lowercased if tokens have lower-case letters but no upper-case ones. Accents are stripped if it is
    lowercased and no token has an accent, as in BERT's uncased vocabularies.
    """
    tokens = [token for token in vocabulary if not token.startswith(("[", "<"))]
    cased = any(token != token.lower() for token in tokens)
    lowercase = not cased and any(token != token.upper() for token in tokens)
    letters = unicodedata.normalize("NFD", "".join(tokens))
    marked = any(unicodedata.category(char) == "Mn" for char in letters)
    logger.warning(
        "%s has no tokenizer_config.json beside it: text is %s, accents are %s, by the vocabulary's letters",
        path,
        "lowercased" if lowercase else "not lowercased",
        "stripped" if lowercase and not marked else "kept",
    )
    return {"do_lower_case": lowercase, "strip_accents": lowercase and not marked}
