"""What teachers of many families, as they are published, become: a right student, or a sentence that says why not."""

import json
import shutil

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoTokenizer

from mobilebert_hf.data import PretrainingCollator, PretrainingDataArguments
from mobilebert_hf.distillation import StudentArguments
from mobilebert_hf.distillation.students import plan_student

from .encoders import WORDS, byte_tokenizer, save_teacher, unigram_tokenizer

HARD = ["", "The CAT sat; naïve café!", "[MASK] </s> [SEP]", "日本語 ελληνικά", "a\u200bb  c\td", "🙂 x" * 3]
OVERRIDES = {"intra_bottleneck_size": 16, "intermediate_size": 32, "embedding_size": 16, "num_attention_heads": 2}
# Whose students are pruned copies by default.
PRUNED = {"Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert"}
# The family and the class of a teacher, changes of its configuration, its tokenizer, and what its student learns.
TEACHERS = {
    "BERT": ("Bert", "Model", {}, "words", "features"),
    "BERT, masked LM": ("Bert", "ForMaskedLM", {}, "words", "masked_lm"),
    "BERT, pre-training": ("Bert", "ForPreTraining", {}, "words", "masked_lm"),
    "BERT, untied": ("Bert", "ForMaskedLM", {"tie_word_embeddings": False}, "words", "masked_lm"),
    "BERT, classifier": ("Bert", "ForSequenceClassification", {}, "words", "features"),
    "RoBERTa": ("Roberta", "ForMaskedLM", {"type_vocab_size": 1}, "bytes", "masked_lm"),
    "XLM-R": ("XLMRoberta", "ForMaskedLM", {"type_vocab_size": 1}, "unigram", "masked_lm"),
    "CamemBERT": ("Camembert", "ForMaskedLM", {"type_vocab_size": 1}, "unigram", "masked_lm"),
    "DistilBERT": ("DistilBert", "ForMaskedLM", {}, "words", "masked_lm"),
    "ELECTRA generator": ("Electra", "ForMaskedLM", {"embedding_size": 16}, "words", "masked_lm"),
    "ELECTRA discriminator": ("Electra", "ForPreTraining", {"embedding_size": 16}, "words", "features"),
    "MPNet": ("MPNet", "ForMaskedLM", {}, "bytes", "masked_lm"),
    "ModernBERT": ("ModernBert", "Model", {}, "words", "features"),
    "ModernBERT, masked LM": ("ModernBert", "ForMaskedLM", {}, "words", "masked_lm"),
    "ModernBERT, untied": ("ModernBert", "ForMaskedLM", {"tie_word_embeddings": False}, "words", "masked_lm"),
    "DeBERTa v2": (
        "DebertaV2",
        "ForMaskedLM",
        {"conv_kernel_size": 3, "relative_attention": True, "position_biased_input": False},
        "words",
        "masked_lm",
    ),
    "DeBERTa v3": (
        "DebertaV2",
        "Model",
        {"relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0},
        "unigram",
        "features",
    ),
    "ALBERT": ("Albert", "ForMaskedLM", {"embedding_size": 16}, "words", "masked_lm"),
    "NomicBERT": ("NomicBert", "Model", {}, "words", "features"),
    "EuroBERT": ("EuroBert", "ForMaskedLM", {"num_key_value_heads": 2}, "words", "masked_lm"),
    "padding 0 here and 1 there": ("Bert", "Model", {"pad_token_id": 0}, "unigram", "features"),
    "more rows than tokens": ("Bert", "ForMaskedLM", {"vocab_size": 256}, "words", "masked_lm"),
}


@pytest.fixture(scope="module")
def tokenizers(tiny_tokenizer):
    return {"words": tiny_tokenizer, "unigram": unigram_tokenizer(), "bytes": byte_tokenizer()}


def plan(folder, length=24, **student):
    data = PretrainingDataArguments(corpus=["none"], max_seq_length=length)
    options = {"size": "small", "config_overrides": OVERRIDES, **student}
    return plan_student(StudentArguments(teacher=str(folder), **options), data)


def save_odd(folder, tokenizer, family, cls, changes=None):
    """A model that `save_teacher` has no sizes for."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **(changes or {}))
    getattr(transformers, cls)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("name", TEACHERS)
def test_a_student_is_what_its_teacher_is(tmp_path, tokenizers, name):
    family, head, changes, kind, output = TEACHERS[name]
    tokenizer = tokenizers[kind]
    teacher = save_teacher(tmp_path / "teacher", tokenizer, family, head, **changes)
    planned = plan(teacher)
    assert planned.output == output
    assert planned.config.max_position_embeddings == 24
    assert planned.config.pad_token_id == tokenizer.pad_token_id
    planned.tokenizer.save_pretrained(tmp_path / "student")
    own, others = (AutoTokenizer.from_pretrained(tmp_path / each) for each in ("student", "teacher"))
    assert own(HARD, ["a cat"] * len(HARD)).data == others(HARD, ["a cat"] * len(HARD)).data
    # A pair goes through the student, whatever token types the tokenizer gives.
    frame = own("a")["input_ids"]
    texts = [" ".join(WORDS[start % 20 : start % 20 + 6]) for start in range(60)]
    rows = [[frame[0], *own(text, add_special_tokens=False)["input_ids"][:20], frame[-1]] for text in texts]
    examples = Dataset.from_dict(
        {"input_ids": rows, "token_type_ids": [[0] * len(row) for row in rows], "next_sentence_label": [-100] * 60}
    )
    collate = PretrainingCollator(planned.tokenizer, 0.15 if output == "masked_lm" else 0.0)
    pair = own("a cat", "the dog", return_tensors="pt")
    by_default = plan(teacher, size="auto", config_overrides={"embedding_size": 16})
    assert by_default.config.use_bottleneck == (family not in PRUNED)
    for each in (planned, by_default) if family in PRUNED else (planned,):
        student, report = each.initialize(0, examples, collate)
        assert min(report["layer_similarity"]) > 0.6
        assert ("logit_variance" in report) == (output == "masked_lm")
        assert student(**pair)[0].isfinite().all()


def test_weights_that_a_configuration_promises_are_looked_for(tmp_path, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    edit_config(teacher, architectures=["BertForMaskedLM"])
    planned = plan(teacher)
    assert planned.output == "features"
    assert "has no weights of a masked-LM head (missing: cls.predictions" in planned.notes[0]
    with pytest.raises(ValueError, match=r"objective='masked_lm': .* has no weights of a masked-LM head"):
        plan(teacher, objective="masked_lm")
    edit_config(teacher, num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"The weights of .* are incomplete: .*encoder\.layer\.3.* are missing"):
        plan(teacher)


def test_without_a_name_of_its_class_the_weights_decide(tmp_path, tiny_tokenizer):
    for head, output in (("ForMaskedLM", "masked_lm"), ("Model", "features")):
        teacher = save_teacher(tmp_path / head, tiny_tokenizer, head=head)
        edit_config(teacher, architectures=None)
        assert plan(teacher).output == output


@pytest.mark.parametrize(
    ("family", "cls", "changes", "message"),
    [
        ("Llama", "LlamaModel", {}, "LlamaModel cannot be a teacher: it reads from left to right only"),
        ("GPT2", "GPT2Model", {"n_positions": 64}, "GPT2Model cannot be a teacher: it reads from left to right only"),
        ("T5", "T5Model", {"d_kv": 16}, "T5Model cannot be a teacher: it is an encoder-decoder"),
        ("XLNet", "XLNetModel", {}, r"XLNetModel cannot be a teacher: the output of its layer -1 is \[6, 2, 32\]"),
    ],
)
def test_other_networks_are_refused_with_the_reason(tmp_path, tiny_tokenizer, family, cls, changes, message):
    sizes = {
        "Llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
        "T5": {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2},
        "XLNet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    }[family]
    with pytest.raises(ValueError, match=message):
        plan(save_odd(tmp_path / "teacher", tiny_tokenizer, family, cls, {**sizes, **changes}))


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, tiny_tokenizer, tokenizers):
    teacher = save_teacher(tmp_path / "a", tiny_tokenizer, vocab_size=100)
    with pytest.raises(
        ValueError, match=r"with this tokenizer, which has \d+ tokens: the model has embeddings of 100"
    ):
        plan(teacher)
    teacher = save_teacher(tmp_path / "b", tokenizers["bytes"], "Roberta", "ForMaskedLM", pad_token_id=0)
    with pytest.raises(ValueError, match="counts positions by its pad_token_id, 0, but <pad> has the id 1"):
        plan(teacher)


def test_positions_are_those_that_are_trained_or_copied(tmp_path, tiny_tokenizer):
    absolute, rotary = (save_teacher(tmp_path / family, tiny_tokenizer, family) for family in ("Bert", "ModernBert"))
    assert plan(absolute, 16).config.max_position_embeddings == 16
    assert plan(absolute, 16, max_length=48).config.max_position_embeddings == 48
    for teacher, options, message in (
        (absolute, {"max_length": 65}, "reads at most 64 tokens, but the student is to read 65: set max_length"),
        (absolute, {"max_length": 8}, "max_length=8 is shorter than the longest training examples, 16"),
        (rotary, {"max_length": 48}, "has no table of positions to copy from, so only the 16 of"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(teacher, 16, **options)
    default = PretrainingDataArguments(corpus=["none"])
    student = StudentArguments(teacher=str(absolute), size="small", config_overrides=OVERRIDES)
    assert plan_student(student, default).config.max_position_embeddings == default.max_seq_length == 64


def test_pickles_need_consent(tmp_path, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "teacher", tiny_tokenizer)
    network = transformers.AutoModel.from_pretrained(teacher)
    torch.save(network.state_dict(), teacher / "pytorch_model.bin")
    (teacher / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"only as pytorch_model\.bin, a pickle, .* --allow_pickle true"):
        plan(teacher)
    assert plan(teacher, allow_pickle=True).output == "features"


REMOTE_CODE = """
from transformers import BertConfig, BertModel

class OwnConfig(BertConfig):
    model_type = "own-bert"

class OwnModel(BertModel):
    config_class = OwnConfig

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.emb = self.embeddings  # under a name of its own
        del self.embeddings
        self.post_init()

    def get_input_embeddings(self):
        return self.emb.word_embeddings

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **kwargs):
        states = self.emb(input_ids, token_type_ids)
        mask = (1 - attention_mask[:, None, None].to(states.dtype)) * -1e4
        for layer in self.encoder.layer:
            states = layer(states, mask)
            states = states if not isinstance(states, tuple) else states[0]
        from transformers.modeling_outputs import BaseModelOutput
        return BaseModelOutput(last_hidden_state=states)
"""


def test_remote_code_needs_consent(tmp_path, tiny_tokenizer):
    teacher = save_teacher(tmp_path / "own_teacher", tiny_tokenizer)
    (teacher / "modeling_own.py").write_text(REMOTE_CODE)
    names = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    edit_config(teacher, model_type="own-bert", architectures=["OwnModel"], auto_map=names)
    from safetensors.torch import load_file, save_file

    weights = load_file(teacher / "model.safetensors")
    renamed = {name.replace("embeddings.", "emb.", 1) if name.startswith("embeddings.") else name: value
               for name, value in weights.items()}  # fmt: skip
    save_file(renamed, teacher / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"needs Python code that comes with its weights: .*--trust_remote_code true"):
        plan(teacher)
    planned = plan(teacher, trust_remote_code=True)
    assert planned.config.num_hidden_layers == 3
    shutil.rmtree(teacher)
