"""What the README says must be what a run wrote, and what the package has."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

import accuracy
import any_teacher
import data
import distillation
import finetuning
import strategies
from mobilebert_hf import PRESETS
from mobilebert_hf.demo.report import Result, table_rows
from mobilebert_hf.deployment.benchmark import report
from mobilebert_hf.deployment.benchmark.run import DETAILS, RUNTIMES
from mobilebert_hf.tables import markdown_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
SPEED = (ROOT / "benchmarks" / "deployment" / "README.md").read_text(encoding="utf-8")


def test_the_demo_table_is_the_recorded_run():
    rows = json.loads((ROOT / "benchmarks" / "demo" / "results.json").read_text(encoding="utf-8"))
    shown = re.search(r"<!-- demo -->\n(.*)\n<!-- /demo -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == markdown_table(table_rows([Result(**row) for row in rows]))


def test_the_costs_are_those_of_the_recorded_benchmark():
    results = json.loads(distillation.RESULTS.read_text(encoding="utf-8"))
    shown = re.search(r"<!-- distillation -->\n(.*)\n<!-- /distillation -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == markdown_table(distillation.cells(results))


def test_the_data_rates_are_those_of_the_recorded_benchmark():
    results = json.loads(data.RESULTS.read_text(encoding="utf-8"))
    assert f"<!-- data -->\n{data.markdown(results)}\n<!-- /data -->" in README


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("speed", lambda results: report.summary_cells(results, 1, 128)),
        ("mixed", report.mixed_cells),
        ("limits", report.limit_cells),
        *(
            (f"{runtime}-{precision}", partial(report.detail_cells, runtime=RUNTIMES[runtime], precision=precision))
            for runtime in DETAILS
            for precision in ("float32", "int8")
        ),
    ],
)
def test_the_speeds_are_those_of_the_recorded_benchmark(name, cells):
    results = json.loads((ROOT / "benchmarks" / "deployment" / "results.json").read_text(encoding="utf-8"))
    shown = re.search(rf"<!-- {name} -->\n(.*)\n<!-- /{name} -->", README + SPEED, re.DOTALL)
    assert shown is not None
    assert shown[1] == markdown_table(cells(results))


@pytest.mark.parametrize(
    ("name", "module"),
    [("any-teacher", any_teacher), ("strategies", strategies), ("finetuning", finetuning), ("accuracy", accuracy)],
)
def test_the_students_are_those_of_the_recorded_runs(name, module):
    results = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    shown = re.search(rf"<!-- {name} -->\n(.*)\n<!-- /{name} -->", README + RECIPES, re.DOTALL)
    assert shown is not None
    assert shown[1] == markdown_table(module.cells(results))


def test_every_preset_is_listed():
    assert all(f"| `{name}` |" in README for name in PRESETS)


def test_links_lead_to_files():
    for page in (ROOT / "README.md", ROOT / "recipes" / "README.md", ROOT / "benchmarks" / "deployment" / "README.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
