import pytest

from ddq_tf.targets import TARGETS, OpKind, get_target, lookup_bytes

TFLM = get_target("tflm")
CONV = (3 * 3 * 64 * 64, 64)
DEPTHWISE = (3 * 3 * 64, 64)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", OpKind)
@pytest.mark.parametrize("shape", [CONV, DEPTHWISE, (10, 10), (640, 10)])
def test_what_a_precision_costs_never_falls(name, kind, shape):
    target = get_target(name)
    for size in (target.stored_size_bits, target.counted_size_bits):
        costs = [size(kind, bits, *shape) for bits in range(2, 9)]
        assert costs == sorted(costs)
        assert costs[-1] == 8 * shape[0]


@pytest.mark.parametrize(
    ("name", "kind", "stored", "counted"),
    [
        ("litert", OpKind.POINTWISE, 4, 4),
        ("litert", OpKind.CONV, 8, 8),
        ("litert-compact", OpKind.POINTWISE, 4, 4),
        ("litert-int8", OpKind.POINTWISE, 8, 3),
    ],
)
def test_without_tables_every_weight_costs_the_same(name, kind, stored, counted):
    target = get_target(name)
    assert target.index_bits(3, *CONV) is None
    assert target.stored_size_bits(kind, 3, *CONV) == stored * CONV[0]
    assert target.counted_size_bits(kind, 3, *CONV) == counted * CONV[0]


@pytest.mark.parametrize("kind", [OpKind.POINTWISE, OpKind.DENSE])
@pytest.mark.parametrize(
    ("row", "widths"),
    [
        (1, (8, 8, 8)),
        (2, (4, 4, 8)),
        (3, (8, 8, 8)),
        (4, (2, 4, 8)),
        (6, (4, 4, 8)),
        (8, (2, 4, 8)),
    ],
)
def test_rows_of_fully_connected_end_with_a_byte(kind, row, widths):
    target = get_target("litert")
    assert tuple(target.stored_bits(kind, bits, row) for bits in (2, 3, 8)) == widths
    assert [target.stored_size_bits(kind, bits, 5 * row, 5) for bits in (2, 3, 8)] == [
        5 * row * width for width in widths
    ]
    assert target.at_least(3).stored_bits(kind, 2, row) == widths[1]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_tables_are_counted(bits):
    weights, channels = CONV
    tables = channels * 2**bits
    size = TFLM.counted_size_bits(OpKind.CONV, bits, weights, channels)
    assert TFLM.index_bits(bits, weights, channels) == bits
    assert size == TFLM.stored_size_bits(OpKind.CONV, bits, weights, channels)
    assert weights * bits + 8 * tables < size < weights * bits + 8 * (tables + 128)


def test_a_table_holds_no_more_values_than_the_channel_weights():
    # Nine weights a channel: nine values at most, where four bits could tell sixteen apart.
    assert lookup_bytes(4, *DEPTHWISE) == lookup_bytes(4, *DEPTHWISE, values=9)
    assert lookup_bytes(4, *DEPTHWISE, values=5) == lookup_bytes(4, *DEPTHWISE) - 4 * 64


@pytest.mark.parametrize("bits", [3, 4, 7, 8])
def test_where_tables_cost_more_the_codes_are_stored_plainly(bits):
    weights, channels = DEPTHWISE
    assert TFLM.index_bits(bits, weights, channels) is None
    assert TFLM.counted_size_bits(OpKind.DEPTHWISE, bits, weights, channels) == 8 * weights


def test_odd_numbers_of_indices_fill_whole_bytes():
    assert lookup_bytes(3, 3, 1, 2) - lookup_bytes(3, 2, 1, 2) == 1
    assert lookup_bytes(4, 2, 1, 2) - lookup_bytes(4, 1, 1, 2) == 0
