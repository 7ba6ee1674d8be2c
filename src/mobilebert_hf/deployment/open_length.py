"""Takes the length of the text out of a TFLite file, which the converter writes for one length alone."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

# Which operand of an operator is a shape.
SHAPE_OPERAND = {"RESHAPE": 1, "SLICE": 2}


def open_length(path: Path, length: int) -> None:
    """Leaves open what is `length` in a graph's shapes, and in those that its operators are told.

    Names of inner tensors go, too: they are half a megabyte, and tell of our files.

    Args:
        path: The file, changed in place.
        length: A number that stands for nothing else in a shape.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for graph in model.subgraphs:
        file = _Graph(model, graph)
        file.split_for_slices()
        file.open(length)
    flatbuffer_utils.write_model(model, str(path))


class _Graph:
    """A graph of a file, with what is needed to change it; parts of both are as the file's schema has them."""

    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph

    def kind(self, operator: Any) -> str:
        """The operator's name, as `"SLICE"`."""
        from ai_edge_litert.tools import flatbuffer_utils

        return flatbuffer_utils.opcode_to_name(self.model, operator.opcodeIndex)

    def numbers(self, tensor: int) -> list[int]:
        """What a constant tensor of int32 contains."""
        return np.frombuffer(bytes(self.buffer(tensor).data), np.int32).tolist()

    def buffer(self, tensor: int) -> Any:
        """Where a tensor's values lie."""
        return self.model.buffers[self.graph.tensors[tensor].buffer]

    def open(self, length: int) -> None:
        """Leaves this length open."""

        def opened(sizes: Any) -> list[int]:
            return [-1 if size == length else int(size) for size in sizes]

        for tensor in self.graph.tensors:
            tensor.name = None
            if tensor.shape is not None and length in tensor.shape:
                tensor.shapeSignature = opened(tensor.shape)
        for operator in self.graph.operators:
            kind = self.kind(operator)
            if kind == "RESHAPE" and operator.builtinOptions is not None:
                operator.builtinOptions.newShape = opened(operator.builtinOptions.newShape)
            if kind in SHAPE_OPERAND:
                shape = operator.inputs[SHAPE_OPERAND[kind]]
                self.buffer(shape).data = _bytes(opened(self.numbers(shape)))

    def split_for_slices(self) -> None:
        """Makes a split of slices that are all of a tensor's channels, in equal parts.

        XNNPACK knows no slices of an open length: each would end what it runs in one piece.
        """
        slices = defaultdict(list)
        for operator in self.graph.operators:
            if self.kind(operator) == "SLICE":
                slices[operator.inputs[0]].append(operator)
        for source, parts in slices.items():
            *rest, channels = map(int, self.graph.tensors[source].shape)
            width = channels // len(parts)
            begins = {tuple(self.numbers(part.inputs[1])): part for part in parts}
            starts = [(*(0 for _ in rest), index * width) for index in range(len(parts))]
            equal = all(self.numbers(part.inputs[2]) == [*rest, width] for part in parts)
            if equal and begins.keys() == set(starts):
                self.to_split(parts[0], len(rest), [begins[start].outputs[0] for start in starts])
                self.graph.operators = [operator for operator in self.graph.operators if operator not in parts[1:]]

    def to_split(self, operator: Any, axis: int, outputs: list[int]) -> None:
        """Makes of an operator one that splits its first operand into these."""
        from ai_edge_litert import schema_py_generated as schema

        self.model.buffers.append(schema.BufferT(_bytes([axis])))
        self.graph.tensors.append(schema.TensorT([], schema.TensorType.INT32, len(self.model.buffers) - 1))
        operator.opcodeIndex = self.code(schema.BuiltinOperator.SPLIT)
        operator.inputs, operator.outputs = [len(self.graph.tensors) - 1, operator.inputs[0]], outputs
        operator.builtinOptionsType = schema.BuiltinOptions.SplitOptions
        operator.builtinOptions = schema.SplitOptionsT(len(outputs))

    def code(self, kind: int) -> int:
        """Which of the file's kinds of operators this is; added where it is none yet."""
        from ai_edge_litert import schema_py_generated as schema

        codes = self.model.operatorCodes
        if all(code.builtinCode != kind for code in codes):
            codes.append(schema.OperatorCodeT(kind, builtinCode=kind))
        return next(index for index, code in enumerate(codes) if code.builtinCode == kind)


def _bytes(numbers: list[int]) -> np.ndarray:
    return np.frombuffer(np.array(numbers, np.int32).tobytes(), np.uint8)
