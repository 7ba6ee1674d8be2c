"""Renders the cards of the family from members.yaml and from what runs have left, by the template of all cards.

    python hub_cards/render.py

A test fails where a card and what it is made of differ.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from mobilebert_hf import models
from mobilebert_hf.deployment.benchmark.report import summary_cells
from mobilebert_hf.deployment.formats import FORMATS
from mobilebert_hf.distillation.shapes import count_parameters
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.hub.card import CardData, render_card
from mobilebert_hf.hub.remote_code import MODULES
from mobilebert_hf.hub.run_card import build_card, describe_shape
from mobilebert_hf.hub.uses import uses_of
from mobilebert_hf.runs.facts import PICTURE, ModelRecord, Source
from mobilebert_hf.runs.run_folder import RECIPE
from mobilebert_hf.tasks.heads import find_task

HERE = Path(__file__).parent
SPEED = HERE.parent / "benchmarks" / "deployment" / "results.json"
NOT_YET = (
    "**There are no weights yet.** This card is what will be published with them: no model of this size has been "
    "trained by this project, and no number here is of one."
)
NOT_HERE = (
    "**The weights are not on the Hub yet**; the run that this card is about made them, and its command makes them "
    "again."
)
PAPERS = "These are the paper's numbers, of its authors' weights; ours will stand beside them."


def card_of(name: str, member: dict[str, Any], organization: str, *, int8: bool = False) -> CardData:
    """What the card of a member says, or that of its export in 8 bits."""
    teacher = member["preset"].startswith("ib-bert")
    config = (models.IBBertConfig if teacher else models.MobileBertConfig).from_preset(member["preset"])
    task = find_task(member["head"])
    repo = f"{organization}/{name}"
    base = name.removesuffix("-int8") if int8 else member.get("base_model")
    files = {FORMATS["onnx"].FILES[kind] for kind in ((None, "int8", "int8-static") if int8 else (None, "int8"))}
    export = f"mobilebert-hf export {organization}/{base} {name} --format onnx --quantize int8"
    results = json.loads(SPEED.read_text(encoding="utf-8"))
    # "mobilebert-hf 0.1.0, commit ..." of each runtime's rows.
    versions = "; ".join(dict.fromkeys(row["version"] for row in results["rows"]))
    return CardData(
        name=name,
        summary=f"{member['summary'].strip()}\n\n{NOT_YET}\n\n{describe_size(config)}",
        training=f"Exported from `{organization}/{base}`, weights and products in 8 bits."
        if int8
        else member["training"],
        pipeline_tag=task.name,
        license="apache-2.0",
        language="en",
        base_model=f"{organization}/{base}" if base else None,
        datasets=member["datasets"],
        tags=[config.model_type, *(["int8", "onnx"] if int8 else [])],
        rows=[["", "the paper's"], *([what, str(value)] for what, value in member.get("paper", {}).items())]
        if "paper" in member and not int8
        else [],
        rows_note=PAPERS,
        uses=uses_of(repo, task, () if teacher else files, remote_code=config.model_type in MODULES),
        command=export if int8 else member["command"].strip(),
        speed=summary_cells(results, 1, 128) if member.get("speed") else [],
        speed_note=(
            f"One text of 128 tokens on {results['threads']} threads of an {results['machine']['cpu']}, medians, "
            f"random weights of this size; by `mobilebert-hf benchmark`, {versions}."
        ),
    )


def card_of_run(name: str, student: dict[str, Any], organization: str) -> CardData:
    """What the card of a student says that was trained here."""
    folder = HERE.parent / student["run"]
    record = ModelRecord.read(folder)
    source = Source.of("teacher", student["teacher"])
    record = replace(
        record,
        facts=replace(record.facts, source=source),
        arguments={**record.arguments, "teacher": student["teacher"]},
    )
    files = {"modules.json", RECIPE, *(FORMATS["onnx"].FILES[kind] for kind in (None, "int8"))}
    picture = f"../{student['run']}/{PICTURE}"
    card = build_card(record, f"{organization}/{name}", files, picture=picture, **student["fields"])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return replace(
        card,
        summary=f"{card.summary}\n\n{NOT_HERE}",
        speed=graph_rows(results),
        speed_note=(
            f"One text of 128 tokens in ONNX Runtime on {results['threads']} threads of an "
            f"{results['machine']['cpu']}, medians, in turns. In 8 bits the teacher is quantized dynamically, the "
            f"student statically. By `benchmarks/distillation.py`, {results['machine']['version']}."
        ),
    )


def graph_rows(results: dict[str, Any]) -> list[list[str]]:
    """Size, latency and score of teacher's and student's graphs."""
    rows = [["", "file", "latency", f"STS-B {results['task']['split']}, Spearman"]]
    for name, graph in results["graphs"].items():
        size, latency = f"{graph['bytes'] / 1e6:.1f} MB", f"{graph['milliseconds']:.1f} ms"
        rows.append([name, size, latency, f"{100 * graph['task']:.2f}"])
    return rows


def describe_size(config: models.MobileBertConfig) -> str:
    """The parameters of the encoder, counted, and its shape."""
    family = models.IBBertModel if config.model_type == "ib_bert" else models.MobileBertModel
    with torch.device("meta"):
        count = count_parameters(family(config, add_pooling_layer=False))
    return f"{count / 1e6:.1f} M parameters with the embeddings; {describe_shape(config.to_dict())}"


def cards() -> dict[str, str]:
    """Every card by its file's name."""
    family = yaml.safe_load((HERE / "members.yaml").read_text(encoding="utf-8"))
    rendered = {}
    organization = family["organization"]
    for name, student in family["trained"].items():
        rendered[f"{name}.md"] = render_card(card_of_run(name, student, organization)) + "\n"
    for name, member in family["members"].items():
        rendered[f"{name}.md"] = render_card(card_of(name, member, organization)) + "\n"
        if member.get("int8"):
            card = card_of(f"{name}-int8", member, organization, int8=True)
            rendered[f"{name}-int8.md"] = render_card(card) + "\n"
    return rendered


if __name__ == "__main__":
    for name, text in cards().items():
        atomic_write_text(HERE / name, text)
        print(HERE / name)
