"""Publishing by the real client to a server on this machine, and loading from there without this package."""

import json
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
import transformers
import yaml
from huggingface_hub import HfApi, ModelCard
from transformers import AutoConfig, AutoModel, AutoTokenizer

from mobilebert_hf.deployment import export
from mobilebert_hf.distillation import DistillationArguments, DistillationTrainer
from mobilebert_hf.distillation.pretrain import RECIPE_ARGUMENTS, pretrain
from mobilebert_hf.finetuning.facts import describe_squad_model
from mobilebert_hf.hub import prepare_publication, publish
from mobilebert_hf.recipe import parse_recipe

from ..data.helpers import write_corpus
from ..deployment.helpers import save
from ..helpers import mobilebert, training_arguments
from ..models.helpers import build, run
from ..workshop import Workshop
from .hub_server import HubServer

WRITER, READER = "hf_writer", "hf_reader"
CONTEXT = "The river is long and the mountain is old."


@pytest.fixture
def hub():
    with HubServer({WRITER: ["org"], READER: []}) as server:
        yield server


@pytest.fixture
def online(monkeypatch):
    """This process' client has a token, and uses the network also where the tests run offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", WRITER)


@pytest.fixture
def here(hub, online, monkeypatch):
    """This process' client talks to the server, as the writer."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return hub


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    """A student for question answering, with files that are not part of the model."""
    folder = tmp_path_factory.mktemp("published") / "squad"
    save(folder, tiny_tokenizer)
    (folder / "checkpoint-5").mkdir()
    for name in ("checkpoint-5/model.safetensors", "training_args.bin", "optimizer.pt", ".lock"):
        (folder / name).write_bytes(b"no")
    (folder / "recipe.yaml").write_text(
        "# EncoderArguments, SquadArguments, TrainingArguments\n# mobilebert-hf 0.1.0, commit abc\n"
        "model: org/mobilebert\nvalidation: dev-v1.1.json\n"
    )
    measured = {"eval_exact_match": 61.5, "eval_f1": 72.25}
    (folder / "eval_results.json").write_text(json.dumps(measured))
    describe_squad_model("org/mobilebert", "train-v1.1.json", "dev-v1.1.json", measured).write(folder)
    return folder


def elsewhere(hub, home, script, *words, token=""):
    """Runs a script in a process of the server's users, who do not have this package."""
    environment = hub.environment(home, token)
    script = "import sys; sys.modules['mobilebert_hf'] = None\n" + script
    return subprocess.run([sys.executable, "-c", script, *words], env=environment, capture_output=True, text=True)


LOAD = """
import json, transformers, torch
from huggingface_hub import hf_hub_download
import onnxruntime
model = transformers.AutoModelForQuestionAnswering.from_pretrained("org/squad")
assert type(model).__module__ == "transformers.models.mobilebert.modeling_mobilebert"
tokenizer = transformers.AutoTokenizer.from_pretrained("org/squad")
inputs = tokenizer("Which river is long?", sys.argv[1], return_tensors="np")
session = onnxruntime.InferenceSession(hf_hub_download("org/squad", "onnx/model_quantized.onnx"))
session.run(None, dict(inputs))
with torch.inference_mode():
    start = model(**{name: torch.tensor(value) for name, value in inputs.items()}).start_logits
answerer = transformers.pipeline("question-answering", model="org/squad", trust_remote_code=True)
print(json.dumps([start.tolist(), answerer(question="Which river is long?", context=sys.argv[1])]))
"""


def test_a_student_loads_with_transformers_alone(here, folder, exported, tmp_path, monkeypatch, capsys):
    words = ["publish", folder, "--repo", "org/squad", "--exports", exported("onnx", "int8")]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert mobilebert(monkeypatch, *words, "--license", "apache-2.0", "--language", "en") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{here.url}/org/squad/commit/")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    files = here.files("org/squad")
    assert set(files) == {
        ".eval_results/squad.yaml",
        ".gitattributes",
        "README.md",
        "config.json",
        "eval_results.json",
        "export.json",
        "facts.json",
        "model.safetensors",
        "onnx/model_quantized.onnx",
        "question_answering.py",
        "recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    loaded = elsewhere(here, tmp_path / "reader", LOAD, CONTEXT)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    start, answer = json.loads(loaded.stdout)
    model = build_of(folder)
    inputs = AutoTokenizer.from_pretrained(folder)("Which river is long?", CONTEXT, return_tensors="pt")
    torch.testing.assert_close(torch.tensor(start), run(model, **inputs).start_logits, rtol=1e-4, atol=1e-5)
    assert answer["answer"] == CONTEXT[answer["start"] : answer["end"]]


def build_of(folder):
    from transformers import AutoModelForQuestionAnswering

    return AutoModelForQuestionAnswering.from_pretrained(folder).eval()


def test_card_and_scores_are_the_runs(folder):
    with prepare_publication(folder, "org/squad", license="mit") as publication:
        card = ModelCard.load(publication.files["README.md"])
        [entry, _] = yaml.safe_load(publication.files[".eval_results/squad.yaml"].read_text())
        tokenizer = json.loads(publication.files["tokenizer_config.json"].read_text())
    assert "token_type_ids" in tokenizer["model_input_names"]
    assert tokenizer["model_max_length"] == 64
    assert entry["dataset"] == {"id": "rajpurkar/squad", "task_id": "default"}
    assert entry["value"] == 61.5
    assert (card.data.license, card.data.base_model) == ("mit", "org/mobilebert")
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        ("exact_match", 61.5),
        ("f1", 72.25),
    ]
    assert 'pipeline("question-answering", "org/squad", trust_remote_code=True)' in card.text
    assert "onnx" not in card.text.lower()


def test_an_edited_card_stays(folder, tmp_path):
    card = folder / "README.md"
    card.write_text("---\nlicense: mit\n---\nMine.\n")
    try:
        with prepare_publication(folder, "org/squad") as publication:
            assert publication.files["README.md"].read_text() == card.read_text()
    finally:
        card.unlink()


TEACHER = """
import json, torch, transformers
kind = getattr(transformers, sys.argv[1])
try:
    kind.from_pretrained("org/teacher", trust_remote_code=False)
except ValueError as error:
    print("trust_remote_code" in str(error))
model = kind.from_pretrained("org/teacher", trust_remote_code=True).eval()
with torch.inference_mode():
    print(json.dumps([x.tolist() for x in model(input_ids=torch.arange(3, 15)[None]).values()]))
"""


@pytest.mark.parametrize(
    "head",
    [
        *(pytest.param(head, marks=pytest.mark.slow) for head in ("Model", "ForSequenceClassification")),
        "ForPreTraining",
    ],
)
def test_a_teacher_loads_with_its_code(head, here, tmp_path):
    model = build("IBBert", head)
    model.save_pretrained(tmp_path / "teacher")
    with prepare_publication(tmp_path / "teacher", "org/teacher") as publication:
        assert "modeling_ib_bert.py" in publication.files
        publish(publication)
    auto_class = "AutoModel" if head == "Model" else f"AutoModel{head}"
    loaded = elsewhere(here, tmp_path / "reader", TEACHER, auto_class)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    refused, values = loaded.stdout.splitlines()
    assert refused == "True"
    expected = run(model, input_ids=torch.arange(3, 15)[None])
    for found, value in zip(json.loads(values), expected.values(), strict=True):
        torch.testing.assert_close(torch.tensor(found), value, rtol=1e-4, atol=1e-5)


def test_versions_are_pinned(here, folder, tiny_tokenizer, tmp_path):
    with prepare_publication(folder, "org/squad") as publication:
        first = publish(publication).oid
    save(tmp_path / "second", tiny_tokenizer, initializer_range=0.5)
    with prepare_publication(tmp_path / "second", "org/squad") as publication:
        publish(publication, update=True)
        with pytest.raises(FileExistsError, match=r"org/squad already contains a model\. Choose another name, or use"):
            publish(publication)
    save(tmp_path / "third", tiny_tokenizer, initializer_range=0.9)
    with prepare_publication(tmp_path / "third", "org/squad") as publication:
        publish(publication, update=True, revision="next")
    weights = {}
    for revision in ("main", "next", first):
        model = AutoModel.from_pretrained("org/squad", revision=revision, cache_dir=tmp_path / "cache")
        weights[revision] = model.embeddings.word_embeddings.weight[1, 0].item()
    assert len(set(weights.values())) == 3
    expected = build_of(folder).mobilebert.embeddings.word_embeddings.weight[1, 0].item()
    assert weights[first] == pytest.approx(expected)


def test_private_stays_private(here, folder, tmp_path, monkeypatch):
    with prepare_publication(folder, "org/private") as publication:
        publish(publication, private=True)
    assert AutoConfig.from_pretrained("org/private", cache_dir=tmp_path / "writer").hidden_size == 32
    for token in ("", READER):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(OSError, match="org/private"):
            AutoConfig.from_pretrained("org/private", cache_dir=tmp_path / f"home{token}")


def test_an_upload_that_was_interrupted_is_repeated(here, folder):
    here.fail_uploads = 100
    with prepare_publication(folder, "org/squad") as publication:
        with pytest.raises((OSError, RuntimeError)):
            publish(publication)
        assert list(here.files("org/squad")) == [".gitattributes"]
        here.fail_uploads = 0
        publish(publication)
        assert "model.safetensors" in here.files("org/squad")
        uploads = [path for method, path in here.requests if method == "PUT"]
        publish(publication, update=True)  # again, with nothing to upload
        assert [path for method, path in here.requests if method == "PUT"] == uploads


@pytest.mark.parametrize(
    ("token", "repo", "error", "message"),
    [
        ("", "org/squad", PermissionError, "No Hub token found. Run `hf auth login`, or set HF_TOKEN"),
        ("hf_unknown", "org/squad", PermissionError, "The Hub token is invalid"),
        (READER, "org/squad", PermissionError, "The Hub token has no write access to org/squad"),
        (WRITER, "others/squad", PermissionError, "The Hub token has no write access to others/squad"),
    ],
)
def test_who_may_not_publish_is_told(token, repo, error, message, here, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    with prepare_publication(folder, repo) as publication, pytest.raises(error, match=message):
        publish(publication)
    assert not here.repositories


def test_no_network_is_told(folder, online, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with (
        prepare_publication(folder, "org/squad") as publication,
        pytest.raises(ConnectionError, match="cannot be reached"),
    ):
        publish(publication)


def test_dry_run_lists_the_files(here, folder, capsys):
    from mobilebert_hf_cli import app

    with pytest.raises(SystemExit) as ended:
        app(["publish", str(folder), "--repo", "org/squad", "--dry-run"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed
    assert "checkpoint" not in printed
    assert here.requests == []


@pytest.mark.usefixtures("instant_exports")
def test_what_is_no_model_is_refused(folder, tiny_tokenizer, tmp_path):
    def refuse(error, message, source, repo="org/squad", exports=None):
        with pytest.raises(error, match=message), prepare_publication(source, repo, exports):
            pass

    (tmp_path / "empty").mkdir()
    refuse(FileNotFoundError, r"is not a model folder: it has no config\.json", tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"pickle")
    refuse(FileNotFoundError, "has no safetensors weights", tmp_path / "empty")
    refuse(ValueError, "Repo id must", folder, repo="org/squad/again")
    refuse(ValueError, "repo='squad': expected organization/name", folder, repo="squad")
    refuse(ValueError, "is not an export", folder, exports=tmp_path / "empty")
    save(tmp_path / "other", tiny_tokenizer, num_hidden_layers=1)
    export(tmp_path / "other", tmp_path / "exported")
    refuse(
        ValueError,
        r"with other weights or another configuration than .*\. Export this model",
        folder,
        exports=tmp_path / "exported",
    )
    (tmp_path / "exported" / "onnx" / "model.onnx").unlink()
    lacks = r"exported: onnx/model\.onnx is missing\. Export it again"
    refuse(FileNotFoundError, lacks, tmp_path / "other", exports=tmp_path / "exported")


@pytest.fixture
def workshop(here, tiny_tokenizer, tmp_path):
    """Recipes on a small corpus, by users who may write to the server."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return Workshop(tmp_path, write_corpus(tmp_path / "corpus.txt", documents=20))


def pretrain_and_push(workshop, **options):
    values = workshop.pretraining(
        tokenizer=str(workshop.folder / "tokenizer"), push_to_hub=True, hub_model_id="org/teacher", **options
    )
    pretrain(*parse_recipe(RECIPE_ARGUMENTS, ["--config", str(workshop.write("pretrain", **values))]))


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [("every_save", []), pytest.param("checkpoint", ["last-checkpoint"], marks=pytest.mark.slow)],
)
def test_a_recipe_publishes_while_it_trains_and_at_its_end(strategy, kept, here, workshop, tmp_path, caplog):
    pretrain_and_push(workshop, save_steps=2, hub_strategy=strategy, hub_always_push=True)
    assert "was not uploaded" not in caplog.text
    files = here.files("org/teacher")
    assert {"README.md", "config.json", "modeling_ib_bert.py", "model.safetensors", "recipe.yaml"} <= set(files)
    assert sorted({name.split("/")[0] for name in files if "checkpoint" in name}) == kept
    at_root = {name: content for name, content in files.items() if "/" not in name}
    assert not any(name.endswith((".bin", ".lock")) for name in at_root)
    assert str(tmp_path).encode() not in b"".join(at_root.values())
    # Of steps 2 and 4 and of the end, besides the empty one.
    assert sum("config.json" in files for _, files in here.repositories["org/teacher"].commits) >= 3


def test_a_checkpoint_that_is_not_uploaded_is_told_of(here, workshop, caplog):
    here.fail_uploads = 1
    pretrain_and_push(workshop, save_steps=3)
    assert "A checkpoint was not uploaded (" in caplog.text
    assert "model.safetensors" in here.files("org/teacher")


def test_the_trainer_publishes_with_its_card(here, tmp_path):
    ids, ones = torch.arange(5, 15), torch.ones(10, dtype=torch.long)
    row = {"input_ids": ids, "attention_mask": ones, "token_type_ids": 0 * ones, "labels": ids}
    arguments = training_arguments(
        DistillationArguments,
        tmp_path / "student",
        transfer_steps=3,
        distillation_steps=1,
        strategy="progressive",
        hub_model_id="org/student",
        report_to="none",
    )
    trainer = DistillationTrainer(
        build("MobileBert", "ForPreTraining"),
        build("IBBert", "ForPreTraining"),
        arguments,
        train_dataset=[{**row, "next_sentence_label": torch.tensor(0)}] * 16,
    )
    trainer.train()
    assert "/commit/" in trainer.push_to_hub(license="apache-2.0", language="de").commit_url
    files = here.files("org/student")
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.language) == ("apache-2.0", "de")
    assert "by progressive knowledge transfer" in card.text
    assert HfApi().model_info("org/student").sha


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"license": "Apache 2.0"}, "license='Apache 2.0' is no identifier of the Hub: use apache-2.0"),
        ({"license": "nonsense"}, "use an identifier such as apache-2.0 or mit, or other"),
        ({"language": "English"}, "language='English' is no code of ISO 639"),
        ({"language": "en,de"}, "or multilingual for several"),
        ({"language": "xx"}, "language='xx' is no code"),
        ({"language": "xx-yy"}, "language='xx-yy' is no code"),
    ],
)
def test_names_that_the_hub_does_not_take_are_refused_before_the_upload(folder, fields, message):
    with pytest.raises(ValueError, match=message), prepare_publication(folder, "org/squad", **fields):
        pass


@pytest.mark.parametrize("language", ["de", "yue", "multilingual"])
def test_codes_of_languages_are_taken(folder, language):
    with prepare_publication(folder, "org/squad", language=language, license="cc-by-4.0") as publication:
        assert ModelCard.load(publication.files["README.md"]).data.language == language


@pytest.mark.parametrize("text", ["token: hf_" + "a1B2" * 9, "see {folder}/train.txt"])
def test_tokens_and_local_paths_are_not_uploaded(folder, tmp_path, text):
    copy = tmp_path / "squad.v1"  # a dot in a folder's name
    shutil.copytree(folder, copy)
    with prepare_publication(copy, "org/squad") as publication:
        assert "README.md" in publication.files
    (copy / "README.md").write_text("---\nlicense: mit\n---\n\n" + text.format(folder=copy.resolve()) + "\n")
    with pytest.raises(ValueError, match=r"README\.md, line 5 has") as raised, prepare_publication(copy, "org/squad"):
        pass
    assert "a1B2" not in str(raised.value)


@pytest.mark.parametrize("architectures", [None, [], "absent"])
def test_a_model_that_does_not_say_its_class_is_published(folder, tmp_path, architectures):
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = {**json.loads(path.read_text()), "architectures": architectures}
    if architectures == "absent":
        del config["architectures"]
    path.write_text(json.dumps(config))
    with prepare_publication(tmp_path / "model", "org/encoder") as publication:
        assert ModelCard.load(publication.files["README.md"]).data.pipeline_tag == "feature-extraction"


def test_a_local_teacher_is_no_link_wherever_it_is_now(folder, tmp_path, monkeypatch):
    copy = tmp_path / "runs" / "student"
    shutil.copytree(folder, copy)
    (tmp_path / "runs" / "teacher").mkdir()
    monkeypatch.chdir(tmp_path)
    describe_squad_model("runs/teacher", "squad", "squad", measured={}).write(copy)
    recipe = "# EncoderArguments, SquadArguments, TrainingArguments\n# mobilebert-hf 0.1.0, commit abc\n"
    (copy / "recipe.yaml").write_text(recipe + "model: runs/teacher\n")
    (tmp_path / "runs" / "teacher").rename(tmp_path / "gone")
    with prepare_publication(copy, "org/squad") as publication:
        card = publication.files["README.md"].read_text()
        published = yaml.safe_load(publication.files["recipe.yaml"].read_text())
    assert published == {"model": "teacher"}
    assert "runs/teacher" not in card
    assert ModelCard(card).data.base_model is None
