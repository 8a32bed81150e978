import pytest

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.ir import DType
from ddq_tf.export.operator_profile import by_kind, profile
from tests.export.graphs import Builder, small_network


def test_every_operator_is_timed():
    graph = small_network()
    times = profile(tflite.write(graph), runs=3)
    assert [(time.index, time.kind) for time in times] == list(
        enumerate(op.kind for op in graph.ops)
    )
    assert [time.weights for time in times] == ["INT8", "INT8", "INT4", "", "", "INT4"]
    assert times[0].output_shape == (-1, 4, 4, 8)
    assert all(time.median_ms > 0 for time in times)
    assert sum(time.share for time in times) == pytest.approx(1)


def test_the_large_operator_takes_longest():
    make = Builder()
    image = make.tensor((-1, 16), scale=0.1)
    wide = make.weighted("FULLY_CONNECTED", image, (2048, 16), (-1, 2048), dtype=DType.INT8)
    wide = make.weighted("FULLY_CONNECTED", wide, (2048, 2048), (-1, 2048), limit=7)
    output = make.op("ADD", (wide, wide), (-1, 2048), 0.1)
    times = profile(tflite.write(make.graph({"x": image}, {"y": output})), runs=20)
    assert max(times, key=lambda time: time.median_ms).index == 1
    sums = by_kind(times)
    assert list(sums) == ["FULLY_CONNECTED INT8", "ADD"]
    assert sums["FULLY_CONNECTED INT8"] == times[0].median_ms + times[1].median_ms


def test_bad_calls():
    with pytest.raises(DDQError, match="runs=0"):
        profile(b"", runs=0)
    with pytest.raises(DDQError, match="TFL3"):
        profile(b"not a model")
