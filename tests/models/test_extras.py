"""The models with optional libraries: adapters (PEFT) and ONNX."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

from .helpers import build, make_batch


@pytest.mark.parametrize("family", ["MobileBert", "IBBert"])
def test_a_merged_adapter_gives_the_outputs_of_the_adapted_model(family):
    model = build(family, "ForSequenceClassification")
    inputs = make_batch()
    before = model(**inputs).logits
    lora = LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["classifier"], init_lora_weights=False)
    adapted = get_peft_model(model, lora).eval()
    expected = adapted(**inputs).logits
    assert not torch.allclose(expected, before, atol=1e-3)
    torch.testing.assert_close(adapted.merge_and_unload()(**inputs).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["MobileBert", "IBBert"])
def test_an_onnx_export_with_dynamic_shapes_runs_in_onnx_runtime(family, tmp_path):
    model = build(family, "ForSequenceClassification")
    inputs = make_batch()
    exported = OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True))
    exported.save_pretrained(tmp_path)
    longer = {name: torch.cat([values, values], dim=1) for name, values in inputs.items()}
    with torch.no_grad():
        expected = model(**longer).logits
    logits = ExportedModel.from_pretrained(tmp_path)(**longer).logits
    torch.testing.assert_close(torch.as_tensor(logits), expected, rtol=1e-4, atol=1e-4)
