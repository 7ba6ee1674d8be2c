"""The int8 weights of graphs of every form are found, or the graph is refused by the name of the operator."""

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as operators

from mobilebert_hf.deployment import FORMATS

WEIGHT = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)  # [out, in]
BY_COLUMNS = WEIGHT.T.copy()
MICROSOFT = "com.microsoft"
DEQUANTIZED = (
    *(("QuantizeLinear", ["x", "scale", "zero"], ["xq"]), ("DequantizeLinear", ["xq", "scale", "zero"], ["xd"])),
    ("DequantizeLinear", ["w", "scale"], ["wd"]),
)
QUANTIZED = ("DynamicQuantizeLinear", ["x"], ["xq", "xs", "zero"])


def nodes_of(*nodes):
    return [helper.make_node(kind, inputs, outputs, **dict(*more)) for kind, inputs, outputs, *more in nodes]


def save_onnx(path, weight, *nodes, constant=False):
    """A graph of (operator, inputs, outputs, attributes) with the int8 weight `w`, an initializer or a `Constant`."""
    tensors = {"w": weight, "scale": np.float32(0.1), "zero": np.uint8(128), "none": np.int8(0), "yes": np.bool_(True)}
    initializers = [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()]
    built = nodes_of(*nodes)
    if constant:
        built = [helper.make_node("Constant", [], ["w"], value=initializers.pop(0)), *built]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    onnx.save(helper.make_model(helper.make_graph(built, "graph", [x], [y], initializers)), path)
    return path


BRANCH = helper.make_graph(
    nodes_of(QUANTIZED, ("MatMulInteger", ["xq", "w", "zero"], ["i"])),
    "branch",
    [],
    [helper.make_tensor_value_info("i", TensorProto.INT32, None)],
)
POINTS = ["scale", "zero"]
FOUND = {
    "MatMulInteger": (BY_COLUMNS, QUANTIZED, ("MatMulInteger", ["xq", "w", "zero"], ["y"])),
    "of several matrices": (BY_COLUMNS[None], QUANTIZED, ("MatMulInteger", ["xq", "w", "zero"], ["y"])),
    "to float": (BY_COLUMNS, QUANTIZED, ("MatMulIntegerToFloat", ["xq", "w", "xs", "scale"], ["y"])),
    "quantized inside": (BY_COLUMNS, ("DynamicQuantizeMatMul", ["x", "w", "scale"], ["y"])),
    "QAttention": (BY_COLUMNS, QUANTIZED, ("QAttention", ["xq", "w", "scale", "xs", "scale"], ["y"])),
    "QLinearMatMul": (
        BY_COLUMNS,
        DEQUANTIZED[0],
        ("QLinearMatMul", ["xq", *POINTS, "w", "scale", "none", *POINTS], ["y"]),
    ),
    "QGemm": (BY_COLUMNS, DEQUANTIZED[0], ("QGemm", ["xq", *POINTS, "w", "scale", "none"], ["y"])),
    "QGemm by rows": (
        WEIGHT,
        DEQUANTIZED[0],
        ("QGemm", ["xq", *POINTS, "w", "scale", "none"], ["y"], {"transB": 1}),
    ),
    "ConvInteger": (WEIGHT[:, :, None], QUANTIZED, ("ConvInteger", ["xq", "w", "zero"], ["y"])),
    "QLinearConv": (
        WEIGHT[:, :, None, None],
        DEQUANTIZED[0],
        ("QLinearConv", ["xq", *POINTS, "w", "scale", "none", *POINTS], ["y"]),
    ),
    "MatMul of dequantized": (BY_COLUMNS, *DEQUANTIZED, ("MatMul", ["xd", "wd"], ["y"])),
    "MatMul after a reshape": (
        BY_COLUMNS,
        *DEQUANTIZED,
        ("Identity", ["xd"], ["xi"]),
        ("MatMul", ["xi", "wd"], ["y"]),
    ),
    "Gemm of dequantized": (WEIGHT, *DEQUANTIZED, ("Gemm", ["xd", "wd"], ["y"], {"transB": 1})),
    "Conv of dequantized": (WEIGHT[:, :, None], *DEQUANTIZED, ("Conv", ["xd", "wd"], ["y"])),
    "in a branch": (BY_COLUMNS, ("If", ["yes"], ["y"], {"then_branch": BRANCH, "else_branch": BRANCH})),
}


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("form", FOUND)
def test_onnx_weights_are_found_in_every_form(form, constant, tmp_path):
    path = save_onnx(tmp_path / "model.onnx", *FOUND[form], constant=constant)
    found = list(FORMATS["onnx"].unsigned_matmuls(path))
    assert len(found) == (2 if form == "in a branch" else 1)
    for name, weight in found:
        assert name == "w"
        np.testing.assert_array_equal(weight, WEIGHT)


FLOAT = {
    "a table": (WEIGHT, ("Gather", ["w", "ids"], ["g"]), ("DequantizeLinear", ["g", "scale"], ["y"])),
    "weights alone": (BY_COLUMNS, DEQUANTIZED[2], ("MatMul", ["x", "wd"], ["y"])),
    "two activations": (WEIGHT, QUANTIZED, ("MatMulInteger", ["xq", "xq", "zero", "zero"], ["y"])),
}


@pytest.mark.parametrize("form", FLOAT)
def test_what_is_no_product_of_int8_is_passed_over(form, tmp_path):
    assert not list(FORMATS["onnx"].unsigned_matmuls(save_onnx(tmp_path / "model.onnx", *FLOAT[form])))


REFUSED = {
    "DynamicQuantizeLSTM": (BY_COLUMNS, ("DynamicQuantizeLSTM", ["x", "w", "w"], ["y"])),
    "ConvInteger": (
        np.zeros((3, 4, 3), dtype=np.int8),
        *(QUANTIZED, ("ConvInteger", ["xq", "w", "zero"], ["y"])),
    ),
    "MatMulInteger": (
        WEIGHT,
        *(QUANTIZED, ("Transpose", ["w"], ["t"]), ("MatMulInteger", ["xq", "t", "zero"], ["y"])),
    ),
    "QLinearMatMul": (
        WEIGHT,
        *(DEQUANTIZED[0], ("Mystery", ["x"], ["m"])),
        ("QLinearMatMul", ["xq", *POINTS, "m", "scale", "none", *POINTS], ["y"]),
    ),
    "MatMul": (WEIGHT, *DEQUANTIZED, ("Transpose", ["wd"], ["t"]), ("MatMul", ["xd", "t"], ["y"])),
    "Einsum": (WEIGHT, QUANTIZED, ("Einsum", ["xq", "w"], ["y"], {"equation": "ij,kj->ik"})),
}


@pytest.mark.parametrize("operator", REFUSED)
def test_an_onnx_graph_of_an_unknown_form_is_refused(operator, tmp_path):
    path = save_onnx(tmp_path / "model.onnx", *REFUSED[operator])
    with pytest.raises(ValueError, match=rf"model\.onnx has the operator {operator} .* cannot be checked"):
        list(FORMATS["onnx"].unsigned_matmuls(path))


# ---- OpenVINO


def rounded(node, levels=256):
    return operators.fake_quantize(node, *(np.float32(bound) for bound in (0, 1, 0, 1)), levels)


def dequantized(weight, by_scale=False):
    """An int8 constant as NNCF writes it, or with the scale first."""
    values = operators.convert(operators.constant(weight), "f32")
    scale = operators.constant(np.float32(0.1))
    return operators.multiply(*((scale, values) if by_scale else (values, scale)))


def matmul(first, second, transpose_a=False, transpose_b=False):
    return operators.matmul(first, second, transpose_a, transpose_b)


def convolution(x, weight, kind="convolution"):
    return getattr(operators, kind)(x, weight, [1], [0], [0], [1])


WIDE, HIGH = [2, 4], [4, 2]  # inputs before and behind the weight
OPENVINO = {
    "transposed": (WIDE, lambda x: matmul(x, dequantized(WEIGHT), transpose_b=True)),
    "not transposed": (WIDE, lambda x: matmul(x, dequantized(BY_COLUMNS))),
    "scale first": (WIDE, lambda x: matmul(x, dequantized(BY_COLUMNS, by_scale=True))),
    "weight first": (HIGH, lambda x: matmul(dequantized(WEIGHT), x)),
    "weight first, transposed": (HIGH, lambda x: matmul(dequantized(BY_COLUMNS), x, transpose_a=True)),
    "convolution": ([1, 4, 5], lambda x: convolution(x, dequantized(WEIGHT[:, :, None]))),
}
OPENVINO_REFUSED = {
    "Convolution": ([1, 4, 5], lambda x: convolution(x, dequantized(np.ones((3, 4, 3), dtype=np.int8)))),
    "GroupConvolution": (
        [1, 4, 5],
        lambda x: convolution(x, dequantized(np.ones((2, 2, 2, 1), dtype=np.int8)), "group_convolution"),
    ),
    "MatMul": (WIDE, lambda x: matmul(x, operators.transpose(dequantized(WEIGHT), np.array([1, 0])))),
    "MatMul ": (WIDE, lambda x: matmul(x, rounded(operators.constant(WEIGHT.astype(np.float32))), transpose_b=True)),
    "Maximum": (WIDE, lambda x: operators.maximum(x, dequantized(WEIGHT[:2]))),
}


def save_openvino(path, shape, build):
    x = operators.parameter(shape, np.float32, name="x")
    openvino.save_model(openvino.Model([build(rounded(x))], [x], "graph"), path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("form", OPENVINO)
def test_openvino_weights_are_found_in_every_form(form, tmp_path):
    path = save_openvino(tmp_path / "model.xml", *OPENVINO[form])
    [(_, weight)] = FORMATS["openvino"].unsigned_matmuls(path)
    np.testing.assert_array_equal(weight, WEIGHT)


@pytest.mark.parametrize("operator", OPENVINO_REFUSED)
def test_an_openvino_graph_of_an_unknown_form_is_refused(operator, tmp_path):
    path = save_openvino(tmp_path / "model.xml", *OPENVINO_REFUSED[operator])
    with pytest.raises(ValueError, match=rf"model\.xml: the operator {operator.strip()} .*cannot be checked"):
        list(FORMATS["openvino"].unsigned_matmuls(path))
