import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddq_tf.export import packing, tflite
from ddq_tf.export.ir import DType
from tests.export.graphs import Builder

CODECS = {
    4: (packing.pack_int4, packing.unpack_int4),
    2: (packing.pack_int2, packing.unpack_int2),
}


@pytest.mark.parametrize(
    ("values", "packed"),
    [
        ([], []),
        ([-8], [0x08]),
        ([1, -2, 7], [0xE1, 0x07]),
        ([[0, -1], [3, 4], [-8, 7]], [0xF0, 0x43, 0x78]),
        ([-1, -7, -8, 5, -3], [0x9F, 0x58, 0x0D]),
        ([[-2], [-4], [6], [-6], [0], [-5], [-7]], [0xCE, 0xA6, 0xB0, 0x09]),
    ],
)
def test_int4_bytes(values, packed):
    assert packing.pack_int4(np.array(values, np.int8)).tolist() == packed


@pytest.mark.parametrize(
    ("values", "packed"),
    [
        ([], []),
        ([-2], [0x02]),
        ([1, -2, 0, -1, 1], [0xC9, 0x01]),
        ([[0, 1], [-2, -1]], [0xE4]),
        ([-1, -2, -1], [0x3B]),
        ([-2, 1, -1, -2, -1, 0, -2], [0xB6, 0x23]),
    ],
)
def test_int2_bytes(values, packed):
    assert packing.pack_int2(np.array(values, np.int8)).tolist() == packed


@pytest.mark.parametrize("bits", [4, 2])
@given(data=st.data())
def test_round_trip(bits, data):
    pack, unpack = CODECS[bits]
    limit = 1 << (bits - 1)
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=7)
    values = data.draw(hnp.arrays(np.int8, shapes, elements=st.integers(-limit, limit - 1)))
    packed = pack(values)
    assert packed.dtype == np.uint8
    assert packed.shape == (-(-values.size * bits // 8),)
    np.testing.assert_array_equal(unpack(packed, values.size), values.ravel())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 15])
@pytest.mark.parametrize(("dtype", "limit"), [(DType.INT4, 8), (DType.INT2, 2)])
def test_the_runtime_unpacks_the_same(dtype, limit, size):
    make = Builder()
    codes = np.resize(np.arange(-limit, limit), size)
    image = make.tensor((1,), DType.FLOAT32)
    constant = make.tensor((), dtype, scale=1.0, data=codes)
    real = make.op("DEQUANTIZE", (constant,), (size,), dtype=DType.FLOAT32)
    data = tflite.write(make.graph({"x": image}, {"x": image, "y": real}))
    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.invoke()
    index = interpreter.get_output_details()[1]["index"]
    np.testing.assert_array_equal(interpreter.get_tensor(index), codes)


@pytest.mark.parametrize(("bits", "value"), [(4, 8), (4, -9), (2, 2), (2, -3), (4, 127)])
def test_out_of_range(bits, value):
    with pytest.raises(ValueError, match="must lie in"):
        CODECS[bits][0](np.array([0, value]))


def test_not_integers():
    with pytest.raises(ValueError, match="must be integers"):
        packing.pack_int4(np.array([1.0]))


@pytest.mark.parametrize("bits", [4, 2])
def test_wrong_number_of_bytes(bits):
    with pytest.raises(ValueError, match="take 2 bytes"):
        CODECS[bits][1](np.zeros(3, np.uint8), 3 if bits == 4 else 5)
