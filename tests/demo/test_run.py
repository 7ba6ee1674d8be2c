"""The demo, with few steps here and as it is under the marker `slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoModelForSequenceClassification

from mobilebert_hf.demo.run import DemoSettings, run_demo

ROWS = ("teacher", "student", "student-alone")


def test_a_short_demo_leaves_table_picture_and_models(tmp_path, capsys):
    settings = DemoSettings(400, teacher_steps=10, transfer_steps=20, distillation_steps=10, task_size=100)
    results = run_demo(tmp_path, settings)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["name"] for row in rows] == list(ROWS)
    assert [row["steps"] for row in rows] == [10, 30, 30]
    assert [vars(result) for result in results] == rows
    for row in rows:
        folder = tmp_path / f"{row['name']}-textbooks"
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.num_parameters() == row["parameters"]
        assert row["bytes_on_disk"] == (folder / "model.safetensors").stat().st_size
        assert row["masked_lm_accuracy"] > 0
        assert row["task_accuracy"] > 0
        assert row["latency_ms"] > 0
    assert rows[1]["parameters"] == rows[2]["parameters"] < rows[0]["parameters"]
    assert min(Image.open(tmp_path / "losses.png").size) > 400
    assert "MLM acc." in (tmp_path / "results.txt").read_text()
    assert "is from the book on" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_demo_as_it_is_shows_that_transfer_helps(tmp_path):
    command = Path(sys.executable).with_name("mobilebert-hf")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([command, "demo", "--output", tmp_path], check=True, timeout=3000, env=environment)
    _, student, alone = json.loads((tmp_path / "results.json").read_text())
    assert student["steps"] == alone["steps"]
    assert student["masked_lm_accuracy"] > alone["masked_lm_accuracy"]
    assert student["task_accuracy"] > alone["task_accuracy"]
