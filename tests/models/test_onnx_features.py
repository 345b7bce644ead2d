from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from reverie.errors import ModelError
from reverie.evaluate.transfer import features_of
from reverie.models.onnx_features import open_onnx_features

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def network(file, kind="uint8", size=("h", "w"), batch="b", channels=3):
    """Means of each colour."""
    from onnx import TensorProto, helper

    taken = TensorProto.UINT8 if kind == "uint8" else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["pictures"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "means",
        [helper.make_tensor_value_info("pictures", taken, [batch, channels, *size])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, [batch, channels])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return str(file)


def pictures():
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (8 + 4 * (n % 2), 10, 3), dtype=np.uint8)) for n in range(5)]


def test_rows_are_those_of_the_network_in_order(tmp_path):
    describe, name = features_of(network(tmp_path / "means.onnx"), batch_size=2)
    rows = describe(pictures()).numpy()
    known = [np.asarray(picture).mean((0, 1)) for picture in pictures()]
    np.testing.assert_allclose(rows, known, rtol=1e-5)
    assert name.startswith("means.onnx@")


def test_floats_go_from_minus_one_to_one_and_sizes_are_the_networks(tmp_path):
    network(tmp_path / "means.onnx", "float", (6, 6), batch=1)
    rows = open_onnx_features(str(tmp_path / "means.onnx"))(pictures()).numpy()
    known = [
        np.asarray(picture.resize((6, 6), Image.Resampling.BILINEAR)).mean((0, 1)) / 127.5 - 1 for picture in pictures()
    ]
    np.testing.assert_allclose(rows, known, atol=1e-5)


def test_what_gives_no_features(tmp_path):
    with pytest.raises(ModelError, match=r"Inception comes as a pickle .* --features inception\.onnx"):
        features_of("inception")
    with pytest.raises(ModelError, match="there is no file"):
        features_of(str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match="no ONNX file that can be run"):
        features_of(str(tmp_path / "bad.onnx"))
    with pytest.raises(ModelError, match="what is needed is one input of pictures"):
        features_of(network(tmp_path / "grey.onnx", channels=1))
