"""The search for each layer's precision: a budget, what the gates learned, one exact choice."""

from ddq_tf.search.allocate import allocate
from ddq_tf.search.budget import WeightBudget, weight_budget
from ddq_tf.search.callback import PrecisionSearch
from ddq_tf.search.model import DDQModel

__all__ = ["DDQModel", "PrecisionSearch", "WeightBudget", "allocate", "weight_budget"]
