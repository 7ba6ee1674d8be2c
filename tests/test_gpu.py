"""What only an accelerator shows; run with `-m gpu`."""

import pytest
import torch

from mobilebert_hf.data import PretrainingCollator
from mobilebert_hf.distillation import DistillationArguments, DistillationTrainer

from .helpers import pretraining_model, training_arguments, training_logs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("family", ["IBBert", "MobileBert"])
def test_kernels_agree_and_compile_without_graph_breaks(family, tiny_tokenizer, tiny_examples):
    batch = PretrainingCollator(tiny_tokenizer)([tiny_examples["train"][index] for index in range(8)])
    inputs = {name: batch[name].cuda() for name in ("input_ids", "attention_mask", "token_type_ids")}
    model = pretraining_model(family, tiny_tokenizer).cuda().eval()
    with torch.no_grad():
        expected = model(**inputs).prediction_logits
        for kernel in ("eager", "flex_attention"):
            model.set_attn_implementation(kernel)
            torch.testing.assert_close(model(**inputs).prediction_logits, expected, rtol=1e-3, atol=1e-3)
        model.set_attn_implementation("sdpa")
        compiled = torch.compile(model, fullgraph=True)
        torch.testing.assert_close(compiled(**inputs).prediction_logits, expected, rtol=1e-3, atol=1e-3)


def test_distillation_in_bfloat16_with_a_bfloat16_teacher(tiny_tokenizer, tiny_examples, tmp_path):
    trainer = DistillationTrainer(
        pretraining_model("MobileBert", tiny_tokenizer),
        pretraining_model("IBBert", tiny_tokenizer),
        training_arguments(
            DistillationArguments, tmp_path, transfer_steps=60, distillation_steps=20, bf16=True, use_cpu=False
        ),
        train_dataset=tiny_examples["train"],
        eval_dataset=tiny_examples["validation"],
        data_collator=PretrainingCollator(tiny_tokenizer),
    )
    assert trainer.teacher.dtype == torch.bfloat16
    trainer.train()
    logs = [line for line in training_logs(trainer) if "layer_0/feature_map" in line]
    assert logs[-1]["layer_0/feature_map"] < logs[0]["layer_0/feature_map"]
    assert trainer.evaluate()["eval_masked_lm_loss"] > 0
