import collections
import dataclasses
import math
import zipfile

import numpy as np

from ddq_tf.export import ModelMetadata, model_metadata, tflite
from ddq_tf.export.operators import weight_kind
from ddq_tf.export.passes import unit_scales
from ddq_tf.export.sizes import compressed, itemize
from ddq_tf.targets import TARGETS
from tests.export.graphs import Builder, small_network


def test_itemize():
    graph = small_network()
    data = tflite.write(graph)
    sizes = itemize(data)
    assert sizes.total == len(data)
    assert sizes.weights == 8 * 27 + 9 * 8 + (8 * 8 + 5 * 8) // 2
    assert sizes.biases == 4 * (8 + 8 + 8 + 5)
    assert sizes.weight_scales == 4 * (8 + 8 + 8 + 5)
    # Seven activations, two on one scale; biases have scales of their own.
    assert sizes.other_scales == 4 * (6 + 8 + 8 + 8 + 5)
    # Vectors of one zero point each, and of 8 and of 5 zeros.
    activations = [t for t in graph.tensors.values() if t.quantization and not t.is_constant]
    zero_points = {t.quantization.zero_point for t in activations}
    assert sizes.zero_points == 8 * (len(zero_points) + 8 + 5)
    assert sizes.metadata == len(b"hand")
    assert sizes.shared == 0
    assert sizes.floor == sizes.weights + sizes.biases + sizes.weight_scales
    assert sizes.floor + sum(sizes.above_floor.values()) == len(data)
    assert sizes.above_floor_share == len(data) / sizes.floor - 1
    assert "floor" in str(sizes)


def test_compressed(tmp_path):
    """The size in a zip archive, and Huffman's bound from counts made by hand."""
    graph = small_network()
    data = tflite.write(graph)
    with zipfile.ZipFile(tmp_path / "app.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr("model.tflite", data)
    packed = zipfile.ZipFile(tmp_path / "app.zip").infolist()[0].compress_size
    sizes = compressed(data)
    assert sizes.deflate == packed
    weights = [graph.tensors[op.inputs[1]].data for op in graph.ops if weight_kind(op)]
    bits = 0.0
    for codes in weights:
        counts = collections.Counter(np.asarray(codes).ravel().tolist())
        bits -= sum(n * math.log2(n / codes.size) for n in counts.values())
    assert sizes.code_entropy == math.ceil(bits / 8)
    assert 0 < sizes.code_entropy < itemize(data).weights


def test_shared_vectors_count_once():
    graph = small_network()
    before = itemize(tflite.write(graph))
    after = itemize(tflite.write(unit_scales.run(graph, TARGETS["litert"])))
    assert after.other_scales < before.other_scales
    assert dataclasses.replace(after, other_scales=0, structure=0) == dataclasses.replace(
        before, other_scales=0, structure=0
    )


def test_equal_tensors_count_below_the_floor():
    make = Builder()
    image = make.tensor((-1, 8), scale=0.1)
    image = make.weighted("FULLY_CONNECTED", image, (8, 8), (-1, 8))
    first = make.ops[0]
    second = make.op("FULLY_CONNECTED", (image, *first.inputs[1:]), (-1, 8), 0.05, 3)
    twice = make.graph({"x": first.inputs[0]}, {"y": second})
    sizes = itemize(tflite.write(twice))
    assert sizes.shared == 0  # one tensor, read by two
    copies = []
    for name in first.inputs[1:]:
        copies.append(f"{name} again")
        make.tensors[copies[-1]] = dataclasses.replace(make.tensors[name], name=copies[-1])
    make.ops[1] = dataclasses.replace(make.ops[1], inputs=(image, *copies))
    data = tflite.write(make.graph({"x": first.inputs[0]}, {"y": second}))
    apart = itemize(data)
    assert apart.shared == 64 + 4 * 8 + 4 * 8
    assert apart.floor == 2 * sizes.floor
    assert apart.total == len(data)
    assert apart.above_floor["shared"] == -apart.shared
    assert apart.floor + sum(apart.above_floor.values()) == len(data)


def test_attached_labels_are_metadata():
    graph = small_network()
    data = tflite.write(graph)
    labels = model_metadata.attach(data, ModelMetadata(labels=["a", "b", "c", "d", "e"]))
    before, after = itemize(data), itemize(labels)
    assert len(labels) > len(data)
    assert after == dataclasses.replace(before, metadata=before.metadata + len(labels) - len(data))
