"""Finds the int8 weights of an ONNX graph that ONNX Runtime multiplies with int8 activations.

Every operator that reads int8 must be known here: one that multiplies, with the position of its weight, or one that
does not. A graph with any other operator is refused, because its weights could saturate unseen.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Operators that multiply int8 weights with int8 activations (of either signedness), with the input that is the weight.
PRODUCTS = {
    "ConvInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "QAttention": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
# ONNX Runtime replaces them by the former if both inputs are dequantized.
FUSED = ("Conv", "Gemm", "MatMul")
# Their outputs have the type of their first input.
LAYOUT = (
    *("Concat", "Expand", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split", "Squeeze"),
    *("Flatten", "Pad", "Tile", "Transpose", "Unsqueeze"),
)
# They read int8 and multiply no matrices.
OTHERS = ("Cast", "DequantizeLinear", "QLinearAdd", "QLinearMul", "QuantizeLinear", "Shape")
# `onnx.TensorProto.INT8`; the package is optional.
INT8 = 3
# The input whose type is that of the output.
ZERO_POINTS = {
    "QGemm": 8,
    "QLinearAdd": 7,
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QLinearMul": 7,
    "QuantizeLinear": 2,
}


def unsigned_matmuls(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and int8 weight [out, in] of each product with int8 activations, in the order of the graph.

    Raises:
        ValueError: An operator that reads int8 is unknown, or the layout of its weight is.
    """
    import onnx
    from onnx import inliner

    model = onnx.load(path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    yield from _Graph(path.name, model.graph).weights()


class _Graph:
    """A graph, with what is known of its tensors.

    Args:
        file: Its name, for errors.
        graph: An `onnx.GraphProto`.
        outer: The graph that it is part of, if it is a branch or the body of a loop.
    """

    def __init__(self, file: str, graph: Any, outer: "_Graph | None" = None) -> None:
        self.file, self.nodes = file, graph.node
        self.constants: dict[str, Any] = dict(outer.constants) if outer else {}
        self.producers: dict[str, Any] = dict(outer.producers) if outer else {}
        self.int8: set[str] = set(outer.int8) if outer else set()
        self.constants |= {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            self.producers |= dict.fromkeys(node.output, node)
            if node.op_type == "Constant" and (value := _attribute(node, "value")) is not None:
                self.constants[node.output[0]] = value
        self.int8 |= {value.name for value in graph.input if value.type.tensor_type.elem_type == INT8}
        self.int8 |= {name for name, tensor in self.constants.items() if tensor.data_type == INT8}

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        for node in self.nodes:
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    yield from _Graph(self.file, graph, self).weights()
            if node.op_type in PRODUCTS:
                name = node.input[PRODUCTS[node.op_type]]
                if name in self.int8:
                    yield name, self._rows(node, name)
                elif name not in self.constants and not self._is_unsigned(name):
                    raise self._refusal(node, f"whose weight {name} is computed")
            elif node.op_type in FUSED:
                name, is_direct = self._dequantized(node.input[1])
                if name in self.int8 and self._dequantized(node.input[0])[0]:
                    if not is_direct:
                        raise self._refusal(node, f"whose weight {name} changes its layout")
                    yield name, self._rows(node, name)
            elif self.int8.intersection(node.input) and node.op_type not in (*LAYOUT, *OTHERS):
                raise self._refusal(node, "which reads int8 and is not known")
            if self._gives_int8(node):
                self.int8.update(node.output)

    def _rows(self, node: Any, name: str) -> np.ndarray:
        """The weight [out, in] of a product."""
        from onnx import numpy_helper

        if name not in self.constants:
            raise self._refusal(node, f"whose weight {name} is computed")
        weight = numpy_helper.to_array(self.constants[name])
        if "Conv" in node.op_type:
            if np.prod(weight.shape[2:]) != 1:
                raise self._refusal(node, f"whose kernel {list(weight.shape[2:])} has several positions")
            return weight.reshape(weight.shape[:2])
        if _attribute(node, "transB"):
            return weight
        return np.swapaxes(weight, -1, -2).reshape(-1, weight.shape[-2])

    def _dequantized(self, name: str) -> tuple[str, bool]:
        """The quantized tensor that a float tensor is made from, or "", and whether directly, in the same layout."""
        node, is_direct = self.producers.get(name), True
        while node is not None and node.op_type in LAYOUT:
            node, is_direct = self.producers.get(node.input[0]), False
        return (node.input[0] if node is not None and node.op_type == "DequantizeLinear" else ""), is_direct

    def _is_unsigned(self, name: str) -> bool:
        """Whether a computed tensor is uint8. Products of two uint8 activations do not saturate."""
        node = self.producers.get(name)
        while node is not None and node.op_type in LAYOUT:
            node = self.producers.get(node.input[0])
        return node is not None and node.op_type in ("DynamicQuantizeLinear", "QuantizeLinear", *ZERO_POINTS)

    def _gives_int8(self, node: Any) -> bool:
        """Whether the outputs of a node are int8."""
        if node.op_type == "QuantizeLinear" and len(node.input) < 3:
            return _attribute(node, "output_dtype") == INT8
        if node.op_type in ZERO_POINTS:
            index = ZERO_POINTS[node.op_type]
            return index < len(node.input) and node.input[index] in self.int8
        if node.op_type == "Cast":
            return _attribute(node, "to") == INT8
        return node.op_type in LAYOUT and node.input[0] in self.int8

    def _refusal(self, node: Any, reason: str) -> ValueError:
        return ValueError(
            f"{self.file} has the operator {node.op_type} ({node.name or node.output[0]}), {reason}. Its int8 weights "
            "cannot be checked for saturation on x86 processors without VNNI. Nothing was written."
        )


def _attribute(node: Any, name: str) -> Any:
    """The value of an attribute, None if the node does not have it."""
    from onnx import helper

    found: Sequence[Any] = [attribute for attribute in node.attribute if attribute.name == name]
    return helper.get_attribute_value(found[0]) if found else None
