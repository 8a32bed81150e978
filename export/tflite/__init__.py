"""The integer graph as the bytes of a .tflite file, and back.

`write` spends bytes only on what a runtime reads: equal constants, vectors and tables are stored
once, names are dropped. `read` undoes it, and also reads other writers' files as long as they keep
to the operators and types of the integer graph.
"""

from __future__ import annotations

from ddq_tf.export.tflite.reader import read, refusing_damage
from ddq_tf.export.tflite.sharing import pack
from ddq_tf.export.tflite.writer import write

__all__ = ["pack", "read", "refusing_damage", "write"]
