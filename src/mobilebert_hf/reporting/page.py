"""The report of a run: a picture, and a page that carries it and needs nothing else."""

import base64
from pathlib import Path
from typing import Any

import jinja2
import yaml

from .picture import draw
from .run_log import RunLog, read_run


def write_report(folder: str | Path, output: str | Path | None = None) -> tuple[Path, Path]:
    """Draws a run into `report.png` and `report.html`, each written whole or not at all.

    Args:
        folder: The run's.
        output: Where both go; the run's folder by default.

    Returns:
        The paths of the picture and the page.

    Raises:
        FileNotFoundError: The folder is no run, or has no checkpoint yet.
        ValueError: The run has logged nothing yet.
    """
    run = read_run(folder)
    target = Path(output or folder)
    target.mkdir(parents=True, exist_ok=True)
    picture, page = target / "report.png", target / "report.html"
    aside = target / ".report.part.png"
    draw(run, aside)
    aside.replace(picture)
    aside = target / ".report.part.html"
    aside.write_text(render(run, picture.read_bytes()), encoding="utf-8")
    aside.replace(page)
    return picture, page


def render(run: RunLog, picture: bytes) -> str:
    """The page, as HTML; `picture` is a PNG."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        run=run,
        facts=_facts(run),
        stages=_stages(run),
        recipe=yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True),
        picture=base64.b64encode(picture).decode(),
    )


def _facts(run: RunLog) -> dict[str, str]:
    """What one wants to know first."""
    last = run.training[-1]
    facts = {"steps": f"{run.steps_done:,} of {run.max_steps:,}"}
    if run.strategy and run.steps_done < run.max_steps:
        facts["stage"] = run.strategy.position(run.steps_done).stage.name
    if run.steps_done < run.max_steps:
        facts["time left"] = f"{last['hours_left']:.1f} h"
    facts["speed"] = f"{last['tokens_per_second']:,.0f} tokens/s"
    facts["loss"] = f"{last['loss']:.4g}"
    measured = run.results or (run.evaluations[-1] if run.evaluations else {})
    for key, name in (("masked_lm", "masked LM"), ("next_sentence", "next sentence")):
        if f"eval_{key}_accuracy" in measured:
            loss, accuracy = measured[f"eval_{key}_loss"], measured[f"eval_{key}_accuracy"]
            facts[f"{name}, held out"] = f"loss {loss:.3f}, accuracy {accuracy:.1%}"
    return facts


def _stages(run: RunLog) -> list[dict[str, Any]]:
    """A row for each stage that has begun, with its first and last logged loss."""
    if run.strategy is None:
        return []
    rows = []
    for index, (stage, start) in enumerate(zip(run.strategy.stages, run.strategy.boundaries, strict=True)):
        lines = [line for line in run.training if line["stage"] == index]
        if lines:
            speed = sum(line["tokens_per_second"] for line in lines) / len(lines)
            rows.append(
                {
                    "name": stage.name,
                    "steps": f"{start + 1:,} to {start + stage.steps:,}",
                    "depth": stage.depth,
                    "first": f"{lines[0]['loss']:.4g}",
                    "last": f"{lines[-1]['loss']:.4g}",
                    "speed": f"{speed:,.0f}",
                }
            )
    return rows
