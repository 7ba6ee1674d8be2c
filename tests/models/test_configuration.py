"""Configurations: presets, invalid fields, saving and loading."""

import json

import pytest
import torch
import transformers

from mobilebert_hf import (
    PRESETS,
    IBBertConfig,
    IBBertModel,
    MobileBertConfig,
    MobileBertForMaskedLM,
    MobileBertModel,
)

from .helpers import student_config, teacher_config

# The paper's table 1.
SHARED = {
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "embedding_size": 128,
    "hidden_size": 512,
    "trigram_input": True,
    "use_bottleneck": True,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "attention_probs_dropout_prob": 0.1,
    "mask_padding": True,
}
STUDENT = {
    **SHARED,
    "intra_bottleneck_size": 128,
    "intermediate_size": 512,
    "num_feedforward_networks": 4,
    "use_bottleneck_attention": False,
    "key_query_shared_bottleneck": True,
    "hidden_act": "relu",
    "normalization_type": "no_norm",
    "hidden_dropout_prob": 0.0,
    "classifier_activation": False,
}
TABLE = {
    "ib-bert-large": {
        **SHARED,
        "intra_bottleneck_size": 1024,
        "intermediate_size": 4096,
        "num_feedforward_networks": 1,
        "use_bottleneck_attention": False,
        "key_query_shared_bottleneck": False,
        "hidden_act": "gelu_pytorch_tanh",
        "normalization_type": "layer_norm",
        "hidden_dropout_prob": 0.1,
        "classifier_activation": True,
    },
    "mobilebert": STUDENT,
    "mobilebert-tiny": {
        **STUDENT,
        "num_feedforward_networks": 2,
        "use_bottleneck_attention": True,
        "key_query_shared_bottleneck": False,
    },
    "mobilebert-noopt": {**STUDENT, "hidden_act": "gelu_pytorch_tanh", "normalization_type": "layer_norm"},
}
PARAMETERS = {
    "ib-bert-large": 294_205_184,
    "mobilebert": 24_581_888,
    "mobilebert-tiny": 15_485_696,
    "mobilebert-noopt": 24_581_888,
}


def family_of(preset):
    return (IBBertConfig, IBBertModel) if preset.startswith("ib-bert") else (MobileBertConfig, MobileBertModel)


def test_table_covers_every_preset():
    assert set(TABLE) == set(PRESETS)


@pytest.mark.parametrize("preset", TABLE)
def test_preset_values_are_the_papers(preset):
    config = family_of(preset)[0].from_preset(preset)
    assert {field: getattr(config, field) for field in TABLE[preset]} == TABLE[preset]


@pytest.mark.parametrize("preset", PARAMETERS)
def test_preset_parameter_count(preset):
    config_class, model_class = family_of(preset)
    with torch.device("meta"):
        model = model_class(config_class.from_preset(preset), add_pooling_layer=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[preset]


def test_preset_fields_can_be_overridden():
    config = MobileBertConfig.from_preset("mobilebert-tiny", vocab_size=8000, num_hidden_layers=6)
    assert (config.vocab_size, config.num_hidden_layers, config.num_feedforward_networks) == (8000, 6, 2)


@pytest.mark.parametrize(("config_class", "preset"), [(MobileBertConfig, "ib-bert-large"), (IBBertConfig, "large")])
def test_unknown_preset_names_the_allowed_ones(config_class, preset):
    allowed = "ib-bert-large" if config_class is IBBertConfig else "mobilebert, mobilebert-tiny, mobilebert-noopt"
    with pytest.raises(ValueError, match=f"preset='{preset}'.*{config_class.__name__}.*{allowed}"):
        config_class.from_preset(preset)


@pytest.mark.parametrize("make", [student_config, teacher_config])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"intra_bottleneck_size": 30}, "intra_bottleneck_size=30 .* multiple of num_attention_heads=4"),
        ({"use_bottleneck": False, "hidden_size": 30}, "hidden_size=30 .* multiple of num_attention_heads=4"),
        ({"hidden_act": "sine"}, "hidden_act='sine' .* one of .*relu"),
        ({"normalization_type": "batch"}, "normalization_type='batch' .* one of layer_norm, no_norm"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 .* a positive integer"),
        ({"num_feedforward_networks": 0}, "num_feedforward_networks=0 .* a positive integer"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 .* a positive integer"),
        ({"vocab_size": -1}, "vocab_size=-1 .* a positive integer"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0 .* a positive integer"),
        ({"type_vocab_size": 0}, "type_vocab_size=0 .* a positive integer"),
        ({"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob=1.5 .* in \[0, 1\)"),
        ({"attention_probs_dropout_prob": -0.1}, r"attention_probs_dropout_prob=-0.1 .* in \[0, 1\)"),
        ({"classifier_dropout": 1.5}, r"classifier_dropout=1.5 .* None or .* in \[0, 1\)"),
        ({"pad_token_id": 99}, r"pad_token_id=99 .* in \[0, vocab_size=99\)"),
    ],
)
def test_an_invalid_field_is_named_with_its_value_and_the_allowed_ones(make, fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_masked_lm_head_needs_hidden_size_of_at_least_embedding_size():
    config = student_config(hidden_size=64, embedding_size=128)
    MobileBertModel(config)
    with pytest.raises(ValueError, match=r"hidden_size=64 .* at least embedding_size=128"):
        MobileBertForMaskedLM(config)


def test_hidden_size_equal_to_embedding_size_leaves_no_extra_matrix():
    model = MobileBertForMaskedLM(student_config(embedding_size=64)).eval()
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 99)


@pytest.mark.parametrize("config_class", [MobileBertConfig, IBBertConfig])
@pytest.mark.parametrize("value", [True, False])
def test_mask_padding_survives_saving(tmp_path, config_class, value):
    config_class(mask_padding=value).save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).mask_padding is value


def test_mask_padding_is_false_for_stock_files_and_true_by_default(tmp_path):
    transformers.MobileBertConfig().save_pretrained(tmp_path)
    assert MobileBertConfig.from_pretrained(tmp_path).mask_padding is False
    assert MobileBertConfig.from_pretrained(tmp_path, mask_padding=True).mask_padding is True
    assert MobileBertConfig().mask_padding is True


def test_stock_reads_our_file(tmp_path):
    student_config(num_feedforward_networks=2).save_pretrained(tmp_path)
    stock = transformers.MobileBertConfig.from_pretrained(tmp_path)
    assert (stock.num_feedforward_networks, stock.intra_bottleneck_size, stock.hidden_act) == (2, 32, "relu")


@pytest.mark.parametrize("stock", [True, False])
def test_true_hidden_size_follows_the_fields_it_is_derived_from(tmp_path, stock):
    (transformers.MobileBertConfig() if stock else MobileBertConfig()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intra_bottleneck_size": 64}))
    assert MobileBertConfig.from_pretrained(tmp_path).true_hidden_size == 64
    assert MobileBertConfig.from_pretrained(tmp_path, use_bottleneck=False).true_hidden_size == 512


def test_overrides_at_loading_are_checked(tmp_path):
    student_config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="normalization_type='batch'"):
        MobileBertConfig.from_pretrained(tmp_path, normalization_type="batch")
    _, unused = MobileBertConfig.from_pretrained(tmp_path, hidden_act="gelu", other=1, return_unused_kwargs=True)
    assert unused == {"other": 1}


def test_true_hidden_size_as_an_argument_is_ignored():
    assert MobileBertConfig(true_hidden_size=7).true_hidden_size == 128
