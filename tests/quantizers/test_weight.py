import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from ddq_tf.errors import DDQError
from ddq_tf.quantizers import WeightQuantizer
from tests.quantizers import twin
from tests.toys import array

ALL = tuple(range(2, 9))
FAMILIES = ("uniform", "free")


def kernel_of(shape=(3, 3, 4, 6), seed=0):
    kernel = np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)
    kernel[..., 0] = 0  # a dead channel
    kernel[..., 1] *= 1e-6  # one that is all but dead
    kernel[0, ..., 2] *= 30  # outliers
    return kernel


def quantizer_of(kernel, precisions=ALL, *, bits=None, **kwargs):
    quantizer = WeightQuantizer(precisions, **kwargs)
    quantizer.build(kernel.shape)
    quantizer.calibrate(kernel)
    if bits is not None:
        quantizer.choose(precisions.index(bits))
    return quantizer


def trained(quantizer):
    """Moves every range and level, as training does."""
    rng = np.random.default_rng(1)
    quantizer.log_range.assign(rng.normal(0, 0.1, quantizer.log_range.shape))
    if quantizer.scheme.levels == "free":
        levels = quantizer.levels.levels
        levels.assign(array(levels) + rng.normal(0, 0.05, levels.shape))
    return quantizer


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("channel_axes", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_export_is_the_forward_pass(family, bits, channel_axes, per_channel):
    kernel = kernel_of()
    quantizer = trained(
        quantizer_of(
            kernel, bits=bits, channel_axes=channel_axes, per_channel=per_channel, levels=family
        )
    )
    codes, scale = quantizer.export(kernel)
    forward = array(quantizer(kernel))
    np.testing.assert_array_equal(codes * scale, forward)
    np.testing.assert_array_equal(forward, array(quantizer(kernel, training=True)))
    alpha = np.broadcast_to(twin.range_of(quantizer, bits - 2), scale.shape)
    qmax = 127 if family == "free" else 2 ** (bits - 1) - 1
    np.testing.assert_allclose(quantizer.range_in_force(), alpha, rtol=1e-6)
    np.testing.assert_allclose(scale, alpha / qmax, rtol=1e-6)
    assert codes.dtype == np.int8
    assert scale.shape == kernel.shape[-channel_axes:]
    assert per_channel or len(np.unique(scale)) == 1
    assert np.abs(codes).max() <= qmax
    assert len(np.unique(codes)) <= 2**bits
    assert quantizer.num_bits == bits


@pytest.mark.parametrize("bits", ALL)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_forward_pass_equals_numpy(family, bits):
    kernel = kernel_of()
    quantizer = quantizer_of(kernel, bits=bits, levels=family, level_init="kmeans")
    expected = twin.quantized_weight(quantizer, kernel, bits - 2)
    np.testing.assert_array_equal(array(quantizer(kernel)), expected)
    levels = quantizer.levels_in_force()
    assert len(levels) <= 2**bits
    units = array(quantizer(kernel)) / quantizer.range_in_force()
    assert np.abs(units[..., None] - levels).min(axis=-1).max() < 1e-6


@given(
    seed=st.integers(0, 9),
    bits=st.integers(2, 8),
    family=st.sampled_from(FAMILIES),
    per_channel=st.booleans(),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 1e15]),
)
@settings(max_examples=40, deadline=None)
def test_properties(seed, bits, family, per_channel, size):
    kernel = kernel_of((2, 2, 3, 4), seed) * np.float32(size)
    quantizer = trained(
        quantizer_of(kernel, (bits,), per_channel=per_channel, levels=family, level_init="kmeans")
    )
    once = array(quantizer(kernel))
    codes, scale = quantizer.export(kernel)
    assert np.isfinite(once).all()
    np.testing.assert_array_equal(codes * scale, once)
    assert len(np.unique(codes)) <= 2**bits
    assert -127 <= codes.min() <= codes.max() <= 127
    np.testing.assert_array_equal(array(quantizer(once)), once, "idempotent")
    columns, rounded = kernel.reshape(-1, 4), once.reshape(-1, 4)
    for column, values in zip(columns.T, rounded.T, strict=True):
        assert (np.diff(values[np.argsort(column)]) >= 0).all(), "monotonic"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1), (7, 1), (1, 5)])
def test_smallest_kernels(shape, family):
    kernel = np.full(shape, -0.7, np.float32)
    quantizer = quantizer_of(kernel, (4, 8), levels=family)
    codes, scale = quantizer.export(kernel)
    np.testing.assert_allclose(codes * scale, kernel, rtol=0.01)


def test_calibration_by_maximum_never_clips():
    kernel = kernel_of()
    quantizer = WeightQuantizer((3, 8))
    quantizer.build(kernel.shape)
    quantizer.calibrate(kernel, method="max")
    largest = np.abs(kernel).reshape(-1, 6).max(axis=0)
    np.testing.assert_array_equal(array(quantizer.base_range)[:, 2:], [largest[2:]] * 2)
    assert (array(quantizer.base_range)[:, :2] >= largest[:2]).all()


def gradients(quantizer, kernel, upstream):
    variable = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(variable, training=True) * upstream)
    sources = [variable, *(v.value for v in quantizer.trainable_variables)]
    names = ["kernel", *(v.name for v in quantizer.trainable_variables)]
    values = tape.gradient(loss, sources)
    return {name: None if g is None else array(g) for name, g in zip(names, values, strict=True)}


KERNELS = {
    "random": kernel_of()[..., 1:],
    "with a dead channel": kernel_of(),
    "constant": np.full((3, 3, 2, 4), 0.25, np.float32),
    "zeros": np.zeros((3, 4), np.float32),
    "one element": np.float32([[0.4]]),
    "ties": (np.arange(-40, 40, dtype=np.float32) / 8).reshape(-1, 1),
    "huge": np.float32([[1e15], [-3e14], [7e14], [2e13]]),
    "denormal": np.float32([[1e-40], [-1e-41], [1e-45]]),
}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", KERNELS)
def test_gradients_equal_numpy(case, family, bits, per_channel):
    kernel, precisions = KERNELS[case], (2, 4, 8)
    quantizer = quantizer_of(
        kernel, precisions, bits=bits, levels=family, per_channel=per_channel, correction=0.7
    )
    index = precisions.index(bits)
    upstream = np.random.default_rng(2).normal(0, 1, kernel.shape).astype(np.float32)
    found = gradients(quantizer, kernel, upstream)
    dkernel, dlog, dlevels = twin.weight_gradients(quantizer, kernel, index, upstream)
    np.testing.assert_array_equal(found["kernel"], dkernel)
    np.testing.assert_allclose(found["log_range"][index], dlog, rtol=1e-3, atol=1e-4)
    others = np.delete(found["log_range"], index, axis=0)
    assert not others.any(), "only the range of the precision in force learns"
    if family == "free":
        size = max(1.0, float(np.abs(kernel).max()))
        tolerance = 1e-4 * max(1.0, np.abs(dlevels).max()) + 1e-6 * size
        np.testing.assert_allclose(found["levels"], dlevels, rtol=1e-3, atol=tolerance)
    saved = twin.loss_saved(
        lambda i: twin.quantized_weight(quantizer, kernel, i), index, 3, upstream
    )
    tolerance = 1e-5 * max(1.0, float(np.abs(kernel).max()))
    np.testing.assert_allclose(found["evidence"], saved, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("visited", [0, 1, 2])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_compiled_step_equals_the_portable_one(monkeypatch, per_channel, visited):
    """The largest weights lie on the edge of their range: inside for both, or for neither."""
    kernel = kernel_of((3, 3, 4, 24))
    quantizer = quantizer_of(kernel, (2, 4, 8), levels="free", per_channel=per_channel)
    quantizer.calibrate(kernel, method="max")
    quantizer.visit(visited)
    upstream = np.random.default_rng(2).normal(0, 1, kernel.shape).astype(np.float32)
    steps = []
    for native in (True, False):
        for module in ("native", "levels"):
            name = f"ddq_tf.quantizers.{module}.has_native_kernels"
            monkeypatch.setattr(name, lambda native=native: native)
        forward = array(quantizer(kernel, training=True))
        steps.append((forward, gradients(quantizer, kernel, upstream)))
    (compiled, found), (portable, expected) = steps
    np.testing.assert_array_equal(compiled, portable)
    np.testing.assert_array_equal(found["kernel"], expected["kernel"])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5 * size, err_msg=name)


def test_the_gradient_of_moved_ranges_and_levels_equals_numpy():
    """The bound of the range has a slope of its own there; levels have left their order."""
    kernel = kernel_of()[..., 1:]
    quantizer = trained(quantizer_of(kernel, (2, 4), bits=4, levels="free"))
    upstream = np.random.default_rng(2).normal(0, 1, kernel.shape).astype(np.float32)
    found = gradients(quantizer, kernel, upstream)
    dkernel, dlog, dlevels = twin.weight_gradients(quantizer, kernel, 1, upstream)
    # The exponential's last bit may move a value across the middle of two levels.
    assert np.mean(found["kernel"] == dkernel) == 1
    np.testing.assert_allclose(found["log_range"][1], dlog, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["levels"], dlevels, rtol=1e-3, atol=1e-3)


def test_correction_alone_moves_levels_to_the_centroids_of_what_they_serve():
    kernel = np.random.default_rng(0).laplace(0, 0.1, (500, 1)).astype(np.float32)
    errors = {}
    for correction in (0.0, 1.0):
        quantizer = quantizer_of(kernel, (3,), levels="free", correction=correction)
        levels, before = quantizer.levels.levels, array(quantizer(kernel))
        for _ in range(40):
            levels.assign(array(levels) - 0.5 * gradients(quantizer, kernel, 0 * kernel)["levels"])
        after = array(quantizer(kernel))
        errors[correction] = np.square(after - kernel).mean() / np.square(before - kernel).mean()
    assert errors[0.0] == 1
    assert errors[1.0] < 0.8
    units = kernel / quantizer.range_in_force()
    centroids = [units[after == level].mean() for level in np.unique(after)]
    np.testing.assert_allclose(quantizer.levels_in_force()[1:-1], centroids[1:-1], atol=1 / 127)
    assert abs(centroids[-1]) >= 1 - 1 / 127, "the end serves clipped values and stays"


@pytest.mark.parametrize("family", FAMILIES)
def test_training_visits_what_it_is_told_and_inference_never_does(family):
    kernel = kernel_of((3, 3, 2, 4))
    quantizer = quantizer_of(kernel, (2, 4, 6, 8), bits=4, levels=family)
    known = [twin.quantized_weight(quantizer, kernel, i) for i in range(4)]
    assert all((one != two).any() for one, two in itertools.combinations(known, 2))
    for visited in (0, 2, 3, 1):
        quantizer.visit(visited)
        np.testing.assert_array_equal(array(quantizer(kernel, training=True)), known[visited])
        np.testing.assert_array_equal(array(quantizer(kernel, training=False)), known[1])
        np.testing.assert_array_equal(array(quantizer(kernel)), known[1])
        codes, scale = quantizer.export(kernel)
        np.testing.assert_array_equal(codes * scale, known[1])
        assert quantizer.num_bits == 4


def test_a_single_precision_has_no_gate():
    kernel = kernel_of()
    quantizer = quantizer_of(kernel, (8,), bits=8)
    assert not any(v.name == "evidence" for v in quantizer.variables)
    assert quantizer.loss_saved().size == 0
    np.testing.assert_array_equal(
        array(quantizer(kernel, training=True)), twin.quantized_weight(quantizer, kernel, 0)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_nan_weight_is_seen_in_the_output(family):
    kernel = kernel_of()[..., 1:]
    quantizer = quantizer_of(kernel, (2, 4), levels=family)
    kernel = kernel.copy()
    kernel[0, 0, 0, 0] = np.nan
    output = array(quantizer(kernel, training=True))
    np.testing.assert_array_equal(np.isnan(output), np.isnan(kernel))
    found = gradients(quantizer, kernel, np.ones_like(kernel))
    assert all(g.shape for g in found.values())


def test_bypass_returns_the_kernel():
    kernel = kernel_of()
    quantizer = quantizer_of(kernel)
    quantizer.bypass = True
    np.testing.assert_array_equal(array(quantizer(kernel)), kernel)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_rescaling_with_the_kernel_keeps_the_codes(per_channel, family):
    kernel = kernel_of()
    quantizer = quantizer_of(kernel, (4, 8), per_channel=per_channel, levels=family)
    codes, scale = quantizer.export(kernel)
    factor = np.float32([2, 0.5, 4, 1, 8, 0.25]) if per_channel else np.float32(4)
    quantizer.rescale(factor)
    again, rescaled = quantizer.export(kernel * factor)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(rescaled, scale * factor)


def test_starts_at_the_highest_precision_and_not_frozen():
    quantizer = quantizer_of(kernel_of(), (2, 4, 8))
    assert quantizer.num_bits == 8
    assert int(quantizer.active) == int(quantizer.choice) == 2
    assert not quantizer.is_frozen
    assert quantizer.num_weights == 3 * 3 * 4 * 6
    assert quantizer.num_channels == 6


@pytest.mark.parametrize("precisions", [(), (8, 4), (4, 4), (1, 8), (4, 9)])
def test_refuses_precisions(precisions):
    with pytest.raises(DDQError, match=r"precisions.*Received"):
        WeightQuantizer(precisions)


def test_refuses_an_unknown_family():
    with pytest.raises(DDQError, match=r"levels must be one of.*'learned'"):
        WeightQuantizer((4,), levels="learned")


def test_config_round_trip():
    quantizer = WeightQuantizer(
        (3, 5),
        channel_axes=2,
        per_channel=False,
        levels="free",
        level_init="kmeans",
        correction=0.3,
        name="q",
    )
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert copy.get_config() == quantizer.get_config()
    assert copy.get_config()["correction"] == 0.3
