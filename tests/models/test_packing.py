"""Packed and padded batches give the same outputs, and padding is not computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from mobilebert_hf import MobileBertConfig, MobileBertForQuestionAnswering, MobileBertModel, fold
from mobilebert_hf.models.packing import PACKED

from ..deployment.helpers import SIZES, TINY


def both(head=MobileBertForQuestionAnswering, **fields):
    torch.manual_seed(0)
    model = head(MobileBertConfig(vocab_size=100, **{**SIZES, **fields})).eval()
    packed = fold(model)
    packed.set_attn_implementation(PACKED)
    return model, packed


def batch(lengths, left=False):
    longest = max(lengths)
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    if left:
        mask = mask.flip(1)
    ids = torch.randint(1, 100, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}


@pytest.mark.parametrize("fields", [{}, TINY])
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5), left=st.booleans())
def test_packed_outputs_equal_padded_outputs(fields, lengths, left):
    model, packed = both(**fields)
    inputs = batch(lengths, left)
    with torch.no_grad():
        expected, actual = model(**inputs), packed(**inputs)
    kept = inputs["attention_mask"].bool()
    for name in ("start_logits", "end_logits"):
        torch.testing.assert_close(actual[name][kept], expected[name][kept], rtol=1e-4, atol=1e-5)


def test_hidden_states_are_unpacked():
    model, packed = both(MobileBertModel)
    inputs = batch([5, 12, 9])
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True)
        actual = packed(**inputs, output_hidden_states=True)
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, rtol=1e-4, atol=1e-5)
    assert len(actual.hidden_states) == len(expected.hidden_states)
    for one, other in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(one[kept], other[kept], rtol=1e-4, atol=1e-5)
    assert not actual.last_hidden_state[~kept].any()


def test_packing_without_a_mask():
    model, packed = both()
    inputs = {"input_ids": batch([9, 9, 9])["input_ids"]}
    with torch.no_grad():
        torch.testing.assert_close(packed(**inputs)[0], model(**inputs)[0], rtol=1e-4, atol=1e-5)


def test_padding_is_not_computed_in_the_encoder():
    _, packed = both()
    counts = []
    for inputs in (batch([40, 10, 10, 10]), batch([40, 40, 40, 40])):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            packed(**inputs)
        layers = counter.get_flop_counts()["FoldedMobileBertForQuestionAnswering.mobilebert.encoder"]
        counts.append(sum(flops for operator, flops in layers.items() if "addmm" in str(operator)))
    assert counts[0] * 160 == counts[1] * 70
