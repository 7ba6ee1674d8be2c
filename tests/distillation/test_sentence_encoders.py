"""Students of sentence encoders, as sentence-transformers reads teacher and student."""

import json
import shutil

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import cosine_similarity, normalize

from mobilebert_hf.data import PretrainingDataArguments, load_tokenizer
from mobilebert_hf.data.pairs import split_sentences
from mobilebert_hf.data.tokenization import tokenize_documents
from mobilebert_hf.data.vocabulary import encode as encode_ids
from mobilebert_hf.distillation import StudentArguments
from mobilebert_hf.distillation.loading import Consent
from mobilebert_hf.distillation.sentence_encoder import load_sentence_modules, score_similarity
from mobilebert_hf.distillation.sentence_objective import SentenceEmbeddings
from mobilebert_hf.distillation.students import plan_student
from mobilebert_hf.hub import prepare_publication

from .encoders import CLS, MEAN, WORDS, run_distillation, save_dense, save_modules, save_teacher

TEXTS = ["a dog", "the cat sat on the mat and saw another cat", "The Cat"]
PROMPTS = {"query": "cat: ", "passage": "the dog: "}
NEWER = "sentence_transformers.sentence_transformer.modules.pooling."


def open_encoder(folder):
    return SentenceTransformer(str(folder), device="cpu")


def encode(folder, texts=TEXTS, **options):
    return open_encoder(folder).encode(texts, convert_to_tensor=True, **options)


def plan(folder, length=24, **student):
    overrides = {"intra_bottleneck_size": 16, "embedding_size": 16, "num_attention_heads": 2}
    data = PretrainingDataArguments(corpus=["none"], max_seq_length=length)
    options = {"size": "small", "config_overrides": overrides, **student}
    return plan_student(StudentArguments(teacher=str(folder), **options), data)


@pytest.fixture
def teacher(tmp_path, tiny_tokenizer):
    return save_teacher(tmp_path / "teacher", tiny_tokenizer)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_corpus, tiny_tokenizer):
    """A student of a teacher with everything: [CLS], a dense layer, prompts, of which one is the default."""
    folder = tmp_path_factory.mktemp("sentences")
    teacher = save_teacher(folder / "teacher", tiny_tokenizer, num_hidden_layers=1)
    settings = {"prompts": PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    save_modules(teacher, ("Pooling", "Dense", "Normalize"), CLS, **settings)
    trainer = run_distillation(teacher, tiny_corpus, folder, steps=60, matryoshka="16,4")
    return folder, trainer


def test_the_student_encodes_as_the_teacher_does(run, tiny_corpus):
    folder, _ = run
    sentences = split_sentences(" ".join(tiny_corpus.read_text().split()))[:60]
    similarities = []
    for options in ({}, {"prompt_name": "passage"}):
        expected, found = (encode(folder / name, sentences, **options) for name in ("teacher", "student"))
        assert found.shape == expected.shape == (60, 16)
        similarities.append(cosine_similarity(found, expected).mean())
    assert not torch.allclose(encode(folder / "student"), encode(folder / "student", prompt="")), "prompts are read"
    reported = json.loads((folder / "student" / "results.json").read_text())["evaluation"]
    assert reported["eval_pooled_similarity"] == pytest.approx(float(sum(similarities)) / 2, abs=0.1)
    assert reported["eval_pooled_similarity"] > 0.6


def test_all_that_surrounds_the_network_is_kept(run):
    expected, found = (open_encoder(run[0] / name) for name in ("teacher", "student"))
    assert [type(module) for module in found] == [type(module) for module in expected]
    assert found[1].pooling_mode == "cls"
    torch.testing.assert_close(found[2].state_dict(), expected[2].state_dict())
    assert found.prompts == expected.prompts
    assert (found.default_prompt_name, found.similarity_fn_name) == ("query", "dot")
    assert found.max_seq_length == found[0].auto_model.config.max_position_embeddings == 24


def test_the_first_dimensions_are_trained_and_reported(run):
    folder, trainer = run
    logged = [line["first_4"] for line in trainer.state.log_history if "first_4" in line]
    assert sum(logged[-5:]) < sum(logged[:5])
    card = (folder / "student" / "README.md").read_text()
    assert "error of similarities, first 4 dimensions" in card
    assert "error of similarities, first 16 dimensions" in card


@pytest.mark.parametrize(
    "mode",
    ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["mean", "max"], ["max", "cls"]],
)
def test_every_pooling_is_the_librarys(teacher, tmp_path, mode):
    save_modules(teacher, ("Pooling",), {"embedding_dimension": 32, "pooling_mode": mode}, NEWER)
    rows = json.loads((teacher / "modules.json").read_text())
    rows[0]["type"] = "sentence_transformers.base.modules.transformer.Transformer"
    (teacher / "modules.json").write_text(json.dumps(rows))
    planned = plan(teacher)
    assert planned.sentence.dimensions(32) == 32 * (1 if isinstance(mode, str) else 2)
    expected = encode(teacher)
    torch.testing.assert_close(planned.sentence.encode(planned.teacher.model, TEXTS), expected, rtol=1e-4, atol=1e-5)
    # Written and read again, by the names that all versions know.
    planned.teacher.model.save_pretrained(tmp_path / "copy")
    planned.tokenizer.save_pretrained(tmp_path / "copy")
    planned.sentence.save(tmp_path / "copy")
    torch.testing.assert_close(encode(tmp_path / "copy"), expected, rtol=1e-4, atol=1e-5)
    types = [row["type"] for row in json.loads((tmp_path / "copy" / "modules.json").read_text())]
    assert types == [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling")]


def test_prompts_that_pooling_leaves_out(teacher):
    save_modules(teacher, ("Pooling",), {**MEAN, "include_prompt": False}, prompts=PROMPTS)
    planned = plan(teacher, 60)
    texts = [prompt + text for text in TEXTS for prompt in planned.sentence.training_prompts]
    assert planned.sentence.training_prompts == ("", "cat: ", "the dog: ")
    expected = [encode(teacher, text, prompt=prompt) for text in TEXTS for prompt in ("", "cat: ", "the dog: ")]
    found = planned.sentence.encode(planned.teacher.model, texts)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_training_texts_get_each_prompt_a_share(tiny_tokenizer):
    sentences = [f"the cat {'sat ' * count}." for count in range(30)]
    rows = tokenize_documents({"text": ["\n".join(sentences)]}, tiny_tokenizer, ("", "dog: "))
    [lengths] = rows["sentence_lengths"]
    plain = [len(ids) for ids in encode_ids([sentence.strip() for sentence in sentences], tiny_tokenizer)]
    prompt = len(encode_ids(["dog: "], tiny_tokenizer)[0])
    added = [own - other for own, other in zip(lengths, plain, strict=True)]
    assert set(added) == {0, prompt}
    assert 8 < added.count(prompt) < 22


def test_an_old_layout_and_lower_casing(tmp_path, tiny_tokenizer):
    tokenizer = type(tiny_tokenizer)(vocab=tiny_tokenizer.get_vocab(), do_lower_case=False)
    teacher = save_teacher(tmp_path / "teacher", tokenizer)
    parts = [path for path in teacher.iterdir() if path.is_file()]
    (teacher / "0_Transformer").mkdir()
    for path in parts:
        shutil.move(path, teacher / "0_Transformer" / path.name)
    save_modules(teacher, transformer="0_Transformer", do_lower_case=True, max_seq_length=30)
    planned = plan(teacher)
    planned.teacher.model.save_pretrained(tmp_path / "student")
    planned.tokenizer.save_pretrained(tmp_path / "student")
    planned.sentence.save(tmp_path / "student")
    torch.testing.assert_close(encode(tmp_path / "student"), encode(teacher), rtol=1e-4, atol=1e-5)
    ids = [load_tokenizer(tmp_path / "student")(text)["input_ids"] for text in ("The CAT", "the cat")]
    assert ids[0] == ids[1]


def test_no_more_is_promised_than_is_trained_or_read(teacher):
    save_modules(teacher, max_seq_length=40)
    assert plan(teacher, 24).sentence.tokenizer.model_max_length == 24
    with pytest.raises(ValueError, match="reads at most 40 tokens, but the student is to read 50"):
        plan(teacher, 50)
    longer = plan(teacher, 24, max_length=40)
    assert longer.sentence.tokenizer.model_max_length == longer.config.max_position_embeddings == 40


def test_a_plain_encoder_is_pooled_by_the_mean(teacher):
    assert plan(teacher).output == "features"
    planned = plan(teacher, objective="pooled")
    torch.testing.assert_close(planned.sentence.encode(planned.teacher.model, TEXTS), encode(teacher))


@pytest.mark.parametrize(
    ("kinds", "prefix", "message"),
    [
        (("Pooling", "CNN"), "sentence_transformers.models.", r"cannot be trained through its module CNN \(2_CNN\)"),
        (("WeightedLayerPooling",), "sentence_transformers.models.", "its module WeightedLayerPooling"),
        (("Own",), "custom_module.", "its module custom_module.Transformer is Python code .* --trust_remote_code"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(teacher, kinds, prefix, message):
    save_modules(teacher, kinds, prefix=prefix)
    with pytest.raises(ValueError, match=message):
        plan(teacher)


def test_a_pickled_dense_layer_needs_consent(teacher):
    save_modules(teacher, ("Pooling", "Dense"))
    (teacher / "2_Dense" / "model.safetensors").unlink()
    save_dense(teacher / "2_Dense", file="pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has the weights of 2_Dense only as 2_Dense/pytorch_model\.bin"):
        plan(teacher)
    assert plan(teacher, allow_pickle=True).sentence.dimensions(32) == 16


def test_windows_have_no_place_for_prompts(teacher, tiny_corpus, tmp_path):
    save_modules(teacher, prompts=PROMPTS)
    with pytest.raises(ValueError, match="examples='windows': the teacher's prompts stand before single sentences"):
        run_distillation(teacher, tiny_corpus, tmp_path, examples="windows")


def test_modules_that_do_not_fit_are_told(teacher):
    save_modules(teacher, ("Normalize",))
    modules = load_sentence_modules(str(teacher), Consent())
    with pytest.raises(ValueError, match=r"The modules after the network \(Normalize\) give no embedding"):
        modules.dimensions(32)


def test_the_loss_is_the_distance_of_embeddings_and_of_similarities():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 6)
    objective = SentenceEmbeddings(1.0, dimensions=(2,))
    torch.testing.assert_close(objective._distance(student, teacher), 1 - cosine_similarity(student, teacher))
    short, full = normalize(student[:, :2]), normalize(teacher)
    squares = (short @ short.T - full @ full.T).square()
    expected = (squares.sum(1) - squares.diagonal()) / 4
    torch.testing.assert_close(objective._differences(student, teacher)["first_2"], expected)
    lengths = SentenceEmbeddings(1.0, compare_lengths=True)
    unit = normalize(student), normalize(teacher)
    torch.testing.assert_close(lengths._distance(*unit), 1 - cosine_similarity(*unit), rtol=1e-4, atol=1e-6)
    assert (lengths._distance(2 * teacher, teacher) == 0.5).all()


def test_scores_are_those_of_the_library(teacher, tmp_path):
    save_modules(teacher, ("Pooling",), CLS, prompts=PROMPTS, default_prompt_name="query", similarity_fn_name="dot")
    texts = [" ".join(WORDS[start : start + 4]) for start in range(18)]
    pairs = {"sentence1": texts[:9], "sentence2": texts[9:], "label": [5, 1, 2, 3, 4, 0, 1, 2, 5]}
    planned = plan(teacher)
    [found, first] = score_similarity(planned.teacher.model, planned.sentence, pairs, (None, 4))
    encoder = open_encoder(teacher)
    one, other = (encoder.encode(pairs[name], convert_to_tensor=True) for name in ("sentence1", "sentence2"))
    from scipy.stats import spearmanr

    assert found == pytest.approx(spearmanr((one * other).sum(1), pairs["label"]).statistic, abs=1e-6)
    assert first == pytest.approx(spearmanr((one * other)[:, :4].sum(1), pairs["label"]).statistic, abs=1e-6)


def test_all_of_it_is_published(run):
    with prepare_publication(run[0] / "student", "me/student") as publication:
        files = set(publication.files)
    assert {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"} <= files
    assert {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"} <= files
