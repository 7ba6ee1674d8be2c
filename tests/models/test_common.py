"""transformers' common model tests on MobileBERT and IB-BERT."""

import unittest

import pytest
import torch

from mobilebert_hf import IBBertConfig, MobileBertConfig, models

from .transformers_common_tests import import_common_tests

common = import_common_tests()

TABLES = {
    "MaskedLM": "MASKED_LM",
    "MultipleChoice": "MULTIPLE_CHOICE",
    "NextSentencePrediction": "NEXT_SENTENCE_PREDICTION",
    "PreTraining": "PRETRAINING",
    "QuestionAnswering": "QUESTION_ANSWERING",
    "SequenceClassification": "SEQUENCE_CLASSIFICATION",
    "TokenClassification": "TOKEN_CLASSIFICATION",
}


class Tester:
    """The model tester that the common tests require."""

    batch_size = 13
    seq_length = 7
    num_choices = 4
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 64
    is_training = True

    def __init__(self, config_class, **fields):
        self.config_class = config_class
        self.fields = fields

    def get_config(self):
        return self.config_class(
            vocab_size=99,
            hidden_size=self.hidden_size,
            embedding_size=32,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            max_position_embeddings=512,
            type_vocab_size=16,
            initializer_range=0.02,
            **self.fields,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = [self.batch_size, self.seq_length]
        inputs = {
            "input_ids": common.ids_tensor(shape, 99),
            "token_type_ids": common.ids_tensor(shape, 16),
            "attention_mask": common.random_attention_mask(shape),
        }
        return self.get_config(), inputs


# The common tests look up class names in transformers' mappings.
common.MODEL_MAPPING_NAMES["ib_bert"] = "IBBertModel"
for head, table in TABLES.items():
    getattr(common, f"MODEL_FOR_{table}_MAPPING_NAMES")["ib_bert"] = f"IBBertFor{head}"


class FamilyTest(common.ModelTesterMixin):
    """The common tests, with labels of pre-training."""

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class.__name__.endswith("ForPreTraining"):
            batch, length = inputs["input_ids"].shape
            inputs["labels"] = torch.zeros((batch, length), dtype=torch.long)
            inputs["next_sentence_label"] = torch.zeros(batch, dtype=torch.long)
        return inputs


# Most of the common tests go through all classes. The heads are on the same body and have tests of their own: two
# classes in the fast tests.
def classes(family, *heads):
    return tuple(getattr(models, f"{family}{head}") for head in heads)


class MobileBertCommonTest(FamilyTest, unittest.TestCase):
    all_model_classes = classes("MobileBert", "Model", "ForPreTraining")

    def setUp(self):
        # The fields of stock transformers' own MobileBERT tester.
        self.model_tester = Tester(MobileBertConfig, intermediate_size=37, hidden_act="gelu")


class IBBertCommonTest(FamilyTest, unittest.TestCase):
    all_model_classes = classes("IBBert", "Model", "ForPreTraining")

    def setUp(self):
        self.model_tester = Tester(IBBertConfig, intra_bottleneck_size=96, intermediate_size=128)


@pytest.mark.slow
class MobileBertHeadsCommonTest(MobileBertCommonTest):
    all_model_classes = classes("MobileBert", *(f"For{head}" for head in TABLES if head != "PreTraining"))
    test_retain_grad_hidden_states_attentions = None  # it runs one class, whose first output has to be a tensor


@pytest.mark.slow
class IBBertHeadsCommonTest(IBBertCommonTest):
    all_model_classes = classes("IBBert", *(f"For{head}" for head in TABLES if head != "PreTraining"))
    test_retain_grad_hidden_states_attentions = None
