"""Makes the sequence length of a TFLite file dynamic. The converter writes a fixed length."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

# Index of the input that is a shape, by operator.
SHAPE_OPERAND = {"RESHAPE": 1, "SLICE": 2}


def make_length_dynamic(path: Path, length: int) -> None:
    """Replaces `length` by a dynamic size in all tensor shapes and in the shape inputs of operators.

    Also removes the names of internal tensors, which take half a megabyte and contain local file paths.

    Args:
        path: The TFLite file, changed in place.
        length: The traced sequence length. No other dimension in the graph may have this size.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for graph in model.subgraphs:
        editor = _GraphEditor(model, graph)
        editor.replace_slices_by_split()
        editor.make_dynamic(length)
    flatbuffer_utils.write_model(model, str(path))


class _GraphEditor:
    """Edits one graph of a model. Attributes and arguments are objects of the TFLite schema."""

    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph

    def kind(self, operator: Any) -> str:
        """Returns the name of the operator, such as `"SLICE"`."""
        from ai_edge_litert.tools import flatbuffer_utils

        return flatbuffer_utils.opcode_to_name(self.model, operator.opcodeIndex)

    def values(self, tensor: int) -> list[int]:
        """Returns the values of a constant int32 tensor."""
        return np.frombuffer(bytes(self.buffer(tensor).data), np.int32).tolist()

    def buffer(self, tensor: int) -> Any:
        """Returns the buffer of a tensor."""
        return self.model.buffers[self.graph.tensors[tensor].buffer]

    def make_dynamic(self, length: int) -> None:
        """Replaces sizes of `length` by -1."""

        def dynamic(sizes: Any) -> list[int]:
            return [-1 if size == length else int(size) for size in sizes]

        for tensor in self.graph.tensors:
            tensor.name = None
            if tensor.shape is not None and length in tensor.shape:
                tensor.shapeSignature = dynamic(tensor.shape)
        for operator in self.graph.operators:
            kind = self.kind(operator)
            if kind == "RESHAPE" and operator.builtinOptions is not None:
                operator.builtinOptions.newShape = dynamic(operator.builtinOptions.newShape)
            if kind in SHAPE_OPERAND:
                shape = operator.inputs[SHAPE_OPERAND[kind]]
                self.buffer(shape).data = _bytes(dynamic(self.values(shape)))

    def replace_slices_by_split(self) -> None:
        """Replaces slices that divide all channels of a tensor into equal parts by one split.

        XNNPACK does not support slices of dynamic length: each would end a delegated partition.
        """
        slices = defaultdict(list)
        for operator in self.graph.operators:
            if self.kind(operator) == "SLICE":
                slices[operator.inputs[0]].append(operator)
        for source, parts in slices.items():
            *rest, channels = map(int, self.graph.tensors[source].shape)
            width = channels // len(parts)
            begins = {tuple(self.values(part.inputs[1])): part for part in parts}
            starts = [(*(0 for _ in rest), index * width) for index in range(len(parts))]
            equal = all(self.values(part.inputs[2]) == [*rest, width] for part in parts)
            if equal and begins.keys() == set(starts):
                self.convert_to_split(parts[0], len(rest), [begins[start].outputs[0] for start in starts])
                self.graph.operators = [operator for operator in self.graph.operators if operator not in parts[1:]]

    def convert_to_split(self, operator: Any, axis: int, outputs: list[int]) -> None:
        """Changes an operator to split its first input along `axis` into the tensors `outputs`."""
        from ai_edge_litert import schema_py_generated as schema

        self.model.buffers.append(schema.BufferT(_bytes([axis])))
        self.graph.tensors.append(schema.TensorT([], schema.TensorType.INT32, len(self.model.buffers) - 1))
        operator.opcodeIndex = self.opcode_index(schema.BuiltinOperator.SPLIT)
        operator.inputs, operator.outputs = [len(self.graph.tensors) - 1, operator.inputs[0]], outputs
        operator.builtinOptionsType = schema.BuiltinOptions.SplitOptions
        operator.builtinOptions = schema.SplitOptionsT(len(outputs))

    def opcode_index(self, kind: int) -> int:
        """Returns the index of a builtin operator in the model's operator codes. Adds it if it is missing."""
        from ai_edge_litert import schema_py_generated as schema

        codes = self.model.operatorCodes
        if all(code.builtinCode != kind for code in codes):
            codes.append(schema.OperatorCodeT(kind, builtinCode=kind))
        return next(index for index, code in enumerate(codes) if code.builtinCode == kind)


def _bytes(values: list[int]) -> np.ndarray:
    return np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)
