"""Teachers of other families: what they are asked for is what the library computes, and no more is run."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from mobilebert_hf.distillation.networks import Needs
from mobilebert_hf.distillation.teachers import EncoderTeacher

from .encoders import FAMILIES


def build(family, head="Model"):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    return getattr(transformers, f"{family}{head}")(config).eval()


def batch():
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_librarys(family):
    model = build(family)
    teacher = EncoderTeacher(model)
    expected = transformers.AutoModel.from_config(model.config)
    expected.load_state_dict(model.state_dict())
    inputs = batch()
    taken = {name: value for name, value in inputs.items() if name in teacher._accepted}
    states = expected.eval()(**taken, output_hidden_states=True).hidden_states
    outputs = teacher(inputs, Needs(features=(0, 2)))
    torch.testing.assert_close(outputs.features[0], states[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.features[2], states[3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.last_hidden_state, states[3], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_above_the_depth_is_run(family):
    teacher = EncoderTeacher(build(family))
    full = teacher(batch(), Needs(features=(1,)))
    with FlopCounterMode(display=False) as counter:
        part = teacher(batch(), Needs(depth=2, features=(1,)))
    with FlopCounterMode(display=False) as whole:
        teacher(batch(), Needs())
    torch.testing.assert_close(part.features[1], full.features[1], rtol=0, atol=0)
    assert part.last_hidden_state is None
    # DeBERTa has a convolution after its first layer.
    share = {"rel": 0.2} if family == "DebertaV2" else {"rel": 0.05}
    assert counter.get_total_flops() == pytest.approx(whole.get_total_flops() * 2 / 3, **share)


@torch.no_grad()
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra", "MPNet", "ModernBert"])
def test_only_predicted_positions_become_logits(family):
    model = build(family, "ForMaskedLM")
    inputs = batch()
    wanted = inputs["attention_mask"].bool() & (torch.arange(9) % 3 == 1)
    teacher = EncoderTeacher(model)
    taken = {name: value for name, value in inputs.items() if name in teacher._accepted}
    expected = model(**taken).logits[wanted]
    inputs["labels"] = torch.where(wanted, 1, -100)
    outputs = teacher(inputs, Needs(features=(2,), heads=True))
    torch.testing.assert_close(outputs.masked_lm_logits, expected, rtol=1e-4, atol=1e-5)
    assert outputs.features[2].shape == (2, 9, 32)


@torch.no_grad()
@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert", "Electra", "ModernBert"])
def test_projections_give_the_librarys_probabilities(family):
    model = build(family)
    teacher = EncoderTeacher(model)
    inputs = batch()
    outputs = teacher(inputs, Needs(depth=2, scores=(1,), projections=(1,)))
    found = outputs.projections[1]
    assert model.config._attn_implementation == "sdpa", "the kernel is put back"
    model.set_attn_implementation("eager")
    taken = {name: value for name, value in inputs.items() if name in teacher._accepted}
    probabilities = model(**taken, output_attentions=True).attentions[1]
    scores = found.query @ found.key.transpose(2, 3) * found.scaling
    torch.testing.assert_close(outputs.scores[1], scores)
    scores = scores.masked_fill(~inputs["attention_mask"].bool()[:, None, None, :], -torch.inf)
    torch.testing.assert_close(scores.softmax(-1)[0], probabilities[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_cannot_be_read_is_said():
    with pytest.raises(ValueError, match="MPNetModel does not use the attention interface"):
        EncoderTeacher(build("MPNet"))(batch(), Needs(projections=(0,)))
    with pytest.raises(ValueError, match=r"FunnelModel cannot be a teacher: it has no list of its 3 layers"):
        EncoderTeacher(transformers.FunnelModel(transformers.FunnelConfig(block_sizes=[2, 1], num_decoder_layers=2)))
