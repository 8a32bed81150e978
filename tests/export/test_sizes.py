import dataclasses

from ddq_tf.export import ModelMetadata, model_metadata, tflite
from ddq_tf.export.passes import unit_scales
from ddq_tf.export.sizes import itemize
from ddq_tf.targets import TARGETS
from tests.export.graphs import small_network


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
    assert sizes.floor == sizes.weights + sizes.biases + sizes.weight_scales
    assert sizes.floor + sum(sizes.above_floor.values()) == len(data)
    assert sizes.above_floor_share == len(data) / sizes.floor - 1
    assert "floor" in str(sizes)


def test_shared_vectors_count_once():
    graph = small_network()
    before = itemize(tflite.write(graph))
    after = itemize(tflite.write(unit_scales.run(graph, TARGETS["litert"])))
    assert after.other_scales < before.other_scales
    assert dataclasses.replace(after, other_scales=0, structure=0) == dataclasses.replace(
        before, other_scales=0, structure=0
    )


def test_attached_labels_are_metadata():
    graph = small_network()
    data = tflite.write(graph)
    labels = model_metadata.attach(data, ModelMetadata(labels=["a", "b", "c", "d", "e"]))
    before, after = itemize(data), itemize(labels)
    assert len(labels) > len(data)
    assert after == dataclasses.replace(before, metadata=before.metadata + len(labels) - len(data))
