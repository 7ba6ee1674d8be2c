"""The formats a student is exported to, a module each.

Each has `write(network, task, path, quantize, calibration)`, which may change the network, and `load(path, task,
threads)`. It says which packages it needs (`PACKAGES`), how to get them (`INSTALL`), where the graphs lie in an
export's folder (`FILES`, by the quantization), and for which quantizations it folds norms better by itself (`FOLDS`),
as it leaves shared what folding composes, which is 4 % less arithmetic. The packages are imported where they are
needed.
"""

from types import ModuleType

from . import executorch, onnx, openvino, tflite

FORMATS: dict[str, ModuleType] = {"onnx": onnx, "openvino": openvino, "executorch": executorch, "tflite": tflite}
