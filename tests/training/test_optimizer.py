"""LAMB against the original's numbers, and the grouping of stock MobileBERT's parameters."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import MobileBertConfig, MobileBertForPreTraining

from mobilebert_hf.training.optimizer import lamb, parameter_groups

LAMB = np.load(Path(__file__).parents[1] / "fixtures" / "lamb.npz")


def arrays(prefix):
    """The fixture's arrays under a prefix, by variable name, without the teacher's, which the original passes over."""
    names = (name.removeprefix(prefix) for name in LAMB.files if name.startswith(prefix))
    names = (name for name in names if not name.startswith("teacher/"))
    return {name: torch.from_numpy(LAMB[prefix + name]) for name in names}


def original_groups(parameters, weight_decay):
    """The original's rule for its own names, for which [`parameter_groups`] is not made."""
    plain = {name: "LayerNorm" in name or "bias" in name for name in parameters}
    return [
        {
            "params": [parameter for name, parameter in parameters.items() if plain[name] == adam],
            "weight_decay": 0.0 if adam else weight_decay,
            "adam": adam,
        }
        for adam in (False, True)
    ]


def train(optimizer, parameters, run, steps):
    for step in steps:
        for name, gradient in arrays(f"{run}/step{step}/grad/").items():
            parameters[name].grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(("run", "weight_decay"), [("lamb_plain", 0.01), ("lamb_no_decay", 0.0)])
def test_lamb_equals_the_original(run, weight_decay, foreach):
    parameters = {name: nn.Parameter(value) for name, value in arrays(f"{run}/init/").items()}
    groups = original_groups(parameters, weight_decay)
    optimizer = lamb([{**group, "foreach": foreach} for group in groups], learning_rate=0.01)
    for step in range(5):
        train(optimizer, parameters, run, [step])
        for name, expected in arrays(f"{run}/step{step}/param_after/").items():
            # Without any gradient the update is the decay alone, of norm 0.006: so little that the library's epsilon
            # in the trust ratio, which the original does not have, counts: up to 6e-7 a step.
            tolerance = 6e-7 * (step + 1) if name.startswith("zero_grad") else 1e-6
            np.testing.assert_allclose(parameters[name].detach(), expected, rtol=0, atol=tolerance, err_msg=name)
        for name, expected in arrays(f"{run}/step{step}/m_after/").items():
            np.testing.assert_allclose(optimizer.state[parameters[name]]["exp_avg"], expected, rtol=0, atol=1e-6)
        for name, expected in arrays(f"{run}/step{step}/v_after/").items():
            np.testing.assert_allclose(optimizer.state[parameters[name]]["exp_avg_sq"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
def test_the_trust_ratio_has_no_bound(foreach):
    weights = nn.Parameter(torch.full((100, 100), 5.0))  # of norm 500, far above the library's bound of 10
    optimizer = lamb([{"params": [weights], "foreach": foreach}], learning_rate=0.01)
    weights.grad = torch.randn(100, 100)
    optimizer.step()
    np.testing.assert_allclose((weights.detach() - 5.0).norm(), 0.01 * 500, rtol=1e-4)


def test_clearing_the_state_starts_anew():
    start = {name: nn.Parameter(value) for name, value in arrays("lamb_plain/init/").items()}
    optimizer = lamb(original_groups(start, 0.01), learning_rate=0.01)
    train(optimizer, start, "lamb_plain", [0, 1, 2])
    fresh = {name: nn.Parameter(value.detach().clone()) for name, value in start.items()}
    optimizer.state.clear()
    train(optimizer, start, "lamb_plain", [3, 4])
    train(lamb(original_groups(fresh, 0.01), learning_rate=0.01), fresh, "lamb_plain", [3, 4])
    assert all(torch.equal(start[name], fresh[name]) for name in start)


def test_a_restored_state_goes_on_exactly():
    parameters = {name: nn.Parameter(value) for name, value in arrays("lamb_plain/init/").items()}
    optimizer = lamb(original_groups(parameters, 0.01), learning_rate=0.01)
    train(optimizer, parameters, "lamb_plain", [0, 1, 2])
    copies = {name: nn.Parameter(value.detach().clone()) for name, value in parameters.items()}
    restored = lamb(original_groups(copies, 0.01), learning_rate=0.5)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, parameters, "lamb_plain", [3, 4])
    train(restored, copies, "lamb_plain", [3, 4])
    assert all(torch.equal(parameters[name], copies[name]) for name in parameters)


def test_a_rate_of_zero_and_a_missing_gradient_change_nothing():
    still, frozen, moving = (nn.Parameter(torch.randn(3, 4)) for _ in range(3))
    before = [parameter.detach().clone() for parameter in (still, frozen, moving)]
    optimizer = lamb(
        [{"params": [still], "lr": 0.0, "weight_decay": 0.01}, {"params": [frozen, moving], "weight_decay": 0.01}],
        learning_rate=0.01,
    )
    still.grad, moving.grad = torch.randn(3, 4), torch.randn(3, 4)
    optimizer.step()
    after = [still.detach(), frozen.detach(), moving.detach()]
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [True, True, False]


@pytest.fixture(scope="module", params=["no_norm", "layer_norm"])
def model(request):
    return MobileBertForPreTraining(
        MobileBertConfig(
            vocab_size=99,
            hidden_size=32,
            embedding_size=16,
            intra_bottleneck_size=16,
            num_hidden_layers=12,
            num_attention_heads=2,
            intermediate_size=24,
            num_feedforward_networks=2,
            max_position_embeddings=32,
            normalization_type=request.param,
            classifier_activation=True,
        )
    )


def test_every_parameter_is_in_exactly_one_group(model):
    groups = parameter_groups(model, weight_decay=0.01, trust_ratio=True)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}
    assert {group["name"] for group in groups} == {"embeddings", *(f"layer_{i}" for i in range(12)), "heads"}
    assert all(group["params"] for group in groups)


def test_norms_and_biases_have_neither_decay_nor_trust_ratio(model):
    # By module and not by name, so that this does not repeat the rule.
    linear_or_table = (nn.Linear, nn.Embedding)
    decaying = {id(m.weight) for m in model.modules() if isinstance(m, linear_or_table)}
    for group in parameter_groups(model, weight_decay=0.01, trust_ratio=True):
        inside = [id(parameter) in decaying for parameter in group["params"]]
        assert all(inside) or not any(inside)
        assert group["adam"] is not inside[0]
        assert group["weight_decay"] == (0.01 if inside[0] else 0.0)


def test_places_follow_the_modules(model):
    groups = parameter_groups(model, weight_decay=0.01, trust_ratio=False)
    assert not any("adam" in group for group in groups)
    modules = {"embeddings": model.mobilebert.embeddings, "layer_11": model.mobilebert.encoder.layer[11]}
    for name, module in modules.items():
        ids = {id(parameter) for group in groups if group["name"] == name for parameter in group["params"]}
        assert ids == {id(parameter) for parameter in module.parameters()}
    heads = {id(parameter) for group in groups if group["name"] == "heads" for parameter in group["params"]}
    assert {id(parameter) for parameter in model.mobilebert.pooler.parameters()} <= heads
    table = model.mobilebert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.weight is table, "the tied parameter belongs to the embeddings alone"
    assert id(table) not in heads


def test_a_bare_encoder_has_the_same_groups(model):
    groups = parameter_groups(model.mobilebert, weight_decay=0.01, trust_ratio=False)
    assert {group["name"] for group in groups} == {"embeddings", *(f"layer_{i}" for i in range(12)), "heads"}


def test_groups_train_in_both_optimizers(model):
    lamb(parameter_groups(model, 0.01, trust_ratio=True), learning_rate=0.01)
    torch.optim.AdamW(parameter_groups(model, 0.01, trust_ratio=False), lr=0.01)
    only_norm = nn.ModuleDict({"LayerNorm": nn.LayerNorm(3)})
    assert len(parameter_groups(only_norm, 0.01, trust_ratio=True)) == 1
