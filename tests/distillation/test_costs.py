"""The reckoned FLOPs against those that PyTorch counts in real steps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mobilebert_hf import IBBertConfig, IBBertForPreTraining, MobileBertConfig, MobileBertForPreTraining
from mobilebert_hf.distillation.costs import step_flops
from mobilebert_hf.distillation.strategies import auxiliary, joint, progressive
from mobilebert_hf.training.optimizer import parameter_groups

SIZES = {"num_hidden_layers": 3, "hidden_size": 128, "embedding_size": 64, "vocab_size": 500}
STAGES = [
    *progressive(3, 3, 1, freezing="hard").stages,
    *progressive(3, 3, 1, freezing="soft").stages,
    joint(3, 1, 0).stages[0],
    auxiliary(3, 1).stages[0],
]


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    teacher = IBBertForPreTraining(IBBertConfig(**SIZES, intra_bottleneck_size=256, intermediate_size=512))
    student = MobileBertForPreTraining(MobileBertConfig(**SIZES, intra_bottleneck_size=32, intermediate_size=64))
    for network in (student, teacher):
        network.set_attn_implementation("eager")  # the counter does not see into the CPU's fused kernel
    return student, teacher.requires_grad_(False)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: f"{stage.name} {stage.layer_lr_scales}")
def test_reckoned_flops_are_those_of_a_real_step(networks, stage):
    student, teacher = networks
    for group in parameter_groups(student, weight_decay=0.0, trust_ratio=False):
        for parameter in group["params"]:
            parameter.requires_grad_(stage.lr_scales[group["name"]] > 0)
    mask = torch.zeros(4, 32, dtype=torch.bool)
    mask[:, :5] = True
    options = {
        "input_ids": torch.randint(5, 500, (4, 32)),
        "stop_layer": None if stage.use_distillation_loss else stage.depth,
        "capture_layers": stage.transfer_layers,
        "capture_scores": stage.transfer_layers,
        "prediction_mask": mask,
    }
    with FlopCounterMode(display=False) as counted_teacher:
        teacher(**options)
    with FlopCounterMode(display=False) as counted_forward:
        outputs = student(**options)
        terms = [*(outputs.layer_outputs or ()), *(outputs.attention_scores or ())]
        terms += [outputs.prediction_logits] if stage.use_distillation_loss else []
        loss = sum(term.square().mean() for term in terms)
    with FlopCounterMode(display=False) as counted_backward:
        loss.backward()
    reckoned = step_flops(stage, student, teacher, tokens=4 * 32, length=32, predictions=20)
    assert reckoned.teacher == pytest.approx(counted_teacher.get_total_flops(), rel=0.01)
    assert reckoned.student_forward == pytest.approx(counted_forward.get_total_flops(), rel=0.01)
    # The first products of the lowest layer that learns need no gradient of their inputs: a third of a layer here.
    assert 0.8 <= counted_backward.get_total_flops() / reckoned.student_backward <= 1.01
