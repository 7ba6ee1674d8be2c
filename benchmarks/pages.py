"""Writes the tables of recorded runs into the pages that show them.

    python benchmarks/pages.py

A table is between `<!-- name -->` and `<!-- /name -->`. A test fails where a page and its data differ.
"""

import json
import re
from pathlib import Path

import accuracy
import data
import deployment
import distillation
import finetuning
import processors
import strategies
import training_steps
import trimming
from mobilebert_hf.demo.report import Result, table_rows
from mobilebert_hf.deployment.benchmark import report
from mobilebert_hf.deployment.benchmark.run import RUNTIMES
from mobilebert_hf.files import atomic_write_text
from mobilebert_hf.tables import Rows, markdown_table

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "recipes" / "README.md", ROOT / "benchmarks" / "deployment" / "README.md"]
DEMO = ROOT / "benchmarks" / "demo" / "results.json"
STUDENTS = {
    "distillation": distillation,
    "strategies": strategies,
    "finetuning": finetuning,
    "accuracy": accuracy,
    "processors": processors,
    "training-steps": training_steps,
    "trimming": trimming,
}
TABLE = re.compile(r"<!-- (?P<name>[\w-]+) -->\n(?:.*\n)?<!-- /(?P=name) -->", re.DOTALL)


def tables() -> dict[str, str]:
    """Every table in Markdown, by its name."""
    speeds = json.loads(deployment.RESULTS.read_text(encoding="utf-8"))
    rows: dict[str, Rows] = {
        "demo": table_rows([Result(**row) for row in json.loads(DEMO.read_text(encoding="utf-8"))]),
        "speed": report.summary_cells(speeds, 1, 128),
        "mixed": report.mixed_cells(speeds),
        "limits": deployment.limit_cells(speeds),
    }
    for runtime in deployment.PROFILES:
        for precision in ("float32", "int8"):
            rows[f"{runtime}-{precision}"] = deployment.detail_cells(speeds, RUNTIMES[runtime], precision)
    for name, module in STUDENTS.items():
        rows[name] = module.cells(json.loads(module.RESULTS.read_text(encoding="utf-8")))
    found = {name: markdown_table(table) for name, table in rows.items()}
    return {**found, "data": data.markdown(json.loads(data.RESULTS.read_text(encoding="utf-8")))}


def fill(page: str, tables: dict[str, str]) -> str:
    """A page with its tables as they should be.

    Raises:
        KeyError: The page has a place for a table that is not there.
    """
    return TABLE.sub(
        lambda place: f"<!-- {place['name']} -->\n{tables[place['name']]}\n<!-- /{place['name']} -->", page
    )


if __name__ == "__main__":
    found = tables()
    for page in PAGES:
        atomic_write_text(page, fill(page.read_text(encoding="utf-8"), found))
        print(page)
