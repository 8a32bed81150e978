import sys

import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.export import host_benchmark, tflite
from ddq_tf.export.host_benchmark import benchmark
from ddq_tf.export.ir import DType
from tests.export.graphs import Builder, small_network


def dense(width: int, dtype: DType = DType.INT8) -> bytes:
    make = Builder()
    image = make.tensor((-1, width), scale=0.1)
    output = make.weighted(
        "FULLY_CONNECTED", image, (width, width), (-1, width), limit=7, dtype=dtype
    )
    return tflite.write(make.graph({"x": image}, {"y": output}))


def test_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(host_benchmark, "_memory_mib", lambda *_, **__: (1.5, 2.5))
    path = tmp_path / "small.tflite"
    path.write_bytes(tflite.write(small_network()))
    small, large = benchmark({"small": path, "large": dense(1024)}, runs=30)
    assert (small.name, large.name) == ("small", "large")
    assert small.size_bytes == path.stat().st_size
    assert (small.runs, small.ratio) == (30, 1.0)
    assert (small.memory_mib, small.peak_memory_mib) == (1.5, 2.5)
    assert 0 < large.p10_ms <= large.median_ms <= large.p90_ms
    assert large.ratio > 2


def test_turns_are_shared_equally(monkeypatch):
    class Recorder:
        def __init__(self, name):
            self.name = name

        def invoke(self):
            order.append(self.name)

    order: list[str] = []
    times = host_benchmark.interleaved_ms([Recorder("a"), Recorder("b")], 4)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert times.shape == (2, 4)
    assert (times >= 0).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_the_file_and_the_packed_weights():
    for dtype, weights_mib in ((DType.INT8, 4), (DType.INT4, 2)):
        content = dense(2048, dtype)
        memory, peak = host_benchmark._memory_mib(content, num_threads=1, delegate=True)
        assert memory == pytest.approx(2 * weights_mib, rel=0.1)
        assert memory < peak < memory + 32  # MiB of the runtime's code


def test_inputs_of_every_type():
    rng = np.random.default_rng(0)
    for dtype in (DType.INT8, DType.UINT8, DType.FLOAT32):
        make = Builder()
        image = make.tensor((-1, 400), dtype, scale=None if dtype is DType.FLOAT32 else 0.1)
        data = tflite.write(make.graph({"x": image}, {"x": image}))
        info = host_benchmark.Runner(data).input
        values = host_benchmark._random(info, rng)
        assert values.shape == (1, 400)
        assert values.dtype == dtype.numpy
        assert np.ptp(values.astype(float)) > (1.5 if dtype is DType.FLOAT32 else 200)


def test_bad_calls(tmp_path):
    with pytest.raises(DDQError, match="0 models"):
        benchmark({})
    with pytest.raises(DDQError, match="runs=0"):
        benchmark({"a": dense(4)}, runs=0)
    with pytest.raises(DDQError, match="cannot read"):
        benchmark({"a": tmp_path / "absent"})
    with pytest.raises(DDQError, match="TFL3"):
        benchmark({"a": b"not a model"})
