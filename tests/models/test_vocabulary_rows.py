"""Models with the rows of some tokens, against the models that they were taken from."""

import copy

import pytest
import torch
import transformers

from mobilebert_hf import MobileBertConfig, MobileBertForMaskedLM
from mobilebert_hf.models.vocabulary_rows import select_vocabulary, token_ids

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}
IDS = [0, 1, 2, 30, 3, 41, 7, 8, 49]
TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
MODELS = {
    "Bert/Model": {},
    "Bert/ForMaskedLM": {},
    "Bert/ForMaskedLM untied": {"tie_word_embeddings": False},
    "Bert/ForSequenceClassification": {},
    "Roberta/ForMaskedLM": TOKENS,
    "XLMRoberta/Model": TOKENS,
    "DistilBert/ForMaskedLM": {"n_layers": 1, "hidden_dim": 32},
    "MPNet/ForMaskedLM": TOKENS,
    "DebertaV2/ForMaskedLM": {},
    "Electra/ForPreTraining": {"embedding_size": 16},
    "Electra/ForMaskedLM": {"embedding_size": 16},
    "Albert/ForMaskedLM": {"embedding_size": 16},
    "ModernBert/ForMaskedLM": TOKENS,
    "MobileBert/ForMaskedLM": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "T5/ForConditionalGeneration": {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 32,
        "num_layers": 1,
        "decoder_start_token_id": 1,
    },
    "GPT2/LMHeadModel": {"bos_token_id": 2, "eos_token_id": [2, 3]},
}


def build(name):
    family, _, head = name.removesuffix(" untied").partition("/")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **MODELS[name]})
    return getattr(transformers, f"{family}{head}")(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_chosen_tokens(name):
    model = build(name)
    before = copy.deepcopy(model.state_dict())
    smaller = select_vocabulary(model, IDS)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    new = torch.tensor([[0, 3, 4, 5, 8, 2]])
    inputs = [{"input_ids": ids} for ids in (torch.tensor(IDS)[new], new)]
    if name.startswith("T5"):
        inputs = [{**each, "decoder_input_ids": each["input_ids"]} for each in inputs]
    expected, found = (network(**each)[0] for network, each in zip((model, smaller), inputs, strict=True))
    if expected.shape[-1] == 50:
        expected = expected[..., IDS]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert smaller.config.vocab_size == len(IDS)
    assert smaller.get_input_embeddings().num_embeddings == len(IDS)


@pytest.mark.parametrize("name", ["Bert/ForMaskedLM", "Bert/ForMaskedLM untied", "GPT2/LMHeadModel"])
def test_tied_weights_stay_tied(name):
    smaller = select_vocabulary(build(name), IDS)
    tied = smaller.get_output_embeddings().weight is smaller.get_input_embeddings().weight
    assert tied == ("untied" not in name)


def test_ids_in_the_configuration_follow():
    model = build("GPT2/LMHeadModel")
    model.generation_config.eos_token_id = [2, 3]
    model.config.pad_token_id = 12
    assert token_ids(model.config) == {2, 3, 12}
    smaller = select_vocabulary(model, IDS)
    assert (smaller.config.bos_token_id, smaller.config.eos_token_id, smaller.config.pad_token_id) == (2, [2, 4], None)
    assert smaller.generation_config.eos_token_id == [2, 4]


def test_the_dtype_stays():
    smaller = select_vocabulary(build("Bert/ForMaskedLM").to(torch.bfloat16), IDS)
    assert {value.dtype for value in smaller.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_students_of_this_package():
    """Its masked-LM head has a column for each token, too."""
    torch.manual_seed(0)
    model = MobileBertForMaskedLM(MobileBertConfig(**{**SIZES, **MODELS["MobileBert/ForMaskedLM"]})).eval()
    new = torch.tensor([[0, 3, 4, 5, 8, 2]])
    found = select_vocabulary(model, IDS)(new).logits
    torch.testing.assert_close(found, model(torch.tensor(IDS)[new]).logits[..., IDS], atol=1e-6, rtol=0)


def test_more_tokens_than_the_model_has():
    with pytest.raises(ValueError, match="ids go up to 50, but the model's vocab_size is 50"):
        select_vocabulary(build("Bert/Model"), [0, 50])


def test_weights_of_another_form():
    model = build("Bert/Model")
    model.config.vocab_size = 48  # the table still has 50 rows
    with pytest.raises(ValueError, match=r"embeddings.word_embeddings.weight of BertModel has shape \(50, 32\)"):
        select_vocabulary(model, [0, 1])
