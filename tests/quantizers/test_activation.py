import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddq_tf.errors import DDQError
from ddq_tf.quantizers import ActivationQuantizer
from tests.quantizers import twin
from tests.toys import array


def quantizer_of(limit=2.0, **kwargs):
    quantizer = ActivationQuantizer(**kwargs)
    quantizer.build((None, 8, 8, 4))
    quantizer.set_range(limit)
    return quantizer


def values(seed=0):
    return np.random.default_rng(seed).normal(0, 2, (5, 8, 8, 4)).astype(np.float32)


def limits(bits, signed):
    """Signed grids are symmetric, but for INT8, which saturates by itself."""
    if not signed:
        return 0, 2**bits - 1
    qmax = 2 ** (bits - 1) - 1
    return (-128 if bits == 8 else -qmax), qmax


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_inference_equals_numpy(bits, signed):
    quantizer = quantizer_of(precisions=(bits,), signed=signed)
    qmin, qmax = limits(bits, signed)
    assert (quantizer.qmin, quantizer.qmax) == (qmin, qmax)
    scale = quantizer.export_scale()
    assert scale == np.float32(2) * np.float32(1 / qmax)
    output = array(quantizer(values()))
    np.testing.assert_array_equal(output, twin.forward(values(), scale, qmin, qmax)[0])
    assert len(np.unique(output)) <= 2**bits


@pytest.mark.parametrize("ceiling", [1.5, np.float32(1.5), np.array(1.5)])
def test_a_ceiling_may_be_any_number(ceiling):
    quantizer = quantizer_of(ceiling=ceiling, signed=False)
    assert quantizer.export_scale() == np.float32(1.5) * np.float32(1 / 255)
    np.testing.assert_allclose(array(quantizer(values())).max(), 1.5)
    assert quantizer.get_config()["ceiling"] == 1.5


@given(
    x=hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    bits=st.integers(2, 8),
    signed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_properties(x, bits, signed):
    quantizer = quantizer_of(1.3, precisions=(bits,), signed=signed)
    once = array(quantizer(x))
    np.testing.assert_array_equal(array(quantizer(once)), once, "idempotent")
    assert (np.diff(once[np.argsort(x)]) >= 0).all(), "monotonic"
    codes = np.rint(once / quantizer.export_scale())
    np.testing.assert_allclose(once / quantizer.export_scale(), codes, atol=1e-4)
    assert codes.min() >= limits(bits, signed)[0]
    assert codes.max() <= limits(bits, signed)[1]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("limit", [0.3, 2.0, 5.7])
def test_training_agrees_with_inference_up_to_ties(limit, bits, signed):
    quantizer = quantizer_of(limit, precisions=(bits,), signed=signed)
    trained, inferred = array(quantizer(values(), training=True)), array(quantizer(values()))
    steps = (trained - inferred) / quantizer.export_scale()
    # The fused kernel rounds halves up and computes the grid's ends in float32.
    assert np.mean(np.abs(steps) < 0.01) > 0.999
    assert np.abs(steps).max() < 1.01


def gradients(quantizer, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(quantizer(x, training=True) * upstream)
    return [array(g) for g in tape.gradient(loss, [x, quantizer.log_range.value])]


@pytest.fixture(params=["portable", "native"])
def path(request, monkeypatch):
    if request.param == "portable":
        monkeypatch.setattr("ddq_tf.quantizers.activation.has_native_kernels", lambda: False)
    return request.param


INPUTS = {
    "random": values(),
    "constant": np.full((2, 8, 8, 4), 0.7, np.float32),
    "zeros": np.zeros((2, 8, 8, 4), np.float32),
    "one element": np.float32([[[[0.4]]]]),
    # Not where the ends lie: the fused kernel computes these apart.
    "huge": np.float32([3e38, -3e38, 1e30, 0.3, -0.3]).reshape(1, 1, 1, 5),
    "denormal": np.float32([1e-40, -1e-40, 1e-45, 0.0, -0.0]).reshape(1, 1, 1, 5),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("case", INPUTS)
def test_gradients_equal_numpy(case, bits, signed, path):
    x, index = INPUTS[case], 1
    precisions = (bits - 1, bits) if bits > 2 else (2, 3)
    index = precisions.index(bits)
    quantizer = quantizer_of([1.1, 2.0], precisions=precisions, signed=signed)
    quantizer.log_range.assign([0.2, -0.1])
    quantizer.choose(index)
    upstream = np.random.default_rng(1).normal(0.3, 1, x.shape).astype(np.float32)
    dx, dlog = gradients(quantizer, x, upstream)
    scale, (qmin, qmax) = quantizer.export_scale(), limits(bits, signed)
    np.testing.assert_allclose(scale * qmax, twin.range_of(quantizer, index), rtol=1e-6)
    expected, dscale = twin.backward(x, scale, qmin, qmax, upstream)
    if path == "native" and bits == 8:  # leaves out the rounding term
        _, codes, units = twin.forward(x, scale, qmin, qmax)
        inside = (units >= qmin) & (units <= qmax)
        dscale = np.sum(np.where(inside, 0, codes) * upstream.astype(np.float64))
    if path == "portable":
        np.testing.assert_array_equal(dx, expected)
    else:  # where its zero point is, 0 itself lies at the end of an unsigned grid
        assert np.mean(dx == expected) > 0.999
    wanted = twin.range_gradient(quantizer, index, dscale / qmax)
    np.testing.assert_allclose(dlog[index], wanted, rtol=1e-3, atol=1e-3)
    assert dlog[1 - index] == 0, "only the range of the precision in force learns"


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_ties_differ_from_the_portable_formula_by_no_more_than_a_step(bits, signed):
    quantizer = quantizer_of(precisions=(bits,), signed=signed)
    scale, (qmin, qmax) = quantizer.export_scale(), limits(bits, signed)
    ties = ((np.arange(qmin, qmax) + 0.5) * scale).astype(np.float32).reshape(1, 1, 1, -1)
    steps = (array(quantizer(ties, training=True)) - array(quantizer(ties))) / scale
    assert np.abs(steps).max() < 1.01
    dx, dlog = gradients(quantizer, ties, np.ones_like(ties))
    assert (dx == 1).all()
    assert np.isfinite(dlog).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_nan_is_seen_or_clipped_but_ends_nothing(bits, path):
    x = np.float32([np.nan, 0.5]).reshape(1, 1, 1, 2)
    quantizer = quantizer_of(precisions=(bits,), signed=False)
    assert np.isnan(array(quantizer(x)))[..., 0].all()
    assert array(quantizer(x, training=True)).shape == x.shape
    dx, _ = gradients(quantizer, x, np.ones_like(x))
    assert dx[0, 0, 0, 1] == 1


@pytest.mark.parametrize("bits", [4, 8])
def test_a_ceiling_limits_the_range_and_lets_it_come_back(bits):
    quantizer = quantizer_of(5.0, precisions=(bits,), signed=False, ceiling=6.0)
    quantizer.log_range.assign([0.5])
    top = array(quantizer(np.full((1, 8, 8, 4), 50, np.float32)))
    np.testing.assert_allclose(top, 6, rtol=1e-6)
    x = np.full((1, 8, 8, 4), 50, np.float32)
    _, wants_less = gradients(quantizer, x, np.ones_like(x))
    _, wants_more = gradients(quantizer, x, -np.ones_like(x))
    assert wants_less > 0
    assert wants_more == 0


def test_each_precision_has_a_range_of_its_own():
    quantizer = quantizer_of([0.5, 1.0, 2.0], precisions=(2, 4, 8))
    for index, bits in enumerate((2, 4, 8)):
        quantizer.choose(index)
        qmax = 2 ** (bits - 1) - 1
        assert quantizer.export_scale() == pytest.approx(2.0 ** (index - 1) / qmax)
        assert (quantizer.num_bits, quantizer.qmax) == (bits, qmax)


def test_training_visits_what_it_is_told_and_inference_never_does(path):
    quantizer = quantizer_of([0.5, 1.0, 2.0], precisions=(2, 4, 8))
    quantizer.choose(1)
    inferred = array(quantizer(values()))
    for visited, count in ((0, 3), (1, 15), (2, 255)):
        quantizer.visit(visited)
        trained = array(quantizer(values(), training=True))
        assert 0.5 * count < len(np.unique(np.round(trained, 5))) <= count + 1
        np.testing.assert_array_equal(array(quantizer(values())), inferred)


def test_rescale_moves_the_range_in_force_only():
    quantizer = quantizer_of([0.5, 2.0], precisions=(4, 8), ceiling=6.0, signed=False)
    quantizer.log_range.assign([0.3, 0.3])
    before, other = quantizer.export_scale(), array(quantizer.base_range)[0]
    quantizer.rescale(1.25)
    np.testing.assert_allclose(quantizer.export_scale(), before * 1.25, rtol=1e-6)
    assert (array(quantizer.base_range)[0], array(quantizer.log_range)[0]) == (
        other,
        np.float32(0.3),
    )
    quantizer.rescale(100)
    np.testing.assert_allclose(quantizer.export_scale() * 255, 6, rtol=1e-6)


def test_num_values_are_those_of_one_example():
    assert quantizer_of().num_values == 8 * 8 * 4


def test_a_fixed_range_is_not_trained():
    assert not quantizer_of(learned=False).trainable_variables
    assert len(quantizer_of(learned=True).trainable_variables) == 1


@pytest.mark.parametrize("precisions", [(), (0,), (1,), (9,), (8, 4)])
def test_refuses_precision(precisions):
    with pytest.raises(DDQError, match="precisions"):
        ActivationQuantizer(precisions)


def test_config_round_trip():
    quantizer = ActivationQuantizer((2, 4), signed=False, learned=False, ceiling=6.0, name="q")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert copy.get_config() == quantizer.get_config()
    assert copy.precisions == (2, 4)


@pytest.mark.parametrize("precisions", [(8,), (4, 8)])
def test_values_are_codes_times_the_step_in_every_form(precisions):
    """Bit by bit: what adds up floats behind it, as LayerNormalization, tells last bits apart."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 7)).astype(np.float32)
    for _ in range(5):
        q = ActivationQuantizer(precisions)
        q.build((None, 7))
        q.set_range(rng.uniform(0.1, 3))
        q.log_range.assign(rng.normal(scale=0.1, size=q.log_range.shape))
        step = q.export_scale()
        codes = np.clip(np.rint(x * np.float32(1 / step)), q.qmin, q.qmax).astype(np.float32)
        for form in (q, tf.function(lambda x, q=q: q(x))):
            np.testing.assert_array_equal(np.asarray(form(x)), codes * step)
