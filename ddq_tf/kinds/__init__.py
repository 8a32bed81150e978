"""What is known of each layer type: one rule each, which every room asks.

To add a layer, add its rule to the file of its family, with examples.
"""

from ddq_tf.kinds import (
    activations,
    constants,
    normalizations,
    operations,
    pooling,
    products,
    quantizers,
    recurrent,
    scales,
    shapes,
    sums,
    training_only,
    weighted,
)
from ddq_tf.kinds.activations import is_activation
from ddq_tf.kinds.functions import FUNCTIONS, Function, activation_name, ceiling_of, function_of
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output, Registry
from ddq_tf.kinds.training_only import TRAINING_ONLY

RULES = Registry(
    (
        weighted.FAMILY,
        activations.FAMILY,
        sums.FAMILY,
        products.FAMILY,
        constants.FAMILY,
        pooling.FAMILY,
        shapes.FAMILY,
        scales.FAMILY,
        normalizations.FAMILY,
        recurrent.FAMILY,
        training_only.FAMILY,
        operations.FAMILY,
        quantizers.FAMILY,
    )
)
find_rule = RULES.find
rule_of = RULES.of
output_of = RULES.output_of

__all__ = [
    "FUNCTIONS",
    "RULES",
    "TRAINING_ONLY",
    "Example",
    "Family",
    "Function",
    "LayerRule",
    "Output",
    "activation_name",
    "ceiling_of",
    "find_rule",
    "function_of",
    "is_activation",
    "output_of",
    "rule_of",
]
