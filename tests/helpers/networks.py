"""A network in an ONNX file, tiny."""

from pathlib import Path

import numpy as np
import pytest


def onnx_file(path: Path, count: int | str = "N", side: int | str = 20) -> Path:
    """Means of the channels, times 1, 2, 3."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    scale = onnx.numpy_helper.from_array(np.array([1, 2, 3], dtype=np.float32).reshape(1, 3, 1, 1), "scale")
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("GlobalAveragePool", ["scaled"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["features"]),
    ]
    numbers = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", numbers, [count, 3, side, side])],
        [helper.make_tensor_value_info("features", numbers, [count, 3])],
        [scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path
