"""What a run ends with: teacher and student side by side, as data, as a table and in a model card."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.glue import load_glue
from ...data.glue_tasks import TASKS
from ...files import write_aside
from ...machine import time_in_turns
from ...models import fold
from ...tables import Rows, markdown_table
from .sentence_encoder import score_similarity
from .shapes import count_parameters
from .trainer import AnyTeacherTrainer

RESULTS, CARD, EVALUATION = "results.json", "README.md", "eval_results.json"
TIMED_SECONDS = 3.0

CARD_TEXT = """---
{metadata}
---

# {name}

A MobileBERT student of [{teacher}]({link}), made by layer-wise knowledge transfer in {minutes:.0f} minutes.

{table}

Features, pooled outputs and masked-LM scores are those of held-out text of the corpus; latency is that of one text of
{length} tokens in PyTorch on the machine that made the student, both networks in turns, the student folded.

## Use

```python
{usage}
```

It is a `mobilebert` checkpoint: stock `transformers` loads it as well.

## Made by

```
{command}
```

Licence: the student is derived from its teacher, whose licence and limitations apply.
"""

USAGE = {
    "pooled": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{path}")
print(model.similarity(model.encode(["A plane is taking off."]), model.encode(["An aeroplane departs."])))""",
    "masked_lm": """import mobilebert_hf
from transformers import pipeline

fill = pipeline("fill-mask", "{path}")
print(fill(f"The capital of France is {{fill.tokenizer.mask_token}}."))""",
    "features": """import mobilebert_hf
from transformers import AutoModel

model = AutoModel.from_pretrained("{path}")""",
}


def write_results(
    folder: Path, arguments: Any, trainer: AnyTeacherTrainer, start: dict[str, Any], minutes: float
) -> Rows:
    """Compares teacher and student and writes `results.json` and the card.

    Args:
        folder: Of the saved student, with the evaluation.
        arguments: `AnyStudentArguments` of the run.
        trainer: After training and evaluation.
        start: What the initialization kept.
        minutes: That the run took so far.

    Returns:
        The rows of the table.
    """
    student = trainer.accelerator.unwrap_model(trainer.model).eval()
    # In training it may have been in bfloat16, in which its latency is another.
    teacher, tokenizer = trainer.teacher.model.float(), trainer.processing_class
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    length = min(128, student.config.max_position_embeddings)
    networks: dict[str, Any] = {"teacher": teacher.base_model, "student": student.base_model}
    latency = _latency({"teacher": teacher.base_model, "student": _deployed(student)}, length)
    results: dict[str, Any] = {
        "teacher_name": arguments.teacher,
        "minutes": minutes,
        "steps": trainer.strategy.steps,
        "processes": trainer.args.world_size,
        "start": start,
        "length": length,
        **{
            name: {
                "parameters": count_parameters(network),
                "milliseconds": latency[name],
            }
            for name, network in networks.items()
        },
        "evaluation": json.loads((folder / EVALUATION).read_text(encoding="utf-8")),
    }
    if arguments.task:
        splits = load_glue(TASKS[arguments.task], arguments.task_data)
        results["task"] = {"name": arguments.task, "split": next(s for s in ("validation", "train") if s in splits)}
        for name, network in networks.items():
            results[name]["task"] = score_similarity(network, tokenizer, splits[results["task"]["split"]], length)
    write_aside(folder / RESULTS, json.dumps(results, indent=2))
    rows = result_rows(results)
    _write_card(folder, arguments, trainer.objective, results, rows)
    return rows


def result_rows(results: dict[str, Any]) -> list[list[str]]:
    """The table of `results.json`: a row a quantity, teacher and student side by side."""
    teacher, student, measured = results["teacher"], results["student"], results["evaluation"]
    rows = [
        ["", "teacher", "student"],
        ["parameters of the encoder", f"{teacher['parameters'] / 1e6:.1f}M", f"{student['parameters'] / 1e6:.1f}M"],
        ["size in float32", *(f"{part['parameters'] * 4 / 1e6:.1f} MB" for part in (teacher, student))],
        [
            f"latency of {results['length']} tokens",
            f"{teacher['milliseconds']:.1f} ms",
            f"{student['milliseconds']:.1f} ms",
        ],
    ]
    for name, value in measured.items():
        place = name.removeprefix("eval_")
        if place.endswith("similarity"):
            what = place.removesuffix("similarity").rstrip("/_").replace("_", " ")
            rows.append([f"cosine, {what}", "1", f"{value:.3f}"])
        elif place == "masked_lm_accuracy":
            of_both = measured["eval_teacher_masked_lm_accuracy"], value
            rows.append(["masked-LM accuracy", *(f"{100 * share:.1f} %" for share in of_both)])
    if "task" in results:
        name, split = TASKS[results["task"]["name"]].name, results["task"]["split"]
        rows.append([f"{name} {split}, Spearman", *(f"{100 * part['task']:.2f}" for part in (teacher, student))])
    return rows


@torch.inference_mode()
def _latency(networks: dict[str, Any], length: int) -> dict[str, float]:
    """Median milliseconds of a forward pass on one text of `length` tokens."""

    def call(network: Any) -> Callable[[], None]:
        ids = torch.full((1, length), 5, device=network.device)

        def run() -> None:
            network(input_ids=ids, attention_mask=torch.ones_like(ids))
            if network.device.type == "cuda":
                torch.cuda.synchronize()

        return run

    times = time_in_turns({name: call(network) for name, network in networks.items()}, TIMED_SECONDS)
    return {name: statistics.median(values) for name, values in times.items()}


def _deployed(student: PreTrainedModel) -> Any:
    """The encoder as it is deployed."""
    foldable = student.config.normalization_type == "no_norm"
    deployed: Any = (fold(student).eval() if foldable else student).base_model.to(student.device)
    deployed.set_attn_implementation("sdpa")  # whatever training used
    return deployed


def _write_card(folder: Path, arguments: Any, objective: str, results: dict[str, Any], rows: Rows) -> None:
    name = f"mobilebert-{arguments.size}-{Path(arguments.teacher).name}"
    local = Path(arguments.teacher).exists()
    data = ModelCardData(
        model_name=name,
        library_name="sentence-transformers" if objective == "pooled" else "transformers",
        pipeline_tag={"pooled": "sentence-similarity", "masked_lm": "fill-mask"}.get(objective, "feature-extraction"),
        base_model=None if local else arguments.teacher,
        tags=["mobilebert", "distillation", "mobilebert-hf"],
        eval_results=_eval_results(name, results),
    )
    text = CARD_TEXT.format(
        metadata=data.to_yaml(),
        name=name,
        teacher=Path(arguments.teacher).name if local else arguments.teacher,
        link="." if local else f"https://huggingface.co/{arguments.teacher}",
        minutes=results["minutes"],
        table=markdown_table(rows),
        length=results["length"],
        usage=USAGE[objective].format(path=folder),
        command=f"accelerate launch recipes/distil_any.py --config {folder}/recipe.yaml",
    )
    write_aside(folder / CARD, text)
    ModelCard.load(folder / CARD)  # raises where the Hub would refuse it


def _eval_results(name: str, results: dict[str, Any]) -> list[EvalResult] | None:
    if "task" not in results:
        return None
    return [
        EvalResult(
            task_type="sentence-similarity",
            dataset_type="nyu-mll/glue",
            dataset_name="STS-B",
            dataset_config="stsb",
            dataset_split=results["task"]["split"],
            metric_type="spearman_cosine",
            metric_value=results["student"]["task"],
        )
    ]
