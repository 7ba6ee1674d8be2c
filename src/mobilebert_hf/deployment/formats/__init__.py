"""The formats a student is exported to, a module each.

Each has `write(network, task, path, quantize, calibration)`, which may change the network, and `load(path, task,
threads)`. It says which packages it needs (`PACKAGES`), how to get them (`INSTALL`), where the graphs lie in an
export's folder (`FILES`, by the quantization), and for which quantizations its converter is better given the norms as
they are (`FOLDS`). The packages are imported where they are needed.
"""

from types import ModuleType

from . import executorch, onnx, openvino, tflite

FORMATS: dict[str, ModuleType] = {"onnx": onnx, "openvino": openvino, "executorch": executorch, "tflite": tflite}
