"""Heads that are kept and heads that are new; adapters that PEFT puts in by itself."""

import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
)

from mobilebert_hf import (
    IBBertConfig,
    IBBertForSequenceClassification,
    MobileBertConfig,
    MobileBertForMaskedLM,
    MobileBertModel,
)
from mobilebert_hf.finetuning.adapter_folder import merge_adapter
from mobilebert_hf.finetuning.encoder import (
    EncoderArguments,
    add_adapter,
    count_parameters,
    label_fields,
    load_encoder,
)

from .helpers import SIZES

NOTHING_MISSING = {"missing_keys": set()}
BINARY = ("negative", "positive")
INPUTS = {"input_ids": torch.arange(5, 25).reshape(2, 10)}


def load(folder, labels=BINARY, **arguments):
    return load_encoder(
        EncoderArguments(model=str(folder), **arguments), AutoModelForSequenceClassification, **label_fields(labels)
    )


def test_a_pretrained_encoder_gets_a_new_head(pretrained):
    model = load(pretrained, ("a", "b", "c"))
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.classifier.out_features == 3
    saved = load_file(f"{pretrained}/model.safetensors")
    for name, value in model.base_model.state_dict().items():
        torch.testing.assert_close(value, saved[f"mobilebert.{name}"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("labels", "kept"),
    [(BINARY, True), (BINARY[::-1], False), (("no", "yes"), False), (("a", "b", "c"), False), ((), False)],
)
def test_a_head_is_kept_where_its_labels_are_the_same_in_order(pretrained, tmp_path, labels, kept):
    before = load(pretrained)
    before.save_pretrained(tmp_path)
    after = load(tmp_path, labels)
    same = after.classifier.weight.shape == before.classifier.weight.shape and torch.equal(
        after.classifier.weight, before.classifier.weight
    )
    assert same is kept
    torch.testing.assert_close(after.base_model.state_dict(), before.base_model.state_dict(), rtol=0, atol=0)


def test_question_answering_keeps_its_head_and_drops_others(pretrained, tmp_path):
    fresh = load_encoder(EncoderArguments(model=pretrained), AutoModelForQuestionAnswering)
    fresh.save_pretrained(tmp_path)
    again = load_encoder(EncoderArguments(model=str(tmp_path)), AutoModelForQuestionAnswering)
    torch.testing.assert_close(again.qa_outputs.weight, fresh.qa_outputs.weight, rtol=0, atol=0)
    other = load_encoder(EncoderArguments(model=pretrained), AutoModelForQuestionAnswering)
    assert not torch.equal(other.qa_outputs.weight, fresh.qa_outputs.weight)


def test_random_weights_are_random(pretrained):
    embeddings = [load(pretrained, random_weights=random).get_input_embeddings().weight for random in (True, False)]
    assert not torch.equal(*embeddings)


def test_the_pooler_can_be_left_out(tmp_path):
    config = MobileBertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, classifier_activation=True)
    MobileBertModel(config).save_pretrained(tmp_path)
    with_pooler, without = load(tmp_path), load(tmp_path, pooler=False)
    extra = count_parameters(with_pooler)[0] - count_parameters(without)[0]
    assert extra == 32 * 32 + 32
    assert without.config.classifier_activation is False


def test_a_pooler_that_cannot_be_left_out_is_said(tmp_path):
    BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=r"\(bert\) has no field classifier_activation"):
        load(tmp_path, pooler=False)
    assert load(tmp_path).bert.pooler is not None


def test_another_encoder_inside_the_class_with_a_head_is_said(tmp_path, monkeypatch):
    """Where AutoModel gives something else, nothing is silently left at random weights."""
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    shallow = BertModel(BertConfig(**{**config.to_dict(), "num_hidden_layers": 1}))
    monkeypatch.setattr(
        "mobilebert_hf.finetuning.encoder.AutoModel.from_pretrained", lambda *_, **__: (shallow, NOTHING_MISSING)
    )
    with pytest.raises(ValueError, match=r"another encoder inside than BertModel; they differ in encoder\.layer\.1"):
        load(tmp_path)


ADAPTERS = ["lora", "ia3", "adalora", "loha", "lokr", "vera", "boft", "oft", "ln_tuning"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_need_no_names_and_merge_without_a_trace(pretrained, tmp_path, adapter):
    torch.manual_seed(0)
    arguments = EncoderArguments(model=pretrained, adapter=adapter)
    model = add_adapter(load(pretrained), arguments, "SEQ_CLS", steps=100).eval()
    total, learning = count_parameters(model)
    assert 0 < learning < total
    with torch.no_grad():  # an adapter begins as if it was not there
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    expected = model(**INPUTS).logits
    merged = merge_adapter(model, tmp_path)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(load(tmp_path)(**INPUTS).logits, expected, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert set(merged.state_dict()) == set(load(pretrained).state_dict())


TASK_TYPES = {
    "SEQ_CLS": (AutoModelForSequenceClassification, "logits"),
    "QUESTION_ANS": (AutoModelForQuestionAnswering, "start_logits"),
    "FEATURE_EXTRACTION": (AutoModel, "last_hidden_state"),
}


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize(
    ("task_type", "labels"),
    [
        ("SEQ_CLS", ("entailment", "neutral", "contradiction")),
        ("SEQ_CLS", ()),
        ("QUESTION_ANS", None),
        ("FEATURE_EXTRACTION", None),
    ],
)
def test_an_adapter_alone_is_as_good_as_the_merged_model(tmp_path, tiny_tokenizer, task_type, labels, pooler):
    auto_class, output = TASK_TYPES[task_type]
    torch.manual_seed(0)
    base = MobileBertForMaskedLM(MobileBertConfig(vocab_size=len(tiny_tokenizer), **SIZES))  # without a pooler
    base.save_pretrained(tmp_path / "base")
    arguments = EncoderArguments(model=str(tmp_path / "base"), adapter="lora", pooler=pooler)
    fields = {} if labels is None else label_fields(labels)
    model = add_adapter(load_encoder(arguments, auto_class, **fields), arguments, task_type, steps=10).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    expected = model(**INPUTS)[output]
    merge_adapter(model, tmp_path)
    torch.manual_seed(1)
    code = re.search(r"```python\n(.*)```", (tmp_path / "adapter" / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(code.replace('"adapter"', repr(str(tmp_path / "adapter"))), names)
    torch.testing.assert_close(names["model"].eval()(**INPUTS)[output], expected, rtol=1e-4, atol=1e-5)
    if labels:
        assert tuple(names["config"].id2label.values()) == labels


def test_random_weights_take_no_adapter():
    with pytest.raises(ValueError, match="belongs to the weights of a model, but random_weights has none"):
        EncoderArguments(model="org/name", adapter="lora", random_weights=True)


def test_lora_trains_less_than_3_percent_of_the_real_networks():
    with torch.device("meta"):
        for config, name in ((MobileBertConfig(), "student"), (IBBertConfig.from_preset("ib-bert-large"), "teacher")):
            model = AutoModelForSequenceClassification.from_config(config)
            adapted = add_adapter(model, EncoderArguments(model=name, adapter="lora"), "SEQ_CLS", 1)
            total, learning = count_parameters(adapted)
            assert 0 < learning < 0.03 * total, name


def test_adapter_options_reach_the_adapter(pretrained):
    arguments = EncoderArguments(model=pretrained, adapter="lora", adapter_options='{"r": 2}')
    model = add_adapter(load(pretrained), arguments, "SEQ_CLS", 1)
    assert model.peft_config["default"].r == 2


@pytest.mark.parametrize("adapter", ["prompt_tuning", "lorra"])
def test_an_adapter_that_cannot_be_merged_is_refused(pretrained, adapter):
    with pytest.raises(ValueError, match=f"adapter='{adapter}': expected one that can be merged: lora, adalora"):
        add_adapter(load(pretrained), EncoderArguments(model=pretrained, adapter=adapter), "SEQ_CLS", 1)


def test_a_teacher_takes_an_adapter_too():
    config = IBBertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, intra_bottleneck_size=64, intermediate_size=64
    )
    model = add_adapter(
        IBBertForSequenceClassification(config), EncoderArguments(model="teacher", adapter="lora"), "SEQ_CLS", 1
    )
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_what_cannot_be_quantization_aware_is_said(pretrained):
    with pytest.raises(ValueError, match="normalization_type='layer_norm' cannot be folded"):
        load(pretrained, quantization_aware=True)
    with pytest.raises(ValueError, match="not with adapter='lora': train the adapter first"):
        EncoderArguments(model=pretrained, adapter="lora", quantization_aware=True)
