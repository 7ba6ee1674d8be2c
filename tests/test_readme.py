"""What the README says must be what a run wrote, and what the package has."""

import re
from pathlib import Path

import pytest

import pages
from mobilebert_hf import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_table_is_that_of_the_recorded_run():
    tables = pages.tables()
    shown = []
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        assert text == pages.fill(text, tables), f"run benchmarks/pages.py: {page} is not what runs have left"
        shown += [place["name"] for place in pages.TABLE.finditer(text)]
    assert sorted(shown) == sorted(tables)


def test_a_place_without_a_table_is_an_error():
    assert pages.fill("<!-- a -->\n<!-- /a -->", {"a": "| 1 |"}) == "<!-- a -->\n| 1 |\n<!-- /a -->"
    with pytest.raises(KeyError, match="b"):
        pages.fill("<!-- b -->\nold\n<!-- /b -->", {"a": "| 1 |"})


def test_every_preset_is_listed():
    assert all(f"| `{name}` |" in README for name in PRESETS)


def test_links_lead_to_files():
    for page in pages.PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
