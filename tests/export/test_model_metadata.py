import dataclasses
import io
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import encode, number_types
from flatbuffers.table import Table

from ddq_tf.errors import DDQError
from ddq_tf.export import ModelMetadata, Runner, metadata_schema, model_metadata, tflite
from ddq_tf.export.ir import Graph
from tests.export.graphs import Builder, small_network

LABELS = ["cat", "dog", "été", "bird", "none of these"]
METADATA = ModelMetadata(
    labels=LABELS, mean=(1.0, 2.0, 3.0), std=(127.5,), name="net", description="a net"
)


class Reader:
    """Fields of a flatbuffer's tables by their place in metadata_schema.fbs."""

    def __init__(self, table: Table):
        self.table = table

    @classmethod
    def root(cls, data: bytes):
        start = encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)
        return cls(Table(data, start))

    def _at(self, field: int) -> int:
        offset = self.table.Offset(4 + 2 * field)
        assert offset, f"field {field} is absent"
        return offset + self.table.Pos

    def has(self, field: int) -> bool:
        return bool(self.table.Offset(4 + 2 * field))

    def child(self, field: int):
        return Reader(Table(self.table.Bytes, self.table.Indirect(self._at(field))))

    def children(self, field: int):
        offset = self._at(field) - self.table.Pos
        start = self.table.Vector(offset)
        count = self.table.VectorLen(offset)
        places = [self.table.Indirect(start + 4 * index) for index in range(count)]
        return [Reader(Table(self.table.Bytes, place)) for place in places]

    def text(self, field: int) -> str:
        return self.table.String(self._at(field)).decode()

    def code(self, field: int) -> int:
        return self.table.Get(number_types.Int8Flags, self._at(field))

    def floats(self, field: int) -> list[float]:
        offset = self._at(field) - self.table.Pos
        return self.table.GetVectorAsNumpy(number_types.Float32Flags, offset).tolist()


def described(metadata: ModelMetadata, graph: Graph) -> bytes:
    """The file as `export_tflite` writes it."""
    entries = {metadata_schema.ENTRY: model_metadata.encode(metadata, graph)}
    full = Graph(**{**vars(graph), "metadata": entries})
    return model_metadata.attach(tflite.write(full), metadata)


def entry(data: bytes) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(data)
    (found,) = (item for item in model.metadata if item.name == b"TFLITE_METADATA")
    return bytes(model.buffers[found.buffer].data)


def test_the_flatbuffer_follows_the_schema():
    content = entry(described(METADATA, small_network()))
    assert content[4:8] == b"M001"
    root = Reader.root(content)
    assert (root.text(0), root.text(1), root.text(7)) == ("net", "a net", "1.0.0")
    (subgraph,) = root.children(3)
    (image,) = subgraph.children(2)
    assert image.text(0) == "image"
    assert image.child(3).code(0) == 2  # ImageProperties
    assert image.child(3).child(1).code(0) == 1  # RGB
    (unit,) = image.children(4)
    assert unit.code(0) == 1  # NormalizationOptions
    assert unit.child(1).floats(0) == [1, 2, 3]
    assert unit.child(1).floats(1) == [127.5]
    (logits,) = subgraph.children(3)
    assert logits.text(0) == "logits"
    assert logits.child(3).code(0) == 1  # FeatureProperties
    (labels,) = logits.children(6)
    assert (labels.text(0), labels.code(2)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_how_pictures_are_fitted_is_custom_metadata():
    told = dataclasses.replace(METADATA, channels="bgr", crop=0.875, resize="bicubic")
    root = Reader.root(entry(described(told, small_network())))
    assert root.text(7) == "1.5.0"
    (subgraph,) = root.children(3)
    (custom,) = subgraph.children(9)
    assert custom.text(0) == "ddq_tf_fitting"
    assert custom.text(1) == "channels=bgr\ncrop=0.875\nresize=bicubic\n"
    assert not subgraph.children(2)[0].child(3).child(1).has(0)  # the standard knows no BGR


def test_the_labels_are_a_file_in_an_archive():
    with zipfile.ZipFile(io.BytesIO(described(METADATA, small_network()))) as archive:
        assert archive.testzip() is None
        (info,) = archive.infolist()
        assert info.compress_type == zipfile.ZIP_STORED
        assert archive.read("labels.txt").decode().splitlines() == LABELS


def test_the_model_is_the_same():
    graph = small_network()
    plain, data = tflite.write(graph), described(METADATA, graph)
    images = np.random.default_rng(0).integers(-128, 128, (3, 8, 8, 3)).astype(np.int8)
    expected = Runner(plain).run(images)["logits"]
    np.testing.assert_array_equal(Runner(data).run(images)["logits"], expected)
    assert tflite.read(data).ops == tflite.read(plain).ops
    assert described(METADATA, graph) == data
    assert tflite.write(tflite.read(data)) == data[: -model_metadata.attached_bytes(data)]


def test_parts_are_optional():
    graph = small_network()
    data = described(ModelMetadata(name="net"), graph)
    assert not zipfile.is_zipfile(io.BytesIO(data))
    root = Reader.root(entry(data))
    assert not root.has(1)
    (subgraph,) = root.children(3)
    assert not subgraph.children(2)[0].has(4)
    assert not subgraph.children(3)[0].has(6)
    assert not subgraph.has(9)
    assert model_metadata.attached_bytes(data) == 0


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 1), (0, 255)])
def test_normalization_of_a_range(low, high):
    metadata = ModelMetadata.for_range(low, high)
    pixels = np.array([0, 255])
    found = (pixels - metadata.mean[0]) / metadata.std[0]
    np.testing.assert_allclose(found, [low, high], rtol=0, atol=1e-12)
    np.testing.assert_allclose(metadata.input_range, [low, high], rtol=0, atol=1e-12)


def test_a_range_of_each_channel_comes_back():
    low, high = (-2.0, -1.0, 0.0), (1.0, 1.0, 300.0)
    found = ModelMetadata.for_range(low, high).input_range
    np.testing.assert_allclose(found, [low, high], rtol=0, atol=1e-12)
    assert ModelMetadata().input_range is None


def test_an_empty_range_is_refused():
    with pytest.raises(DDQError, match=r"low < high. Received: 1, 1"):
        ModelMetadata.for_range(1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": ["a"]}, "5 are needed. Received: 1"),
        ({"labels": ["a", "b", " ", "c\nd", "e"]}, r"Received: \[' ', 'c\\nd'\]"),
        ({"labels": ["a\rb", "b", "c", "d", "e"]}, r"line breaks. Received: \['a\\rb'\]"),
        ({"mean": (1.0, 2.0), "std": (1.0, 1.0)}, "or 3, one for each channel"),
        ({"mean": (1.0,)}, r"Received: mean=\(1.0,\), std=\(\)"),
        ({"mean": (1.0,), "std": (0.0,)}, "std not 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "must be finite"),
        ({"channels": "rbg"}, "channels must be one of"),
        ({"crop": 0.0}, r"crop must lie in \(0, 1\]. Received: 0.0"),
        ({"resize": "cubic"}, "resize must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, message):
    with pytest.raises(DDQError, match=message):
        model_metadata.check(ModelMetadata(**wrong), small_network())


def test_several_ends_have_no_metadata():
    make = Builder()
    first, second = (make.tensor((-1, 4), scale=0.1) for _ in range(2))
    total = make.op("ADD", (first, second), (-1, 4), 0.1)
    graph = make.graph({"a": first, "b": second}, {"x": total, "y": first})
    metadata = ModelMetadata(labels=["a"] * 4, mean=(0.0,), std=(1.0,))
    with pytest.raises(DDQError) as caught:
        model_metadata.check(metadata, graph)
    assert "need one input. Received: ['a', 'b']" in str(caught.value)
    assert "need one output. Received: ['x', 'y']" in str(caught.value)
