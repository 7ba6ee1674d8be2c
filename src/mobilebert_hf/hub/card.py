"""What a model card says, as data, and the one template that all cards are rendered by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..runs.facts import Score
from ..tables import Rows, markdown_table

TEMPLATE = Path(__file__).with_name("templates") / "card.md"
CARD = "README.md"
# By it a card that may be written anew is told from one that somebody has edited.
MARKER = "<!-- Rendered from the results of a run. Without this line it is yours, and is left as it is. -->"
TAGS = ("mobilebert-hf",)
LIMITS = """It has learned from text what that text says of people, groups and the world, prejudices included, and from
its teacher what the teacher got wrong; a smaller network forgets rare words and facts first. Try it on your own data,
for all groups it concerns, before it decides anything. Texts in other languages or domains than those it was trained
on are beyond it, and so is everything after the longest text it takes. Run it in float32, bfloat16 or 8 bits: in
float16 its activations can overflow."""


class Use(NamedTuple):
    """A few lines of code."""

    title: str
    language: str
    code: str


@dataclass(frozen=True, kw_only=True)
class CardData:
    """Everything that a card says of a model.

    Args:
        name: Its heading: the repository's last name.
        summary: What the model is, in a few sentences.
        training: How it was made.
        pipeline_tag: The Hub's name of what it is used for.
        library_name: The library that loads it.
        license: The Hub's name of the licence, if it is known.
        language: Of the text, as ISO 639-1 says, if it is known.
        base_model: Hub id of the model that it was made from.
        datasets: Hub ids of what it was trained on.
        tags: Besides those of all models.
        scores: What a run measured; these numbers alone are in the metadata.
        rows: The table of results, its first row the heading.
        rows_note: Where the numbers come from.
        exports: The table of its graphs for runtimes, its first row the heading.
        uses: How to use it.
        picture: The file of its loss curves.
        command: What makes it again.
        version: Of this package.
        speed: The table of latencies, its first row the heading.
        speed_note: What was timed, on what.
    """

    name: str
    summary: str
    training: str
    pipeline_tag: str
    library_name: str = "transformers"
    license: str | None = None
    language: str | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    tags: Sequence[str] = ()
    scores: Sequence[Score] = ()
    rows: Rows = ()
    rows_note: str = ""
    exports: Rows = ()
    uses: Sequence[Use] = ()
    picture: str | None = None
    command: str | None = None
    version: str | None = None
    speed: Rows = ()
    speed_note: str = ""


def render_card(card: CardData) -> str:
    """The card: metadata with the scores in the legacy form (`model-index`), and the text."""
    results = [
        EvalResult(
            task_type=score.task,
            dataset_type=score.dataset,
            dataset_name=score.name,
            dataset_config=score.config,
            dataset_split=score.split,
            metric_type=score.metric,
            metric_value=round(score.value, 4),
        )
        for score in card.scores
    ]
    data = ModelCardData(
        model_name=card.name,
        license=card.license,
        language=card.language,
        library_name=card.library_name,
        pipeline_tag=card.pipeline_tag,
        base_model=card.base_model,
        datasets=list(card.datasets) or None,
        metrics=list(dict.fromkeys(score.metric for score in card.scores)) or None,
        tags=[*TAGS, *card.tags],
        eval_results=results or None,
    )
    values = vars(card) | {
        "marker": MARKER,
        "limits": LIMITS,
        "rows": markdown_table(card.rows) if card.rows else "",
        "exports": markdown_table(card.exports) if card.exports else "",
        "speed": markdown_table(card.speed) if card.speed else "",
    }
    return str(ModelCard.from_template(data, template_path=str(TEMPLATE), **values))


def eval_results(card: CardData) -> dict[str, str]:
    """The scores in the Hub's current form: `.eval_results/*.yaml` and what is in them, one for each data set."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for score in card.scores:
        entry = EvalResultEntry(
            dataset_id=score.dataset,
            task_id=score.config or "default",
            value=round(score.value, 4),
            notes=f"{score.metric}, {score.split}",
        )
        entries.setdefault(score.dataset.split("/")[-1], []).append(entry)
    return {
        f".eval_results/{name}.yaml": yaml.safe_dump(eval_result_entries_to_yaml(of_one), sort_keys=False)
        for name, of_one in entries.items()
    }
