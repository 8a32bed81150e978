import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.quantizers import ActivationQuantizer, WeightQuantizer, gates
from tests.quantizers import twin
from tests.toys import array

PRECISIONS = (2, 4, 8)
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "clipped": lambda: keras.optimizers.SGD(0.01, global_clipnorm=1e-3),
    "averaged": lambda: keras.optimizers.AdamW(1e-3, weight_decay=0.1, use_ema=True),
}


class Toy:
    """The loss <slope, quantized kernel>, whose gradient at the kernel is known: the slope."""

    def __init__(self, optimizer, family="uniform"):
        rng = np.random.default_rng(0)
        self.kernel = keras.Variable(rng.normal(0, 0.3, (20, 3)).astype(np.float32), name="kernel")
        self.slope = rng.normal(0, 1, (20, 3)).astype(np.float32)
        self.quantizer = WeightQuantizer(PRECISIONS, levels=family)
        self.quantizer.build((20, 3))
        self.quantizer.calibrate(array(self.kernel))
        self.optimizer = optimizer
        self.variables = [self.kernel, *self.quantizer.trainable_variables]
        optimizer.build(self.variables)

    def step(self, visited):
        """One training step at a precision; returns what its evidence adds, from numpy."""
        self.quantizer.visit(visited)
        kernel = array(self.kernel)
        levels = [twin.quantized_weight(self.quantizer, kernel, i) for i in range(len(PRECISIONS))]
        with tf.GradientTape() as tape:
            output = self.quantizer(self.kernel, training=True)
            loss = tf.reduce_sum(output * self.slope)
        gradients = tape.gradient(loss, [v.value for v in self.variables])
        self.optimizer.apply(gradients, self.variables)
        return twin.loss_saved(lambda i: levels[i], visited, len(PRECISIONS), self.slope)

    @property
    def evidence(self):
        return array(self.quantizer.evidence)


def remembered(evidence, seen):
    """Evidence after a step: what was seen is added to what decays where it was seen."""
    return np.where(seen[..., 1:] > 0, 0.995 * evidence, evidence) + seen


@pytest.mark.parametrize("family", ["uniform", "free"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_evidence_is_the_gradient_of_the_gates_under_every_optimizer(name, family):
    toy = Toy(OPTIMIZERS[name](), family)
    expected = np.zeros((2, 2, 2))
    for visited in (1, 2, 1, 0, 0):
        expected = remembered(expected, toy.step(visited))
        np.testing.assert_allclose(toy.evidence, expected, rtol=1e-4, atol=1e-4)
    assert (expected[..., 1] > 0).sum() == 4, "all ends are seen"
    np.testing.assert_allclose(
        toy.quantizer.loss_saved(),
        (expected[..., 0] / expected[..., 1]).sum(axis=1) / 2,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("signed", [True, False])
def test_evidence_of_activations(signed):
    x = np.random.default_rng(0).normal(0.2, 1, (6, 5)).astype(np.float32)
    quantizer = ActivationQuantizer(PRECISIONS, signed=signed)
    quantizer.build((None, 5))
    quantizer.set_range([1.2, 1.7, 2.3])
    upstream = np.random.default_rng(1).normal(0, 1, x.shape).astype(np.float32)
    limits = [quantizer.limits(bits) for bits in PRECISIONS]
    levels = [
        twin.forward(x, twin.range_of(quantizer, i) / np.float32(qmax), qmin, qmax)[0]
        for i, (qmin, qmax) in enumerate(limits)
    ]
    for visited in range(3):
        quantizer.visit(visited)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(quantizer(tf.constant(x), training=True) * upstream)
        evidence = tape.gradient(loss, quantizer.evidence.value)
        seen = twin.loss_saved(lambda i: levels[i], visited, 3, upstream)
        np.testing.assert_allclose(array(evidence), seen, rtol=1e-3, atol=1e-3)


def test_final_gates_gather_no_evidence():
    toy = Toy(keras.optimizers.SGD(0.01))
    toy.step(1)
    before = toy.evidence.copy()
    assert before.any()
    toy.quantizer.frozen.assign(True)
    toy.step(0)
    np.testing.assert_array_equal(toy.evidence, before)


def test_inference_gathers_no_evidence():
    toy = Toy(keras.optimizers.SGD(0.01))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(toy.quantizer(toy.kernel, training=False))
    assert tape.gradient(loss, toy.quantizer.evidence.value) is None


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ((6.0, 3.0), (2.0, 4.0), (2 + 0.5) / 2),
        ((6.0, 3.0), (0.0, 0.0), 1.0),
        ((0.0, 0.0), (2.0, 4.0), 0.25),
        ((0.0, 0.0), (0.0, 0.0), 0.0),
        ((np.nan, 3.0), (2.0, 4.0), 0.25),
        ((np.inf, 3.0), (-np.inf, 4.0), 0.0),
        ((1.0, np.nan), (2.0, 4.0), 0.25),
    ],
)
def test_loss_saved(lower, upper, expected):
    saved = gates.loss_saved(np.array([[lower, upper]], np.float32))
    assert saved.tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("family", ["uniform", "free"])
def test_the_mean_of_both_ends_finds_the_saving_of_a_quadratic_loss(family):
    """At the optimum x* the true saving of Q1 over Q0 is (|Q0-x*|^2 - |Q1-x*|^2) / 2."""
    toy = Toy(keras.optimizers.SGD(0.0), family)
    kernel = array(toy.kernel)
    levels = [twin.quantized_weight(toy.quantizer, kernel, i) for i in range(3)]
    for visited in (0, 1, 2):
        toy.slope = levels[visited] - kernel
        toy.step(visited)
    errors = [np.square(level - kernel, dtype=np.float64).sum() / 2 for level in levels]
    np.testing.assert_allclose(toy.quantizer.loss_saved(), -np.diff(errors), rtol=1e-3)
