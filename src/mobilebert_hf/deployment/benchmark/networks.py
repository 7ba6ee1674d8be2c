"""The networks of the benchmark: a student exported by this package, others exported by their own tools."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ...models import MobileBertConfig, MobileBertForQuestionAnswering, fold
from ...models.fake_quantization import disable_fake_quantization
from ...tasks.heads import QUESTION_ANSWERING, Task
from ..check import network_inputs
from ..formats import FORMATS, openvino, tflite
from ..network import Batches, foldable, prepare_for_export
from ..ort_int8 import RELUS
from ..student import INPUTS, dynamic_shapes, load_student, sample_inputs, unfolded_config

OURS = "MobileBERT, this package"
STOCK = "MobileBERT, transformers"
DISTILBERT = "DistilBERT"
BERT = "BERT_BASE"
NETWORKS = (OURS, STOCK, DISTILBERT, BERT)
PRECISIONS = ("float32", "bfloat16", "int8")


def build_network(name: str, model: str | None) -> PreTrainedModel:
    """Builds a network for question answering with random weights, or loads the student with its own head.

    Args:
        name: One of `NETWORKS`.
        model: Hub id or folder of a student. By default a MobileBERT of the paper's size.
    """
    torch.manual_seed(0)
    if name == BERT:
        return transformers.BertForQuestionAnswering(transformers.BertConfig()).eval()
    if name == DISTILBERT:
        return transformers.DistilBertForQuestionAnswering(transformers.DistilBertConfig()).eval()
    ours = MobileBertForQuestionAnswering(MobileBertConfig()) if model is None else load_student(model)[0]
    disable_fake_quantization(ours)
    if name == STOCK:
        config = transformers.MobileBertConfig(**{**unfolded_config(ours.config).to_dict(), "architectures": None})
        return transformers.MobileBertForQuestionAnswering(config).eval()
    return ours.eval()


def build_networks(model: str | None) -> dict[str, PreTrainedModel]:
    """Builds all `NETWORKS`."""
    return {name: build_network(name, model) for name in NETWORKS}


def count_flops(network: PreTrainedModel, length: int) -> int:
    """Counts the FLOPs of all matmuls for one sequence of `length` tokens; a multiply-add is 2 FLOPs."""
    counter = FlopCounterMode(display=False)
    attention = network.config._attn_implementation
    network.set_attn_implementation("eager")  # the counter sees its matmuls
    with counter, torch.inference_mode():
        network(**network_inputs(network, sample_inputs(network, 1, length)))
    network.set_attn_implementation(attention)
    return counter.get_total_flops()


def prepare_pytorch(name: str, network: PreTrainedModel) -> PreTrainedModel:
    """Folds the student; returns other networks unchanged."""
    return fold(network) if name == OURS and foldable(network) else network


def precisions_of(runtime: str) -> list[str]:
    """Returns the precisions of a runtime. bfloat16 is for OpenVINO on processors that support it."""
    if runtime == "pytorch":
        return ["float32"]
    return [name for name in PRECISIONS if name != "bfloat16" or (runtime == "openvino" and openvino.has_bfloat16())]


@dataclass(frozen=True)
class Setting:
    """A runtime (a format, or `"pytorch"`), one of `PRECISIONS`, and the sequence lengths that graphs must support."""

    runtime: str
    precision: str
    lengths: tuple[int, ...]

    @property
    def int8(self) -> bool:
        """Whether the graph is quantized. bfloat16 uses the float32 graph."""
        return self.precision == "int8"

    def calibration(self, network: PreTrainedModel) -> Batches:
        """Returns random batches for calibration, which are enough to measure speed."""
        return [sample_inputs(network, 2, min(128, max(self.lengths)), seed) for seed in range(2)]


def write_ours(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    """Exports the student with this package. int8 is static if the student supports it, except in LiteRT: slower."""
    task = Task("any", "AutoModel", tuple(network(**sample_inputs(network, 1, 8)).keys()))
    static = network.config.normalization_type == "no_norm" and network.config.hidden_act in RELUS
    int8 = "int8-static" if static and setting.runtime != "tflite" else "int8"
    quantize, backend = int8 if setting.int8 else None, FORMATS[setting.runtime]
    calibration = setting.calibration(network) if quantize == "int8-static" else ()
    prepared = prepare_for_export(network, folded=quantize not in backend.FOLDS)
    backend.write(prepared, task, path, quantize, calibration)


def write_stock(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    """Exports another network with transformers' exporters and the runtimes' quantizers, with the fastest options."""
    EXPORTERS[setting.runtime](network, path, setting)


def _onnx(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    import onnx_ir
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    dynamic = OnnxRuntimeDynamicConfig(weight_type=QuantType.QInt8)
    quantizer = OnnxRuntimeQuantizer(dynamic) if setting.int8 else None
    config = OnnxConfig(dynamic=True, dynamic_shapes=_shapes(network), ort_fusions="cpu", quantizer=quantizer)
    with redirect_stdout(io.StringIO()):
        program: Any = OnnxExporter().export(network, _example(network), config=config).program
    onnx_ir.save(program, str(path))


def _openvino(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFQuantizationConfig
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    inputs = [network_inputs(network, dict(batch)) for batch in setting.calibration(network)]
    nncf_config = NNCFQuantizationConfig(subset_size=len(inputs))
    quantizer = NNCFOpenVINOQuantizer(nncf_config, inputs) if setting.int8 else None
    config = OpenVINOConfig(dynamic=True, dynamic_shapes=_shapes(network), quantizer=quantizer)
    program = OpenVINOExporter().export(network, _example(network), config=config).program
    OpenVINOExporter.save_program(program, path)


def _tflite(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    signatures = {f"tokens_{length}": length for length in setting.lengths}
    tflite.convert(_Adapter(network), QUESTION_ANSWERING, path, signatures)
    if setting.int8:
        tflite.quantize_file(path, "int8", {})


EXPORTERS: dict[str, Callable[..., None]] = {"onnx": _onnx, "openvino": _openvino, "tflite": _tflite}


class _Adapter(nn.Module):
    """Accepts all three inputs and passes on those that the network accepts."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network, self.config = network, network.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        values = dict(zip(INPUTS, (input_ids, attention_mask, token_type_ids), strict=True))
        return self.network(**network_inputs(self.network, values))


def _shapes(network: PreTrainedModel) -> dict[str, Any]:
    return network_inputs(network, dynamic_shapes(network))


def _example(network: PreTrainedModel) -> dict[str, Any]:
    return network_inputs(network, dict(sample_inputs(network, 2, 16)))
