"""Small corpora of random sentences."""

import random
from pathlib import Path

WORDS = """
the a river mountain engine theory cell market planet memory society atom begins carries explains measures slowly
quickly often never strange bright ancient small large unbelievable measurement carrying explanation
"""


def write_corpus(path: Path, documents: int = 60, seed: int = 0) -> Path:
    """Documents of random sentences: 1-6 paragraphs of 1-8 sentences of 2-15 words."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS.split(), k=rng.randint(2, 15))).capitalize() + "."

    texts = [
        "\n".join(" ".join(sentence() for _ in range(rng.randint(1, 8))) for _ in range(rng.randint(1, 6)))
        for _ in range(documents)
    ]
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path
