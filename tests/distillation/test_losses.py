"""The losses against the original's numbers, against float64 numpy, and their behaviour with padding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilebert_hf.distillation import PAPER
from mobilebert_hf.distillation.losses import (
    IGNORED_LABEL,
    attention_loss,
    feature_map_loss,
    masked_lm_distillation,
    masked_mean,
    next_sentence,
    relation_loss,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = ("full", "padded", "padded_neg10000")
LAYERS = (0, 1, 2)
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def original():
    """The original's losses and the captured outputs of its two networks."""
    files = {"losses": "losses_teacher_student_tame", "teacher": "google_teacher", "student": "google_student_tame"}
    return {name: np.load(FIXTURES / f"{file}.npz") for name, file in files.items()}


def captured(original, case, name):
    return tuple(torch.from_numpy(original[model][f"{case}/{name}"]) for model in ("student", "teacher"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layer", LAYERS)
def test_feature_map_terms_equal_the_original(original, case, layer):
    terms = feature_map_loss(*captured(original, case, f"hidden_{layer + 1}"))
    # The original counts padding, so every position counts here.
    for value, name in zip(terms, ("hidden_mse", "beta_corrected", "gamma_corrected"), strict=True):
        expected = original["losses"][f"{case}/unweighted/{name}"][layer]
        everywhere = masked_mean(value, torch.ones_like(value, dtype=torch.bool))
        np.testing.assert_allclose(everywhere, expected, rtol=2e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layer", LAYERS)
def test_attention_equals_the_original_kl(original, case, layer):
    losses = original["losses"]
    student, teacher = captured(original, case, f"attention_scores_{layer}")
    real = torch.from_numpy(losses[f"{case}/input_mask"]).bool()
    # In `padded` the original gives padded keys a score of -6 and not none: there they have to count to be equal.
    values = attention_loss(student, teacher, None if case == "padded" else real)
    cross_entropy = losses[f"{case}/unweighted/attention_ce"][layer]
    entropy = losses[f"{case}/unweighted/teacher_attention_entropy"][layer]
    np.testing.assert_allclose(values.mean(), cross_entropy - entropy, rtol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_weighted_total_equals_the_original(original, case):
    for layer in LAYERS:
        terms = feature_map_loss(*captured(original, case, f"hidden_{layer + 1}"))
        scores = captured(original, case, f"attention_scores_{layer}")
        total = (
            PAPER["feature_map_weight"] * terms.normalized.mean()
            + PAPER["mean_weight"] * terms.mean.mean()
            + PAPER["variance_weight"] * terms.variance.mean()
            + PAPER["attention_weight"] * attention_loss(*scores, None).mean()
        ) / len(LAYERS)
        entropy = original["losses"][f"{case}/unweighted/teacher_attention_entropy"][layer]
        expected = original["losses"][f"{case}/weighted/total_corrected"][layer] - entropy / len(LAYERS)
        np.testing.assert_allclose(total, expected, rtol=2e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 0.0])
def test_masked_lm_equals_the_original(original, case, alpha):
    losses, prefix = original["losses"], f"{case}/pretrain_ratio{alpha:g}_temp1"
    student, teacher = captured(original, case, "mlm_logits")
    labels = torch.from_numpy(losses[f"{case}/masked_lm_ids"]).flatten().long()
    weights = torch.from_numpy(losses[f"{case}/masked_lm_weights"]).flatten()
    terms = masked_lm_distillation(student, teacher, labels, alpha)
    # The original has the cross-entropy to the mixed label, which differs by the teacher's entropy.
    entropy = torch.distributions.Categorical(logits=teacher).entropy()
    original_terms = terms.combined + (1 - alpha) * entropy
    value = (original_terms * weights).sum() / (weights.sum() + 1e-5)
    np.testing.assert_allclose(value, losses[f"{prefix}/masked_lm_loss"], rtol=2e-6)
    if alpha == 1.0:
        assert torch.equal(terms.combined, terms.hard)


@pytest.mark.parametrize("case", CASES)
def test_next_sentence_equals_the_original(original, case):
    logits, _ = captured(original, case, "nsp_logits")
    labels = torch.from_numpy(original["losses"][f"{case}/next_sentence_labels"]).flatten().long()
    expected = original["losses"][f"{case}/pretrain_ratio0.5_temp1/next_sentence_loss"]
    np.testing.assert_allclose(next_sentence(logits, labels).mean(), expected, rtol=2e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_padding_is_excluded_where_the_original_counts_it(original, layer):
    losses = original["losses"]
    real = torch.from_numpy(losses["padded_neg10000/input_mask"]).bool()
    terms = feature_map_loss(*captured(original, "padded_neg10000", f"hidden_{layer + 1}"))
    for value in terms:
        np.testing.assert_allclose(masked_mean(value, real), value[real].mean(), rtol=1e-6)
    counted = losses["padded_neg10000/unweighted/hidden_mse"][layer]
    assert abs(masked_mean(terms.normalized, real) - counted) > 1e-3 * counted


def numpy_softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def numpy_kl(student, teacher):
    p, q = numpy_softmax(teacher), numpy_softmax(student)
    return (p * (np.log(p) - np.log(q))).sum(-1)


@few
@given(seeds)
def test_feature_map_equals_float64_numpy(seed):
    student, teacher = np.random.default_rng(seed).normal(1.0, 3.0, (2, 2, 5, 16)).astype(np.float32)
    terms = feature_map_loss(torch.from_numpy(student), torch.from_numpy(teacher))
    s, t = student.astype(np.float64), teacher.astype(np.float64)

    def normalize(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)

    np.testing.assert_allclose(terms.normalized, ((normalize(s) - normalize(t)) ** 2).mean(-1), rtol=1e-4)
    np.testing.assert_allclose(terms.mean, (s.mean(-1) - t.mean(-1)) ** 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(terms.variance, np.abs(s.var(-1) - t.var(-1)), rtol=1e-4, atol=1e-5)


@few
@given(seeds, st.integers(1, 6))
def test_attention_equals_float64_numpy_over_the_real_keys(seed, real):
    scores = np.random.default_rng(seed).normal(0.0, 3.0, (2, 2, 3, 6, 6)).astype(np.float32)
    key_mask = torch.arange(6).expand(2, 6) < real
    values = attention_loss(*torch.from_numpy(scores), key_mask)
    expected = numpy_kl(*scores[..., :real].astype(np.float64)).mean(1)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


@few
@given(seeds, st.sampled_from([1, 2, 4]))
def test_relations_equal_float64_numpy_whatever_the_heads(seed, heads):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(2, 2, 5, 4)), rng.normal(size=(2, 3, 5, 8))  # [batch, heads, seq, size]
    real = np.array([[True] * 5, [True] * 3 + [False] * 2])

    def log_relations(projection):
        flat = projection.transpose(0, 2, 1, 3).reshape(2, 5, heads, -1).transpose(0, 2, 1, 3)
        scores = flat @ flat.transpose(0, 1, 3, 2) / np.sqrt(flat.shape[-1])
        scores = np.where(real[:, None, None], scores, -np.inf)
        return scores - np.log(np.exp(scores).sum(-1, keepdims=True))

    own, others = log_relations(student), log_relations(teacher)
    with np.errstate(invalid="ignore"):
        expected = np.where(real[:, None, None], np.exp(others) * (others - own), 0).sum(-1).mean(1)
    found = relation_loss(torch.tensor(student), torch.tensor(teacher), heads, torch.tensor(real))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


@few
@given(seeds, st.floats(0.0, 1.0), st.floats(0.5, 8.0))
def test_masked_lm_equals_float64_numpy(seed, alpha, temperature):
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(0.0, 2.0, (2, 7, 11)).astype(np.float32)
    labels = generator.integers(0, 11, 7)
    terms = masked_lm_distillation(
        torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(labels), alpha, temperature
    )
    s, t = student.astype(np.float64), teacher.astype(np.float64)
    hard = -np.log(numpy_softmax(s)[np.arange(7), labels])
    soft = numpy_kl(s / temperature, t / temperature) * temperature**2
    np.testing.assert_allclose(terms.hard, hard, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(terms.soft, soft, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(terms.combined, alpha * hard + (1 - alpha) * soft, rtol=1e-4, atol=1e-5)


@few
@given(seeds)
def test_nothing_is_lost_between_equals_and_something_between_others(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 2, 5, 8, generator=generator)
    scores = torch.randn(2, 2, 3, 5, 5, generator=generator)
    logits = torch.randn(2, 4, 9, generator=generator)
    labels = torch.zeros(4, dtype=torch.long)
    same = [
        *feature_map_loss(features[0], features[0]),
        attention_loss(scores[0], scores[0], None),
        masked_lm_distillation(logits[0], logits[0], labels, temperature=2.0).soft,
    ]
    other = [
        *feature_map_loss(*features),
        attention_loss(*scores, None),
        masked_lm_distillation(*logits, labels, temperature=2.0).soft,
    ]
    assert all(torch.equal(value, torch.zeros_like(value)) for value in same)
    assert all((value >= 0.0).all() and value.sum() > 0.0 for value in other)


@few
@given(seeds, st.sampled_from([0.0, 1e4, -1e30, 3e38, float("inf"), float("nan")]))
def test_padded_keys_change_nothing_and_get_zero_gradient(seed, filling):
    scores = torch.randn(2, 2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    key_mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    filled = scores.clone()
    filled[:, 1, ..., 4:] = filling
    values, gradients = [], []
    for student, teacher in (scores, filled):
        student = student.clone().requires_grad_()
        value = attention_loss(student, teacher, key_mask)
        masked_mean(value, key_mask).backward()
        values.append(value.detach())
        gradients.append(student.grad)
    assert torch.equal(*values)
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()
    assert not gradients[0][1, ..., 4:].any()
    # Rows of padded queries reach no loss.
    assert not gradients[0][1, :, 4:].any()


def test_a_fully_padded_sequence_gives_zero_and_no_nan():
    scores = torch.randn(2, 2, 3, 5, 5)
    student = scores[0].clone().requires_grad_()
    key_mask = torch.tensor([[False] * 5, [True] * 5])
    values = attention_loss(student, scores[1], key_mask)
    values.sum().backward()
    assert not values[0].any()
    assert not student.grad[0].any()
    assert student.grad.isfinite().all()
    assert values[1].all()


def test_gradients_are_finite_for_huge_constant_and_equal_features():
    huge = torch.randn(1, 3, 8) * 1e7
    for teacher in (torch.zeros(1, 3, 8), torch.ones(1, 3, 8), huge, -huge):
        for start in (torch.zeros(1, 3, 8), huge):
            student = start.clone().requires_grad_()
            sum(term.sum() for term in feature_map_loss(student, teacher)).backward()
            assert student.grad.isfinite().all()


def test_attention_gradient_is_that_of_the_cross_entropy():
    student, teacher = torch.randn(2, 2, 3, 5, 5)
    student.requires_grad_()
    attention_loss(student, teacher, None).mean().backward()
    ours, student.grad = student.grad, None
    (-teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean().backward()
    torch.testing.assert_close(ours, student.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_everything_is_computed_in_float32(dtype):
    features, scores, logits = torch.randn(2, 2, 5, 8), torch.randn(2, 2, 3, 5, 5), torch.randn(2, 4, 2)
    labels = torch.tensor([0, 1, 1, 0])
    with torch.autocast("cpu", torch.bfloat16):
        for inputs, function in (
            (features, lambda s, t: feature_map_loss(s, t).normalized),
            (scores, lambda s, t: attention_loss(s, t, None)),
            (logits, lambda s, t: masked_lm_distillation(s, t, labels).combined),
            (logits, lambda s, t: next_sentence(s, labels)),
            (features, lambda s, t: masked_mean(s, torch.ones(s.shape, dtype=torch.bool))),
        ):
            value = function(*inputs.to(dtype))
            assert value.dtype == torch.float32
            assert torch.equal(value, function(*inputs.to(dtype).float()))


def test_without_teacher_the_masked_lm_loss_is_the_hard_one():
    logits, labels = torch.randn(4, 9), torch.tensor([1, 2, 3, 4])
    terms = masked_lm_distillation(logits, None, labels)
    assert torch.equal(terms.combined, terms.hard)
    assert not terms.soft.any()


def test_ignored_labels_lose_nothing():
    student, teacher = torch.randn(2, 4, 2)
    labels = torch.tensor([0, IGNORED_LABEL, 1, IGNORED_LABEL])
    for values in (*masked_lm_distillation(student, teacher, labels), next_sentence(student, labels)):
        assert not values[1::2].any()
        assert values[::2].all()


def test_no_masked_positions_at_all():
    empty, labels = torch.empty(0, 9), torch.empty(0, dtype=torch.long)
    assert all(values.shape == (0,) for values in masked_lm_distillation(empty, empty, labels))


@few
@given(seeds)
def test_masked_mean_ignores_what_is_masked(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 4, generator=generator)
    mask = torch.rand(3, 4, generator=generator) < 0.5
    expected = values[mask].mean() if mask.any() else torch.tensor(0.0)
    torch.testing.assert_close(masked_mean(values.masked_fill(~mask, float("nan")), mask), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: feature_map_loss(torch.ones(2, 3, 4), torch.ones(2, 3, 5)), r"\(2, 3, 4\).*\(2, 3, 5\)"),
        (lambda: feature_map_loss(torch.ones(3, 4), torch.ones(3, 4)), r"\[batch, seq, width\]"),
        (
            lambda: attention_loss(torch.ones(1, 2, 3, 3), torch.ones(1, 4, 3, 3), None),
            r"\(1, 2, 3, 3\).*\(1, 4, 3, 3\)",
        ),
        (
            lambda: attention_loss(*torch.ones(2, 1, 2, 3, 3), torch.ones(1, 4, dtype=torch.bool)),
            r"key_mask has shape \(1, 4\).*\(1, 3\)",
        ),
        (lambda: attention_loss(*torch.ones(2, 1, 2, 3, 3), torch.ones(1, 3)), "torch.float32.*torch.bool"),
        (
            lambda: masked_lm_distillation(torch.ones(3, 9), torch.ones(3, 8), torch.zeros(3, dtype=torch.long)),
            r"\(3, 9\).*\(3, 8\)",
        ),
        (
            lambda: masked_lm_distillation(torch.ones(3, 9), None, torch.zeros(2, dtype=torch.long)),
            r"student_logits has shape \(3, 9\) and labels \(2,\).*\[n, vocab\] and \[n\]",
        ),
        (lambda: masked_lm_distillation(torch.ones(1, 2), None, torch.tensor([0]), alpha=1.5), "alpha is 1.5"),
        (lambda: masked_lm_distillation(torch.ones(1, 2), None, torch.tensor([0]), temperature=0.0), "above 0"),
        (lambda: next_sentence(torch.ones(3, 2), torch.zeros(3, 1).long()), r"\(3, 2\) and labels \(3, 1\)"),
        (lambda: masked_mean(torch.ones(3), torch.ones(2, dtype=torch.bool)), r"mask has shape \(2,\).*\(3,\)"),
    ],
)
def test_errors_name_the_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
