"""Report of a run as one HTML file with embedded plots and without JavaScript."""

import base64
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..files import atomic_write, atomic_write_text
from ..runs.facts import HELD_OUT, PICTURE
from .picture import draw
from .run_log import RunLog, read_run


def draw_report(folder: Path, name: str = PICTURE) -> Path:
    """Writes the plot of a run to its folder, without the HTML page."""
    path = folder / name
    picture = draw(read_run(folder))
    with atomic_write(path) as staging:
        staging.write_bytes(picture)
    return path


def write_report(folder: str | Path, output: str | Path | None = None) -> tuple[Path, Path]:
    """Writes the report of a finished or running pre-training or distillation.

    Args:
        folder: `output_dir` of the run.
        output: Output folder; created if it does not exist. The run folder by default.

    Returns:
        The paths of `report.png` and `report.html`.

    Raises:
        FileNotFoundError: The folder is not a run folder.
        ValueError: A file is damaged, or nothing has been logged yet.
    """
    run = read_run(folder)
    output = Path(output) if output is not None else Path(folder)
    output.mkdir(parents=True, exist_ok=True)
    picture = draw(run)
    paths = output / PICTURE, output / "report.html"
    with atomic_write(paths[0]) as staging:
        staging.write_bytes(picture)
    atomic_write_text(paths[1], render(run, picture, draw(run, dark=True)))
    return paths


def render(run: RunLog, picture: bytes, dark_picture: bytes) -> str:
    """Renders the HTML page of a run.

    Args:
        run: The run.
        picture: PNG file for the light theme.
        dark_picture: PNG file for the dark theme.
    """
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=run.title,
        facts=_summarize(run),
        held_out=_held_out(run),
        stages=[_stage_row(run, index) for index in range(len(run.stages))],
        picture=base64.b64encode(picture).decode(),
        dark_picture=base64.b64encode(dark_picture).decode(),
        recipe=run.recipe,
    )


def _summarize(run: RunLog) -> dict[str, str]:
    """Returns name and value of the facts about the whole run."""
    last = run.training[-1]
    facts = {"steps": f"{run.step:,} of {run.total_steps:,} ({run.step / run.total_steps:.0%})"}
    if run.is_distillation:
        stages = f" of {run.total_stages}" if run.total_stages else ""
        facts["stage"] = f"{run.stages[-1].name} ({len(run.stages)}{stages})"
    if run.finished:
        facts["state"] = "finished"
    else:
        facts["state"] = "not finished; shows the newest checkpoint"
        if "hours_left" in last:
            facts["remaining time"] = format_hours(last["hours_left"])
    facts["training loss"] = f"{last['loss']:.4g}"
    return facts


def _held_out(run: RunLog) -> dict[str, Any]:
    """Returns step and metrics of the newest evaluation."""
    if not run.evaluations:
        return {}
    line = run.evaluations[-1]
    values = {name: form.format(line[key]) for key, (name, form) in HELD_OUT.items() if key in line}
    return {"step": f"{line['step']:,.0f}", "values": values}


def _stage_row(run: RunLog, index: int) -> dict[str, str]:
    """Returns a row of the table of stages. Losses and speed come from log lines within this stage, if any."""
    stage = run.stages[index]
    lines = run.lines_within(stage)
    speeds = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return {
        "name": stage.name,
        "steps": f"{stage.start + 1:,} to {stage.end:,}",
        "depth": str(stage.depth) if stage.depth else "",
        "first": f"{lines[0]['loss']:.4g}" if lines else "",
        "last": f"{lines[-1]['loss']:.4g}" if lines else "",
        "speed": f"{fmean(speeds):,.0f}" if speeds else "",
    }


def format_hours(hours: float) -> str:
    """Formats a duration in its two largest units: "3 d 4 h", "3 h 20 min", "4 min"."""
    minutes = math.ceil(60 * hours)
    days, minutes = divmod(minutes, 24 * 60)
    if days:
        return f"{days} d {minutes // 60} h"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
