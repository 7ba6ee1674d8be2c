"""The original's names, arrays and configurations."""

import json

import numpy as np
import pytest
import torch

from mobilebert_hf import IBBertConfig, MobileBertConfig
from mobilebert_hf.conversion import original

from ..models.helpers import Original

NETWORKS = {"teacher": "layer_norm", "student": "no_norm", "student_noopt": "layer_norm"}


@pytest.fixture(params=NETWORKS)
def network(request):
    """Recorded variables by the original's names, the same by ours, and the type of the norms."""
    recorded = Original(request.param)
    variables = {name.removeprefix("w/"): array for name, array in recorded.arrays.items() if name.startswith("w/")}
    return variables, recorded.state_dict(), NETWORKS[request.param]


def test_weights_are_found(network):
    variables, ours, normalization_type = network
    with_slots = {**variables, "global_step": np.int64(5), "bert/pooler/dense/kernel/adam_m": np.zeros((2, 2))}
    found = original.from_original(with_slots, ours, normalization_type)
    assert set(found) == set(ours) - set(original.TIED)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, ours[name], rtol=0, atol=0)


def test_variables_are_found_again(network):
    variables, ours, normalization_type = network
    found = original.to_original(ours, normalization_type)
    assert set(found) == set(variables)
    for name, array in found.items():
        np.testing.assert_array_equal(array, variables[name], name)


def test_a_missing_variable_is_named(network):
    variables, ours, normalization_type = network
    del variables["cls/predictions/output_bias"]
    with pytest.raises(ValueError, match=r"no cls/predictions/output_bias. Use the bert_config\.json"):
        original.from_original(variables, ours, normalization_type)


@pytest.mark.parametrize("name", NETWORKS)
def test_configurations_come_and_go(name, tmp_path):
    recorded = Original(name)
    path = tmp_path / "bert_config.json"
    path.write_text(str(recorded.arrays["config_json"]))
    config = original.read_config(path)
    assert type(config) is (IBBertConfig if name == "teacher" else MobileBertConfig)
    assert config.to_dict() == type(config)(**recorded.config_fields()).to_dict()
    original.write_config(config, tmp_path / "again.json")
    assert original.read_config(tmp_path / "again.json").to_dict() == config.to_dict()
    theirs = json.loads(path.read_text())
    assert theirs.items() <= json.loads((tmp_path / "again.json").read_text()).items()


def test_tiny_is_a_student(tmp_path):
    path = tmp_path / "bert_config.json"
    original.write_config(MobileBertConfig.from_preset("mobilebert-tiny"), path)
    config = original.read_config(path)
    assert type(config) is MobileBertConfig
    assert config.use_bottleneck_attention


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "swish", "use_bottleneck": True}, "hidden_act='swish': expected one of gelu, relu, relu6"),
        ({"hidden_act": "gelu"}, "use_bottleneck is not true: this is a BERT, not a MobileBERT"),
    ],
)
def test_other_networks_are_refused(fields, message, tmp_path):
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        original.read_config(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu': the original supports only gelu_pytorch_tanh, relu, relu6"),
        (
            {"normalization_type": "layer_norm", "layer_norm_eps": 1e-5},
            "layer_norm_eps=1e-05: the original supports only 1e-12",
        ),
    ],
)
def test_what_the_original_does_not_know_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        original.write_config(MobileBertConfig(**fields), tmp_path / "bert_config.json")
