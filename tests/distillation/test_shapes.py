"""The student's shape follows from the teacher's."""

import pytest
import transformers
from torch.utils.flop_counter import FlopCounterMode

from mobilebert_hf import MobileBertModel
from mobilebert_hf.distillation.costs import forward_flops
from mobilebert_hf.distillation.shapes import BOTTLENECKS, choose_layers, compare_sizes, student_shape

from .encoders import FAMILIES, build, random_batch


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_vocabulary_and_positions_are_the_teachers(family):
    teacher = build(family)
    config, mapping = student_shape(teacher, "tiny", overrides={"embedding_size": 8})
    assert mapping == (0, 1, 2)
    assert (config.hidden_size, config.vocab_size, config.num_hidden_layers) == (32, 100, 3)
    # RoBERTa's table begins with rows up to the padding's that no text uses.
    offset = {"Roberta": 1, "MPNet": 2}.get(family, 0)
    assert config.max_position_embeddings == teacher.config.max_position_embeddings - offset
    assert config.num_attention_heads == BOTTLENECKS["tiny"]["intra_bottleneck_size"] // 32
    student = MobileBertModel(config, add_pooling_layer=False)
    assert student(**random_batch()).last_hidden_state.shape == (8, 12, 32)


def test_layers_can_be_mapped():
    teacher = build("Bert", num_hidden_layers=5)
    assert student_shape(teacher, layers="half").mapping == (0, 2, 4)
    assert student_shape(teacher, layers="1,1,4").mapping == (1, 1, 4)
    for wrong in ("5", "2,1", "a", ""):
        with pytest.raises(ValueError, match=r"layers='.*' must"):
            student_shape(teacher, layers=wrong)


@pytest.mark.parametrize("family", ["Bert", "Roberta", "DistilBert"])
def test_a_pruned_student_has_layers_of_the_teacher(family):
    teacher = build(family, **({"n_layers": 6} if family == "DistilBert" else {"num_hidden_layers": 6}))
    config, mapping = student_shape(teacher, overrides={"embedding_size": 8})
    assert mapping == (0, 4, 5)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 3, 2)
    assert (config.use_bottleneck, config.normalization_type, config.hidden_act) == (False, "layer_norm", "gelu")
    assert (config.intermediate_size, config.embedding_size) == (21, 8)
    stock = transformers.MobileBertModel(transformers.MobileBertConfig(**config.to_dict()))
    assert stock(**random_batch()).last_hidden_state.shape == (8, 12, 32)
    kept, mapping = student_shape(teacher, "kept", "0,5")
    assert (kept.intermediate_size, kept.embedding_size, mapping) == (64, 32, (0, 5))


@pytest.mark.parametrize("count", range(1, 26))
def test_half_of_the_layers_are_chosen(count):
    chosen = choose_layers(count)
    assert len(chosen) == max(min(count, 2), round(count / 2))
    assert {0, count - 1} <= set(chosen) <= set(range(count))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("Electra", "embeddings are not a sum"),
        ("MPNet", "relative positions"),
        ("ModernBert", "linear layers of shapes"),
    ],
)
def test_teachers_of_other_forms_get_bottlenecks(family, reason):
    teacher = build(family)
    assert student_shape(teacher).config.use_bottleneck
    with pytest.raises(ValueError, match=f"size='pruned' is not possible for {family}Model: .*{reason}"):
        student_shape(teacher, "pruned")


def test_what_is_wrong_is_named():
    teacher = build("Bert")
    with pytest.raises(ValueError, match="size='huge' is not one of auto, pruned, kept, base, small, tiny"):
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
