"""Small models, batches and comparisons for the tests of MobileBERT and IB-BERT."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilebert_hf import IBBertConfig, MobileBertConfig, models
from mobilebert_hf.models.encoder import NoNorm

FIXTURES = Path(__file__).parents[1] / "fixtures"
VOCAB = 99
HEADS = (
    "Model",
    "ForPreTraining",
    "ForMaskedLM",
    "ForNextSentencePrediction",
    "ForSequenceClassification",
    "ForQuestionAnswering",
    "ForTokenClassification",
    "ForMultipleChoice",
)
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "embedding_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
STUDENT = {**SMALL, "intra_bottleneck_size": 32, "intermediate_size": 48}
TINY = {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False, "num_feedforward_networks": 2}
# Students that fold in different ways.
SHAPES = {
    "mobilebert": {},
    "tiny": TINY,
    "query and key read the wide state": {"key_query_shared_bottleneck": False},
    "gelu": {"hidden_act": "gelu"},
    "no trigram": {"trigram_input": False},
    "padding seen": {"mask_padding": False},
    "pooler": {"classifier_activation": True},
}
TEACHER = {**SMALL, "intra_bottleneck_size": 96, "intermediate_size": 128}


def student_config(**fields):
    return MobileBertConfig(**{**STUDENT, **fields})


def teacher_config(**fields):
    return IBBertConfig(**{**TEACHER, **fields})


FAMILIES = {"MobileBert": student_config, "IBBert": teacher_config}


def shake(model, pad_row=False):
    """Randomizes all parameters, including norms and biases, which are initialized to ones and zeros."""
    table = model.base_model.embeddings.word_embeddings
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if not pad_row:
            table.weight[table.padding_idx] = 0
    return model


def build(family="MobileBert", head="Model", pad_row=False, **fields):
    """A small model of `family` in evaluation mode, always with the same weights; `pad_row` sets a [PAD] embedding."""
    torch.manual_seed(0)
    model = getattr(models, f"{family}{head}")(FAMILIES[family](**fields))
    return shake(model, pad_row).eval()


def make_batch(lengths=(12, 9, 5), head="Model"):
    """A padded batch of sequences of `lengths` tokens; for `ForMultipleChoice`, the choices of one question."""
    generator = torch.Generator().manual_seed(1)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    batch = {
        "input_ids": torch.randint(1, VOCAB, shape, generator=generator) * mask,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, shape, generator=generator) * mask,
    }
    return {name: x[None] for name, x in batch.items()} if head == "ForMultipleChoice" else batch


def make_labels(head, batch):
    """Random labels for `head`, -100 for padding."""
    shape = batch["input_ids"].shape
    generator = torch.Generator().manual_seed(2)

    def draw(high, size):
        return torch.randint(0, high, size, generator=generator)

    per_token = draw(2, shape).masked_fill(batch["attention_mask"] == 0, -100)
    return {
        "Model": {},
        "ForPreTraining": {"labels": per_token, "next_sentence_label": draw(2, shape[:1])},
        "ForMaskedLM": {"labels": per_token},
        "ForNextSentencePrediction": {"labels": draw(2, shape[:1])},
        "ForSequenceClassification": {"labels": draw(2, shape[:1])},
        "ForQuestionAnswering": {"start_positions": draw(5, shape[:1]), "end_positions": draw(5, shape[:1])},
        "ForTokenClassification": {"labels": per_token},
        "ForMultipleChoice": {"labels": draw(3, shape[:1])},
    }[head]


@torch.no_grad()
def run(model, **inputs):
    return model(**inputs)


def relative_error(actual, expected):
    """Largest absolute difference over the largest absolute expected value."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def assert_close(actual, expected, tolerance=1e-5):
    assert relative_error(actual, torch.as_tensor(expected)) <= tolerance


def assert_same_outputs(actual, expected, tolerance=1e-5):
    """Compares every tensor of two model outputs."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        pairs = zip(actual[name], value, strict=True) if isinstance(value, tuple) else [(actual[name], value)]
        for ours, theirs in pairs:
            assert relative_error(ours, theirs) <= tolerance, name


def worst(actual, expected):
    return max(relative_error(actual[name], value) for name, value in expected.items() if torch.is_tensor(value))


def scaled(draw_exponent, zeros, shape):
    """A student with norm weights of any size and sign."""
    model = build(head="ForQuestionAnswering", num_hidden_layers=2, **shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NoNorm):
                size = module.weight.shape
                signs = torch.randint(0, 2, size, generator=generator) * 2 - 1
                exponents = (torch.rand(size, generator=generator) * 2 - 1) * draw_exponent
                module.weight.copy_(signs * 10**exponents)
                module.weight[torch.rand(size, generator=generator) < zeros] = 0
                module.bias.normal_(generator=generator)
    return model


def median_error(actual, expected):
    """The median over sequences of the largest error, relative to the output's largest value."""
    errors = [(actual[name] - exact).abs().amax(-1) / exact.abs().max() for name, exact in expected.items()]
    return torch.stack(errors).amax(0).median().item()


ORIGINAL_LAYER_NAMES = (
    ("LayerNorm/gamma", "LayerNorm/weight"),
    ("LayerNorm/beta", "LayerNorm/bias"),
    ("kernel", "weight"),
    ("FakeLayerNorm", "LayerNorm"),
    ("bert/", "mobilebert/"),
    ("encoder/layer_", "encoder/layer/"),
    ("ffn_layer_", "ffn/"),
    ("_embeddings", "_embeddings/weight"),
)
ORIGINAL_HEAD_NAMES = {
    "cls/predictions/extra_output_weights": "cls/predictions/dense/weight",
    "cls/predictions/output_bias": "cls/predictions/bias",
    "cls/seq_relationship/output_weights": "cls/seq_relationship/weight",
    "cls/seq_relationship/output_bias": "cls/seq_relationship/bias",
}


class Original:
    """A model of the original code: its configuration, its weights by this package's names, and its outputs."""

    def __init__(self, name):
        self.arrays = dict(np.load(FIXTURES / f"google_{name}.npz"))

    def config_fields(self):
        fields = json.loads(str(self.arrays["config_json"]))
        # In the original code "gelu" is the tanh approximation, padding is not masked, and every epsilon is 1e-12.
        act = "gelu_pytorch_tanh" if fields["hidden_act"] == "gelu" else fields["hidden_act"]
        return {**fields, "hidden_act": act, "mask_padding": False}

    def state_dict(self):
        named = {k.removeprefix("w/"): v for k, v in self.arrays.items() if k.startswith("w/")}
        weights = dict(self._convert(name, array) for name, array in named.items())
        weights["cls.predictions.decoder.weight"] = weights["mobilebert.embeddings.word_embeddings.weight"]
        weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
        return weights

    def case(self, name):
        """Inputs and outputs of one case, as tensors."""
        prefix = f"{name}/"
        found = {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}
        return {k: torch.from_numpy(np.asarray(v)) for k, v in found.items() if "/" not in k}

    def _convert(self, name, array):
        if name.endswith(("kernel", "extra_output_weights")):
            array = array.T
        name = ORIGINAL_HEAD_NAMES.get(name, name)
        for theirs, ours in ORIGINAL_LAYER_NAMES:
            name = name.replace(theirs, ours)
        return name.replace("/", "."), torch.from_numpy(array.copy())


def at_real_tokens(output, mask):
    """The tensors of `output`, without padding."""
    return {name: x[mask.bool()] if x.shape[:2] == mask.shape else x for name, x in output.items()}


families = pytest.mark.parametrize("family", FAMILIES)
heads = pytest.mark.parametrize("head", HEADS)
