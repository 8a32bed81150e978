"""What rules say of their layers is what the layers do."""

from __future__ import annotations

import collections
import itertools

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model, reconstruct_model
from ddq_tf.graph import flatten
from ddq_tf.kinds import RULES, rule_of
from ddq_tf.training.batch_norm import fixed_statistics
from ddq_tf.transform.canonical import canonical
from ddq_tf.transform.quantize import rebuilt
from tests.kinds.test_contract import name_of
from tests.toys import array, images, shake

L = keras.layers
RULES_WITH_EXAMPLES = {name_of(rule): rule for rule in RULES.rules if rule.examples}


def models_of(rule):
    for example in rule.examples:
        x = keras.Input(example.shape)
        yield shake(keras.Model(x, example.build(x))), images(6, example.shape)


@pytest.mark.parametrize("name", RULES_WITH_EXAMPLES)
def test_layers_with_two_modes_are_known(name):
    for model, x in models_of(RULES_WITH_EXAMPLES[name]):
        wanted = array(model(x, training=False))
        with fixed_statistics(model.layers):
            received = array(model(x, training=True))
        np.testing.assert_allclose(received, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n, r in RULES_WITH_EXAMPLES.items() if r.is_homogeneous])
def test_homogeneous_layers_are(name):
    for model, x in models_of(RULES_WITH_EXAMPLES[name]):
        # Not where a convolution has a branch of its own, or a ceiling stands behind.
        if any(hasattr(a, "kernel") or getattr(a, "max_value", None) for a in model.layers):
            continue
        factors = np.linspace(0.5, 2, x.shape[-1]).astype(np.float32)
        wanted = array(model(x, training=False)) * factors
        received = array(model(x * factors, training=False))
        np.testing.assert_allclose(received, wanted, rtol=1e-4, atol=1e-5)


def test_layers_that_look_at_each_position_alone_do():
    """The last position of the whole is what they make of the last position."""
    titles = {"weights", "activations", "sums and products", "shapes", "scales", "normalizations"}
    looked_at = collections.Counter()
    for rule in (rule for each in RULES.families if each.title in titles for rule in each.rules):
        for model, _ in itertools.islice(models_of(rule), 2):
            twin = rebuilt(canonical(flatten(model)), DDQConfig(budget=None), model).model
            for node in flatten(twin).nodes:
                for axis in range(1, len(node.shapes[0]) - 1):
                    if rule_of(node.layer).each_alone(node, axis):
                        looked_at[type(node.layer).__name__] += assert_alone(node, axis)
    assert all(looked_at[kind] for kind in ("DDQConv2D", "DDQDense", "Add", "PReLU", "DDQSoftmax"))


def assert_alone(node, axis):
    inputs = [images(2, shape[1:]) for shape in node.shapes]
    if any(len(x.shape) <= axis or x.shape[axis] < 2 for x in inputs):
        return 0
    whole, alone = (
        array(node.layer(reads if len(reads) > 1 else reads[0]))
        for reads in (inputs, [np.take(x, [-1], axis) for x in inputs])
    )
    np.testing.assert_allclose(np.take(whole, [-1], axis), alone, atol=1e-5, err_msg=node.name)
    return 1


@pytest.mark.parametrize("layer", [L.GaussianNoise(0.5), L.Identity(), L.GaussianDropout(0.3)])
def test_reconstruction_never_makes_a_block_worse(layer):
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8, 8, 3))
    for step in (L.Conv2D(8, 3, activation="relu"), layer, L.Conv2D(8, 3, activation="relu")):
        x = step(x)
    model = keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))
    config = DDQConfig(precisions=(4,), budget=None)
    _, blocks = reconstruct_model(model, images(64), config)
    assert all(block.after <= block.before * 1.01 for block in blocks)


_MOMENTS = {"mean": [0.0, 1.0, 2.0, 3.0], "variance": [1.0, 2.0, 3.0, 4.0]}
ALONG = {
    "BatchNormalization": lambda axis: L.BatchNormalization(axis),
    "LayerNormalization": lambda axis: L.LayerNormalization(axis),
    "RMSNormalization": lambda axis: L.RMSNormalization(axis),
    "UnitNormalization": lambda axis: L.UnitNormalization(axis),
    "Normalization": lambda axis: L.Normalization(axis, **_MOMENTS),
}


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4)], ids=["sequences", "images"])
@pytest.mark.parametrize("name", ALONG)
def test_a_normalization_along_another_axis_is_refused_also_where_sizes_agree(name, shape):
    x = keras.Input(shape)
    model = keras.Model(x, L.Dense(3)(ALONG[name](1)(L.Dense(4)(x))))
    with pytest.raises(DDQError, match=rf"\({name}\): needs (axis=-1|one mean and variance)"):
        quantize_model(model, DDQConfig(budget=None), calibration=images(4, shape))
