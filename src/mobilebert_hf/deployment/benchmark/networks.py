"""What is compared: a student as this package exports it, and others the best way that their own tools have."""

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
from ..network import Batches, foldable, prepare
from ..ort_int8 import RELUS
from ..student import INPUTS, dynamic_shapes, load_student, sample_inputs, unfolded_config

OURS = "MobileBERT, this package"
STOCK = "MobileBERT, transformers"
DISTILBERT = "DistilBERT"
BERT = "BERT_BASE"
NETWORKS = (OURS, STOCK, DISTILBERT, BERT)
PRECISIONS = ("float32", "bfloat16", "int8")


def build_network(name: str, model: str | None) -> PreTrainedModel:
    """A network with a question-answering head or the student's own; random weights but for a `model` given.

    Args:
        name: Of `NETWORKS`.
        model: Hub id or folder of a student; by default a MobileBERT of the paper's size.
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
    """All of them."""
    return {name: build_network(name, model) for name in NETWORKS}


def count_flops(network: PreTrainedModel, length: int) -> int:
    """Of one text of `length` tokens: two for each multiplication of a matrix product."""
    counter = FlopCounterMode(display=False)
    attention = network.config._attn_implementation
    network.set_attn_implementation("eager")  # whose products are seen
    with counter, torch.inference_mode():
        network(**network_inputs(network, sample_inputs(network, 1, length)))
    network.set_attn_implementation(attention)
    return counter.get_total_flops()


def prepare_pytorch(name: str, network: PreTrainedModel) -> PreTrainedModel:
    """A network as it is fast in PyTorch: the student folded."""
    return fold(network) if name == OURS and foldable(network) else network


def precisions_of(runtime: str) -> list[str]:
    """What a runtime is timed in; OpenVINO in bfloat16, too, where the processor has it."""
    if runtime == "pytorch":
        return ["float32"]
    return [name for name in PRECISIONS if name != "bfloat16" or (runtime == "openvino" and openvino.has_bfloat16())]


@dataclass(frozen=True)
class Setting:
    """A runtime (a format, or `"pytorch"`), a precision of `PRECISIONS`, and the lengths of text that are timed."""

    runtime: str
    precision: str
    lengths: tuple[int, ...]

    @property
    def int8(self) -> bool:
        """Whether the graph is of 8 bits; in bfloat16 runs that of float32."""
        return self.precision == "int8"

    def batches(self, network: PreTrainedModel) -> Batches:
        """What ranges are measured on: random text is all that random weights need."""
        return [sample_inputs(network, 2, min(128, max(self.lengths)), seed) for seed in range(2)]


def write_ours(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    """The student by this package; in 8 bits statically quantized if it can be, but for LiteRT, which is slower so."""
    task = Task("any", "AutoModel", tuple(network(**sample_inputs(network, 1, 8)).keys()))
    static = network.config.normalization_type == "no_norm" and network.config.hidden_act in RELUS
    int8 = "int8-static" if static and setting.runtime != "tflite" else "int8"
    quantize, backend = int8 if setting.int8 else None, FORMATS[setting.runtime]
    calibration = setting.batches(network) if quantize == "int8-static" else ()
    backend.write(prepare(network, folded=quantize not in backend.FOLDS), task, path, quantize, calibration)


def write_stock(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    """Another network by the library's exporters and the runtimes' quantizers, with the options that are fastest."""
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

    rows = [network_inputs(network, dict(batch)) for batch in setting.batches(network)]
    quantizer = NNCFOpenVINOQuantizer(NNCFQuantizationConfig(subset_size=len(rows)), rows) if setting.int8 else None
    config = OpenVINOConfig(dynamic=True, dynamic_shapes=_shapes(network), quantizer=quantizer)
    program = OpenVINOExporter().export(network, _example(network), config=config).program
    OpenVINOExporter.save_program(program, path)


def _tflite(network: PreTrainedModel, path: Path, setting: Setting) -> None:
    tflite.convert(
        _Adapter(network), QUESTION_ANSWERING, path, {f"tokens_{length}": length for length in setting.lengths}
    )
    if setting.int8:
        tflite.quantize_file(path, "int8", {})


EXPORTERS: dict[str, Callable[..., None]] = {"onnx": _onnx, "openvino": _openvino, "tflite": _tflite}


class _Adapter(nn.Module):
    """A network that takes the three inputs, whichever it uses."""

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
