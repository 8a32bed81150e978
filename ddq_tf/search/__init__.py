"""The search for each layer's precision: a budget, what the gates learned, one exact choice."""

from ddq_tf.search.allocate import allocate
from ddq_tf.search.budget import PrecisionBudget, activation_budget, weight_budget
from ddq_tf.search.callback import PrecisionSearch
from ddq_tf.search.choose import best_choice
from ddq_tf.search.guard import FiniteGuard
from ddq_tf.search.model import DDQModel
from ddq_tf.search.own_class import own_attributes, own_class

__all__ = [
    "DDQModel",
    "FiniteGuard",
    "PrecisionBudget",
    "PrecisionSearch",
    "activation_budget",
    "allocate",
    "best_choice",
    "own_attributes",
    "own_class",
    "weight_budget",
]
