"""Quantization without labels: block-wise reconstruction of the float network."""

from ddq_tf.recipes import ReconstructionConfig
from ddq_tf.reconstruction.blockwise import BlockError
from ddq_tf.reconstruction.reconstruct import (
    Progress,
    blocks_kept,
    forget_reconstruction,
    reconstruct_model,
)

__all__ = [
    "BlockError",
    "Progress",
    "ReconstructionConfig",
    "blocks_kept",
    "forget_reconstruction",
    "reconstruct_model",
]
