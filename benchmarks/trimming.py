"""A multilingual sentence encoder with the vocabulary of one language: sizes, tokens and scores before and after.

    python benchmarks/trimming.py TEACHER --corpus german.txt.gz --pairs dev.csv.gz --output runs/trimmed

`--pairs` is a CSV file as in `PhilipMay/stsb_multi_mt`: two sentences and a score in a row. sentence-transformers
scores both encoders with the prompt `query`; nothing is trained. Results go to benchmarks/trimming/results.json. A
second call goes on with the encoder that was trimmed.
"""

import csv
import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from torch.nn.functional import cosine_similarity

from mobilebert_hf.data.trimmed_model import Trimming, trim_model
from mobilebert_hf.data.trimming import TextCounts
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.tables import terminal_table
from mobilebert_hf.tasks.glue_scores import glue_scores
from mobilebert_hf.tasks.glue_tasks import TASKS

RESULTS = Path(__file__).parent / "trimming" / "results.json"


def main(
    teacher: Annotated[str, typer.Argument(help="Hub id or folder of a sentence encoder with the prompt `query`.")],
    corpus: Annotated[list[str], typer.Option(help="Text in the language. Can be given several times.")],
    pairs: Annotated[Path, typer.Option(help="CSV file of sentence pairs with scores.")],
    output: Annotated[Path, typer.Option(help="Folder for the trimmed encoder.")],
    keep: Annotated[str, typer.Option(help="As for `mobilebert-hf trim`.")] = "0.9995",
) -> None:
    """Trims an encoder and scores it before and after."""
    trimming = Trimming.read(output) if output.exists() else trim_model(teacher, corpus, keep, output)
    scores = [spearman(name, pairs) for name in (teacher, str(output))]
    sizes = {**asdict(trimming), "model": Path(teacher).name, "corpus": [Path(name).name for name in corpus]}
    results = {"trimming": sizes, "spearman": scores, "pairs": len(read_pairs(pairs))}
    atomic_write_text(RESULTS, json.dumps(results, indent=2) + "\n")
    Console().print(terminal_table(cells(results), f"{output}"))


def spearman(encoder: str, pairs: Path) -> float:
    """The correlation of the embeddings' cosines with the scores of the pairs, -1 to 1."""
    from sentence_transformers import SentenceTransformer  # slow, and not needed for the table

    first, second, scores = zip(*read_pairs(pairs), strict=True)
    model = SentenceTransformer(encoder, device="cpu")
    embeddings = [
        model.encode(list(texts), prompt_name="query", batch_size=64, convert_to_tensor=True)
        for texts in (first, second)
    ]
    cosines = cosine_similarity(*embeddings).numpy()
    return float(glue_scores(TASKS["stsb"], cosines, [float(score) for score in scores])["spearmanr"])


def read_pairs(path: Path) -> list[list[str]]:
    """The rows of the file: two sentences and a score."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def cells(results: dict[str, Any]) -> list[list[str]]:
    """The table of `results.json`."""
    trimming = Trimming(**{**results["trimming"], "counts": TextCounts(**results["trimming"]["counts"])})
    scores = [f"{100 * score:.2f}" for score in results["spearman"]]
    return [*trimming.rows(), [f"STS-B German dev, {results['pairs']:,} pairs, Spearman", *scores]]


if __name__ == "__main__":
    typer.run(main)
