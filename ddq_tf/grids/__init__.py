"""Which grid each tensor of a DDQ model lies on, and how its numbers become integers."""

from ddq_tf.grids.align import align, align_if_needed
from ddq_tf.grids.fold import FoldedLayer, Grid, fold, grid_of, tell_grids

__all__ = ["FoldedLayer", "Grid", "align", "align_if_needed", "fold", "grid_of", "tell_grids"]
