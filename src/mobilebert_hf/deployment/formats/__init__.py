"""The export formats, one module each.

Each module has `write(network, task, path, quantize, calibration)`, which may change the network, `load(path, task,
threads)`, and `unsigned_matmuls(path)` for `check_saturation`. `PACKAGES` are the packages it needs, imported on use;
`INSTALL` says how to install them. `FILES` are the paths of graphs by quantization. `FOLDS` are the quantizations for
which the runtime folds norms better than `fold`: it keeps the bottleneck shared by query and key (4 % fewer FLOPs).
"""

from types import ModuleType

from . import executorch, onnx, openvino, tflite

FORMATS: dict[str, ModuleType] = {"onnx": onnx, "openvino": openvino, "executorch": executorch, "tflite": tflite}
