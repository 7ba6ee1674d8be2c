"""The family's cards are what their sources render to, and say nothing that no run and no paper says."""

import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

CARDS = Path(__file__).parents[1] / "hub_cards"
sys.path.insert(0, str(CARDS))
import render  # noqa: E402

RENDERED = render.cards()


def test_every_member_has_its_card():
    assert {path.name for path in CARDS.glob("*.md")} == set(RENDERED)
    for name in ("ib-bert-large-uncased", "mobilebert-uncased", "mobilebert-tiny-uncased", "mobilebert-uncased-noopt"):
        assert f"{name}.md" in RENDERED
    for task in ("squad", "squad2", "sst2", "mnli"):
        assert {f"mobilebert-uncased-{task}.md", f"mobilebert-uncased-{task}-int8.md"} <= set(RENDERED)


@pytest.mark.parametrize("name", RENDERED)
def test_cards_are_rendered(name):
    assert (CARDS / name).read_text(encoding="utf-8") == RENDERED[name], "run python hub_cards/render.py"


@pytest.mark.parametrize("name", RENDERED)
def test_cards_are_the_hubs(name):
    card = ModelCard.load(CARDS / name)
    data = card.data
    assert data.license
    assert data.library_name
    assert data.pipeline_tag
    assert "@inproceedings{sun-etal-2020-mobilebert" in card.text
    # Metadata are for what runs have measured: a member without weights has no scores there.
    assert "no weights yet" not in card.text.lower() or data.eval_results is None
