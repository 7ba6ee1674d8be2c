"""The student's shape follows from the teacher's."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from mobilebert_hf import MobileBertModel
from mobilebert_hf.distillation.costs import forward_flops
from mobilebert_hf.distillation.shapes import SIZES, compare_sizes, student_shape

from .encoders import build, random_batch
from .test_teachers import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_vocabulary_and_positions_are_the_teachers(family):
    teacher = build(family)
    config, mapping = student_shape(teacher, "tiny", overrides={"embedding_size": 8})
    assert mapping == (0, 1, 2)
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (32, 100, 3)
    # RoBERTa's table begins with rows up to the padding's that no text uses.
    offset = {"Roberta": 1, "MPNet": 2}.get(family, 0)
    assert config.max_position_embeddings == teacher.config.max_position_embeddings - offset
    assert config.num_attention_heads == SIZES["tiny"]["intra_bottleneck_size"] // 32
    student = MobileBertModel(config, add_pooling_layer=False)
    assert student(**random_batch()).last_hidden_state.shape == (8, 12, 32)


def test_layers_can_be_mapped():
    teacher = build("Bert", num_hidden_layers=5)
    assert student_shape(teacher, layers="half").mapping == (0, 2, 4)
    assert student_shape(teacher, layers="1,1,4").mapping == (1, 1, 4)
    for wrong in ("5", "2,1", "a", ""):
        with pytest.raises(ValueError, match=r"layers='.*' must"):
            student_shape(teacher, layers=wrong)


def test_what_is_wrong_is_named():
    teacher = build("Bert")
    with pytest.raises(ValueError, match="size='huge' is not one of base, small, tiny"):
        student_shape(teacher, "huge")
    with pytest.raises(ValueError, match="hidden_size follow from the teacher"):
        student_shape(teacher, overrides={"hidden_size": 64})
    with pytest.raises(ValueError, match="depth are not fields of MobileBertConfig"):
        student_shape(teacher, overrides={"depth": 2})


@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_flops_are_those_that_pytorch_counts(family):
    teacher = build(family)
    teacher.set_attn_implementation("eager")  # the counter does not see into the CPU's fused kernel
    batch = random_batch(rows=1, length=12)
    with FlopCounterMode(display=False) as counter:
        teacher.base_model(batch["input_ids"])
    pooler = 2 * 32 * 32 if family == "Bert" else 0
    assert forward_flops(teacher, 12, 12) == counter.get_total_flops() - pooler
    [_, first, second] = compare_sizes(student_shape(teacher, "tiny").config, teacher, 12)
    assert (first[:2], second[:2]) == (["teacher", "3"], ["student", "3"])
