"""Entities of tagged words, and their scores as conlleval and seqeval compute them.

Tags are a prefix and a type: BIO (`B-PER`, `I-PER`, `O`), IOBES (also `E-` and `S-`) or IO (`I-` alone). As in
conlleval, a tag that cannot follow the one before it begins a new entity.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

OUTSIDE = "O"
PREFIXES = "BIES"


class Entity(NamedTuple):
    """An entity: its type, and the indices of its first and last word."""

    type: str
    first: int
    last: int


def is_scheme(tags: Sequence[str]) -> bool:
    """Whether tags mark entities: `O`, and otherwise a prefix of BIO or IOBES and a type. Parts of speech do not."""
    return OUTSIDE in tags and all(tag == OUTSIDE or (tag[:1] in PREFIXES and tag[1:2] in ("-", "")) for tag in tags)


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order.

    Args:
        tags: A tag per word. A prefix without a type, such as `B`, is of the type `"_"`.
    """
    found: list[Entity] = []
    begin, before, type_before = 0, OUTSIDE, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = tag[:1], tag[2:] or "_"
        inside = prefix != OUTSIDE
        continues = inside and before in ("B", "I") and prefix in ("I", "E") and kind == type_before
        if not continues:
            if before != OUTSIDE:
                found.append(Entity(type_before, begin, index - 1))
            begin = index
        before, type_before = prefix, kind
    return found


def entity_scores(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 of whole entities: type and both ends must be right.

    Args:
        predicted: The tags of each sentence.
        expected: Those of the data, with the same lengths.

    Returns:
        `f1`, `precision` and `recall` over all entities, 0 for 0 / 0; and `types`, a dictionary of the same and
        `support`, the number of entities in the data, by type.
    """
    counts: dict[str, list[int]] = {}
    for one, other in zip(predicted, expected, strict=True):
        found, wanted = set(find_entities(one)), set(find_entities(other))
        for index, entities in enumerate((found & wanted, found, wanted)):
            for entity in entities:
                counts.setdefault(entity.type, [0, 0, 0])[index] += 1
    types = {name: {**_scores(*counts[name]), "support": counts[name][2]} for name in sorted(counts)}
    totals = [sum(column) for column in zip(*counts.values(), strict=True)] or [0, 0, 0]
    return {**_scores(*totals), "types": types}


def _scores(right: int, found: int, wanted: int) -> dict[str, float]:
    both = found + wanted
    return {
        "f1": 2 * right / both if both else 0.0,
        "precision": right / found if found else 0.0,
        "recall": right / wanted if wanted else 0.0,
    }
