"""The data of a model card, and its rendering with `templates/card.md`."""

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
# A card without this line was edited by a user and is not overwritten.
MARKER = "<!-- Generated from the results of a run. Remove this line to keep your edits. -->"
TAGS = ("mobilebert-hf",)
LIMITS = """The model reproduces biases of its training data and errors of its teacher. Small models forget rare words
and facts first. Evaluate it on your own data, for all affected groups, before you use it for decisions. Do not use it
for languages or domains that it was not trained on. Text beyond the maximum length is ignored. Run it in float32,
bfloat16 or int8: in float16, activations can overflow."""


class Use(NamedTuple):
    """A code example."""

    title: str
    language: str
    code: str


@dataclass(frozen=True, kw_only=True)
class CardData:
    """The contents of a model card. The first row of tables is the heading.

    Args:
        name: Title: the last part of the repository's name.
        summary: Description in a few sentences.
        training: How the model was trained.
        pipeline_tag: Task on the Hub.
        library_name: Library that loads the model.
        license: Licence identifier of the Hub.
        language: ISO 639-1 code.
        base_model: Hub id of the base model or teacher.
        datasets: Hub ids of the training data.
        tags: Tags in addition to `TAGS`.
        scores: Measured scores, for the metadata.
        rows: Table of results.
        rows_note: How the results were measured.
        exports: Table of exported graphs.
        uses: Code examples.
        picture: File name of the plot of losses.
        command: Command that reproduces the model.
        version: Version of this package.
        speed: Table of latencies.
        speed_note: How the latencies were measured.
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
    """Renders a card. The metadata has the scores as `model-index`, the Hub's legacy format."""
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
    """Returns the scores in the Hub's current format: contents of `.eval_results/*.yaml` by path, one per data set."""
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
        f".eval_results/{name}.yaml": yaml.safe_dump(eval_result_entries_to_yaml(results), sort_keys=False)
        for name, results in entries.items()
    }
