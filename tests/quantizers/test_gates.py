import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.quantizers import WeightQuantizer, gates
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

    def __init__(self, optimizer):
        rng = np.random.default_rng(0)
        self.kernel = keras.Variable(rng.normal(0, 0.3, (20, 3)).astype(np.float32), name="kernel")
        self.slope = rng.normal(0, 1, (20, 3)).astype(np.float32)
        self.quantizer = WeightQuantizer(PRECISIONS)
        self.quantizer.build((20, 3))
        self.quantizer.calibrate(array(self.kernel))
        self.optimizer = optimizer
        self.variables = [self.kernel, *self.quantizer.trainable_variables]
        optimizer.build(self.variables)

    def step(self, choice):
        """One training step at a precision; returns -dL/dG of every gate, from numpy."""
        self.quantizer.choice.assign(choice)
        kernel = array(self.kernel)
        levels = [twin.quantized_weight(self.quantizer, kernel, i) for i in range(len(PRECISIONS))]
        with tf.GradientTape() as tape:
            output = self.quantizer(self.kernel, training=True)
            loss = tf.reduce_sum(output * self.slope)
        gradients = tape.gradient(loss, [v.value for v in self.variables])
        self.optimizer.apply(gradients, self.variables)
        return [
            -np.sum(self.slope * (b - a), dtype=np.float64) for a, b in itertools.pairwise(levels)
        ]

    @property
    def evidence(self):
        return array(self.quantizer.evidence)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_evidence_is_the_gradient_of_the_gates_under_every_optimizer(name):
    toy = Toy(OPTIMIZERS[name]())
    expected = np.zeros((2, 2, 2))
    for choice in (1, 2, 1, 0, 0):
        saved = toy.step(choice)
        for gate, end in ((choice - 1, 1), (choice, 0)):
            if 0 <= gate < 2:
                expected[gate, end] = 0.995 * expected[gate, end] + [saved[gate], 1]
        np.testing.assert_allclose(toy.evidence, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        toy.quantizer.loss_saved(),
        (expected[..., 0] / np.maximum(expected[..., 1], 1e-9)).sum(axis=1) / 2,
        rtol=1e-4,
        atol=1e-4,
    )


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


def test_the_mean_of_both_ends_finds_the_saving_of_a_quadratic_loss():
    """At the optimum x* the true saving of Q1 over Q0 is (|Q0-x*|^2 - |Q1-x*|^2) / 2."""
    toy = Toy(keras.optimizers.SGD(0.0))
    kernel = array(toy.kernel)
    levels = [twin.quantized_weight(toy.quantizer, kernel, i) for i in range(3)]
    for choice in (0, 1, 2):
        toy.slope = levels[choice] - kernel
        toy.step(choice)
    errors = [np.square(level - kernel, dtype=np.float64).sum() / 2 for level in levels]
    np.testing.assert_allclose(toy.quantizer.loss_saved(), -np.diff(errors), rtol=1e-3)
