"""Losses of a task's logits, as numbers."""

import pytest
import torch
import torch.nn.functional as F

from mobilebert_hf.distillation.networks import LayerOutputs
from mobilebert_hf.distillation.objectives import Outputs
from mobilebert_hf.distillation.strategies import auxiliary
from mobilebert_hf.distillation.task_objectives import TaskLogits, hard_loss, soft_loss
from mobilebert_hf.training.normalizers import Normalizers

[STAGE] = auxiliary(2, steps=1, warmup_ratio=0.0).stages


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(student, teacher, mask=None, **labels):
    mask = torch.ones(len(next(iter(student.values()))), 3) if mask is None else mask
    inputs = {"attention_mask": mask, "labels": torch.full(mask.shape, -100), **labels}
    return Outputs(inputs, STAGE, LayerOutputs(raw=student), LayerOutputs(raw=teacher))


@pytest.mark.parametrize("kind", ["class", "classes", "score"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_teachers_answers_cost_nothing_and_gradients_keep_their_size(kind, temperature):
    teacher = random(4, 1 if kind == "score" else 5)
    assert soft_loss(teacher, teacher, kind, temperature).abs().max() < 1e-5
    student = random(*teacher.shape, seed=1).requires_grad_()
    soft_loss(student, teacher, kind, temperature).sum().backward()
    assert 0.01 < student.grad.abs().max() < 10


def test_soft_losses_are_those_of_the_definitions():
    student, teacher = random(4, 5), random(4, 5, seed=1)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    torch.testing.assert_close(soft_loss(student, teacher, "class", 2.0), 4 * (p * (p / q).log()).sum(-1))
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean(-1)
    torch.testing.assert_close(soft_loss(student, teacher, "classes"), expected)
    torch.testing.assert_close(soft_loss(student[:, :1], teacher[:, :1], "score"), (student - teacher)[:, 0] ** 2)


def test_labels_are_mixed_by_alpha():
    student, teacher, labels = random(4, 5), random(4, 5, seed=1), torch.tensor([0, 1, 2, 3])
    both = outputs({"logits": student}, {"logits": teacher}, task_labels=labels)
    loss, terms = TaskLogits("class", alpha=0.25, temperature=1.0).loss(both, Normalizers.of(both.inputs, None))
    assert loss == pytest.approx(0.25 * terms["labels"] + 0.75 * terms["logits"])
    assert terms["labels"] == pytest.approx(float(F.cross_entropy(student, labels)))
    alone = outputs({"logits": student}, {"logits": teacher})
    loss, terms = TaskLogits("class", alpha=0.25, temperature=1.0).loss(alone, Normalizers.of(alone.inputs, None))
    assert loss == terms["logits"]
    assert "labels" not in terms


def test_tags_count_at_labelled_tokens_or_else_at_all():
    student, teacher = random(2, 3, 5), random(2, 3, 5, seed=1)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    labels = torch.tensor([[-100, 1, 2], [-100, 3, -100]])
    objective = TaskLogits("class", temperature=1.0)
    values = soft_loss(student.flatten(0, 1), teacher.flatten(0, 1), "class").view(2, 3)
    labelled = outputs({"logits": student}, {"logits": teacher}, mask, task_labels=labels)
    _, terms = objective.loss(labelled, Normalizers.of(labelled.inputs, None))
    assert terms["logits"] == pytest.approx(float(values[labels != -100].mean()))
    alone = outputs({"logits": student}, {"logits": teacher}, mask)
    _, terms = objective.loss(alone, Normalizers.of(alone.inputs, None))
    assert terms["logits"] == pytest.approx(float(values[mask.bool()].mean()))


def test_padding_is_no_end_of_a_span():
    names = ("start_logits", "end_logits")
    student, teacher = ({name: random(2, 3, seed=seed + i) for i, name in enumerate(names)} for seed in (0, 2))
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    moved = {name: value + 100 * (1 - mask) for name, value in student.items()}
    positions = {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 1])}
    objective = TaskLogits("span")
    first, second = (outputs(one, teacher, mask, **positions) for one in (student, moved))
    normalizers = Normalizers.of(first.inputs, None)
    torch.testing.assert_close(objective.loss(first, normalizers)[0], objective.loss(second, normalizers)[0])


def test_labels_of_other_types():
    logits = random(4, 2)
    marks = torch.tensor([[1.0, 0.0]] * 4)
    expected = F.binary_cross_entropy_with_logits(logits, marks)
    assert hard_loss(logits, marks, "classes").mean() == pytest.approx(float(expected))
    assert hard_loss(logits[:, :1], logits[:, 0] + 2, "score").tolist() == pytest.approx([4.0] * 4)


@pytest.mark.parametrize("values", [{"alpha": 1.5}, {"temperature": 0.0}])
def test_numbers_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="expected alpha from 0 to 1, temperature above 0"):
        TaskLogits("class", **values)
