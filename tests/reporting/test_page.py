"""The report of real runs, and of what a run's folder may lack."""

import base64
import io
import re
import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilebert_hf.data import PretrainingDataArguments
from mobilebert_hf.distillation import ModelArguments, StudentArguments, distill, pretrain
from mobilebert_hf.reporting import write_report
from mobilebert_hf.reporting.page import format_hours
from mobilebert_hf.runs.facts import ModelRecord, Source
from mobilebert_hf.runs.stages import RunStages
from mobilebert_hf.training import PreTrainingArguments

from ..helpers import mobilebert, paper_arguments, training_arguments
from .helpers import evaluation_line, training_line, write_recipe, write_state

NETWORK = {"num_hidden_layers": 2, "hidden_size": 32, "embedding_size": 16, "max_position_embeddings": 32}
TEACHER = {**NETWORK, "intra_bottleneck_size": 64, "intermediate_size": 64}
STUDENT = {"intra_bottleneck_size": 16, "intermediate_size": 32}
HEADS = {"masked_lm_loss": 5.0, "masked_lm_distillation": 1.0, "next_sentence_loss": 0.7}


class Page(HTMLParser):
    """The words, the tags and what is loaded from elsewhere, of a page."""

    def __init__(self, path):
        super().__init__()
        self.words, self.tags, self.loaded = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "srcset", "href")]

    def handle_data(self, data):
        self.words += data.split()

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_corpus, tiny_tokenizer):
    """A teacher and a student of it, with evaluations and without an even number of steps in a log window."""
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = folder / "tokenizer"
    tiny_tokenizer.save_pretrained(tokenizer)
    data = PretrainingDataArguments(
        [str(tiny_corpus)], max_seq_length=24, validation_fraction=0.1, cache_dir=str(folder / "cache")
    )
    often = {"logging_steps": 3, "eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 5}
    teacher = training_arguments(PreTrainingArguments, folder / "teacher", max_steps=10, **often)
    pretrain(ModelArguments("ib-bert-large", TEACHER, str(tokenizer)), data, teacher)
    steps = {"transfer_steps": 10, "distillation_steps": 10}
    student = paper_arguments(folder / "student", **steps, **often)
    distill(StudentArguments(str(folder / "teacher"), config_overrides=STUDENT), data, student)
    return folder


@pytest.fixture(autouse=True)
def strict():
    """What matplotlib warns of, such as a layout that does not fit or a name without a glyph, is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="mobilebert_hf.reporting")
        yield


def written_run(folder, layers=2, steps=40, evaluations=True):
    """A distillation run of many stages, with or without evaluations, in lines written by hand."""
    stages = layers + 1
    each = steps // stages
    lines = []
    for step in range(2, steps + 1, 2):
        stage = min((step - 1) // each, layers)
        rates = {"tokens_per_second": 100.0 + step, "learning_rate/heads": 0.0}
        rates |= {f"learning_rate/layer_{layer}": 1e-3 * (layer == stage) for layer in range(layers)}
        losses = HEADS if stage == layers else {}
        lines.append(training_line(step, stage, [stage] if stage < layers else [], **rates, **losses))
        if evaluations and step % (each * 2) == 0:
            lines.append(evaluation_line(step, range(layers), value=1.0 / step))
    write_state(folder, lines, total=steps)
    return folder


def test_a_real_distillation_is_drawn_and_told(runs, tmp_path):
    picture, page = write_report(runs / "student", tmp_path / "new" / "folder")
    assert [picture.name, page.name] == ["report.png", "report.html"]
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.png"], "no staging files"
    image = Image.open(picture)
    assert min(image.size) > 900
    assert np.asarray(image.convert("RGB")).std() > 10
    text = Page(page).text
    assert "student: progressive knowledge transfer, 2 layers" in text
    assert "20 of 20 (100%)" in text
    assert "distillation (3 of 3)" in text
    assert "layer 0 1 to 5 1" in text
    assert "layer 1 6 to 10 2" in text
    assert "Held-out text, after 20 steps" in text
    assert re.search(r"masked-LM loss \d\.\d{3} masked-LM accuracy \d+\.\d%", text)
    assert "transfer_steps: 10" in text


def test_a_real_pre_training_is_drawn_into_its_folder_by_the_command(runs, monkeypatch, capsys):
    assert mobilebert(monkeypatch, "report", runs / "teacher") == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert paths == [runs / "teacher" / "report.png", runs / "teacher" / "report.html"]
    text = Page(paths[1]).text
    assert "teacher: pre-training" in text
    assert "pre-training 1 to 10" in text
    assert "next-sentence accuracy" in text


def test_real_runs_say_what_their_models_are(runs):
    teacher, student = (ModelRecord.read(runs / name).facts for name in ("teacher", "student"))
    assert "from scratch" in teacher.summary
    assert student.source == Source("teacher", "teacher")
    assert [row[0] for row in student.results[1:3]] == ["masked-LM loss", "masked-LM accuracy"]
    stages = RunStages.read(runs / "student")
    assert [(stage.name, stage.end) for stage in stages.stages] == [
        ("layer 0", 5),
        ("layer 1", 10),
        ("distillation", 20),
    ]
    assert stages.loss_weights["feature_map"] > 0
    assert RunStages.read(runs / "teacher") is None


def test_a_run_that_goes_on_is_drawn_from_its_checkpoint(runs, tmp_path):
    shutil.copytree(runs / "student" / "checkpoint-15", tmp_path / "checkpoint-15")
    shutil.copy(runs / "student" / "stages.json", tmp_path)
    _, page = write_report(tmp_path)
    text = Page(page).text
    assert "15 of 20 (75%)" in text
    assert "remaining time 1 min" in text
    assert "finished" not in text.replace("not finished", "")


def test_the_page_needs_nothing_from_elsewhere(runs, tmp_path):
    picture, page = write_report(runs / "student", tmp_path)
    page = Page(page)
    assert not {"script", "link", "iframe"} & set(page.tags)
    dark, light = (base64.b64decode(value.removeprefix("data:image/png;base64,")) for value in page.loaded)
    assert light == picture.read_bytes()
    brightness = [np.asarray(Image.open(io.BytesIO(image)).convert("L")).mean() for image in (dark, light)]
    assert brightness[0] < 90 < 180 < brightness[1]


def test_what_the_recipe_says_is_text_and_not_markup(tmp_path):
    write_state(tmp_path, [training_line(step, masked_lm_loss=5.0) for step in (2, 4)], total=4)
    write_recipe(tmp_path, vocab_size="<script>alert(1)</script>")
    page = Page(write_report(tmp_path)[1])
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize(
    ("layers", "steps", "evaluations"),
    [(2, 42, False), (24, 500, True), (24, 60, False)],
    ids=["small", "deep", "narrow-stages"],
)
def test_a_log_alone_is_enough(tmp_path, layers, steps, evaluations):
    picture, page = write_report(written_run(tmp_path, layers, steps, evaluations))
    text = Page(page).text
    assert f"stage {layers}" in text
    assert "Recipe" not in text
    assert ("Held-out" in text) == evaluations
    assert Image.open(picture).size[0] > 1200


def test_the_first_line_of_a_run_is_enough(tmp_path):
    for name, line in {"student": training_line(1, 0, [0]), "teacher": training_line(1, masked_lm_loss=5.0)}.items():
        write_state(tmp_path / name / "checkpoint-1", [line], total=10)
        assert "1 of 10 (10%)" in Page(write_report(tmp_path / name)[1]).text


def test_a_mistake_leaves_the_earlier_report(tmp_path):
    paths = write_report(written_run(tmp_path))
    before = [path.read_bytes() for path in paths]
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        write_report(tmp_path)
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    ("hours", "text"), [(0.001, "1 min"), (0.98, "59 min"), (1.25, "1 h 15 min"), (25.0, "1 d 1 h"), (0.0, "0 min")]
)
def test_durations_are_in_the_units_that_matter(hours, text):
    assert format_hours(hours) == text
