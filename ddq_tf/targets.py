"""What each deployment target stores, as value objects (stdlib only).

The quantizers learn only precisions that the target stores, the budget counts the bytes that it
stores, and the exporter writes them: all three read this one table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ddq_tf import xnnpack
from ddq_tf.errors import DDQError
from ddq_tf.op_kind import OpKind

MAX_INDEX_BITS = 7  # of indices into tables of TFLite Micro
# What decoding a tensor adds to a file: a header of 16 bytes, an operator, two more tensors.
DECODE_BYTES = 112
# The oldest LiteRT whose XNNPACK takes FULLY_CONNECTED with such weights.
_LITERT = {8: "1.0.1", 4: "1.3.0", 2: "2.1.2"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A deployment target.

    Attributes:
        name: the name users write.
        description: one line for `--help`.
        storage_bits: for each operator kind, the weight widths in bits that the file can hold.
        on_request: of these, the widths that are learned only where `precisions` name them.
        code_bits: for targets that reward few distinct codes in wide storage, the precisions worth
            learning. None elsewhere.
        lookup_tables: whether a tensor of few distinct codes per output channel is stored as
            indices into a table of values for each channel, where that takes fewer bytes.
        fully_connected_pointwise: whether 1x1 stride-1 convolutions become FULLY_CONNECTED, the
            only operator whose INT4 and INT2 weights XNNPACK takes.
        float_islands: whether functions of one value that XNNPACK has no integer kernel for are
            computed in float, between DEQUANTIZE and QUANTIZE, instead of by built-in kernels.
        runtime: what runs the file.
        min_runtime: the oldest release of it that does, by how wide the narrowest weights are.
        missing_operators: what the runtime lacks of the operators that ddq_tf writes, or is not
            known to compute exactly.
        most_axes: of what an operator reads, with the batch, where the runtime takes fewer than
            ddq_tf may write.
    """

    name: str
    description: str
    storage_bits: dict[OpKind, tuple[int, ...]]
    fully_connected_pointwise: bool
    min_runtime: dict[int, str]
    on_request: tuple[int, ...] = ()
    code_bits: tuple[int, ...] | None = None
    lookup_tables: bool = False
    float_islands: bool = False
    runtime: str = "LiteRT"
    missing_operators: tuple[str, ...] = ()
    most_axes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def counts_codes(self) -> bool:
        """Whether the budget counts the bits of codes, not those of the tensors that hold them."""
        return self.code_bits is not None and not self.lookup_tables

    def learned_bits(self, kind: OpKind) -> tuple[int, ...]:
        """Returns the precisions that an operator kind learns unless told, ascending."""
        stored = self.storage_bits[kind]
        return self.code_bits or tuple(bits for bits in stored if bits not in self.on_request)

    def stores(self, kind: OpKind, bits: int, row: int) -> bool:
        """Returns whether the file can hold weights of a kind in tensors of `bits` bits.

        In FULLY_CONNECTED only those that XNNPACK takes: leaving it costs more than the bytes.

        Args:
            kind: the operator that reads them.
            bits: of the tensor type.
            row: weights per output channel.
        """
        if bits not in self.storage_bits[kind]:
            return False
        in_rows = self.fully_connected_pointwise and kind in xnnpack.IN_ROWS
        return not in_rows or xnnpack.fills_bytes(row, bits)

    def stored_bits(self, kind: OpKind, bits: int, row: int) -> int:
        """Returns the narrowest tensor type, in bits, that holds codes of `bits` bits.

        Args:
            kind: the operator that reads the weights.
            bits: their precision.
            row: weights per output channel.
        """
        widths = self.storage_bits[kind]
        return min(width for width in widths if width >= bits and self.stores(kind, width, row))

    def at_least(self, bits: int) -> Target:
        """Returns the target without storage narrower than codes of `bits` bits need."""
        storage = {
            kind: tuple(width for width in widths if width >= bits)
            for kind, widths in self.storage_bits.items()
        }
        return dataclasses.replace(self, storage_bits=storage)

    def index_bits(self, bits: int, num_weights: int, channels: int) -> int | None:
        """Returns the width of indices into tables, or None where the codes are stored plainly.

        Args:
            bits: the precision: at most 2^bits distinct codes per channel.
            num_weights: of the tensor.
            channels: of them, as many tables.
        """
        if not self.lookup_tables or bits > MAX_INDEX_BITS:
            return None
        return bits if lookup_bytes(bits, num_weights, channels) < num_weights else None

    def stored_size_bits(self, kind: OpKind, bits: int, num_weights: int, channels: int) -> int:
        """Returns the bits that a weight tensor takes in the file, tables included.

        Never falls as `bits` rise. With tables it is an upper bound: channels may have fewer
        distinct codes than 2^bits.

        Args:
            kind: the operator that reads it.
            bits: its precision.
            num_weights: how many weights it has.
            channels: how many output channels.
        """
        if self.index_bits(bits, num_weights, channels) is None:
            return num_weights * self.stored_bits(kind, bits, num_weights // channels)
        return 8 * lookup_bytes(bits, num_weights, channels)

    def counted_size_bits(self, kind: OpKind, bits: int, num_weights: int, channels: int) -> int:
        """Returns what the budget counts for a weight tensor; see `stored_size_bits`.

        That is what is stored; where a later tool compresses the codes, their own bits.
        """
        if self.counts_codes:
            return num_weights * bits
        return self.stored_size_bits(kind, bits, num_weights, channels)


def lookup_bytes(
    index_bits: int, num_weights: int, channels: int, values: int | None = None
) -> int:
    """Returns the bytes that indices, tables and all that decoding them needs take in a file.

    Args:
        index_bits: width of an index.
        num_weights: how many there are.
        channels: how many tables.
        values: int8 values in each; None for as many as there can be.
    """
    if values is None:
        values = min(1 << index_bits, num_weights // channels)
    return -(-num_weights * index_bits // 8) + channels * values + DECODE_BYTES


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="litert",
            description="phones: INT2/INT4/INT8 weights, everything delegated to XNNPACK",
            storage_bits={
                OpKind.POINTWISE: (2, 4, 8),
                OpKind.DENSE: (2, 4, 8),
                OpKind.CONV: (8,),
                OpKind.DEPTHWISE: (8,),
                OpKind.TRANSPOSED: (8,),
            },
            on_request=(2,),
            float_islands=True,
            fully_connected_pointwise=True,
            min_runtime=_LITERT,
        ),
        Target(
            name="litert-compact",
            description="smallest file: INT2 too, INT4 in convolutions (built-in kernels, slow)",
            storage_bits={
                OpKind.POINTWISE: (2, 4, 8),
                OpKind.DENSE: (2, 4, 8),
                OpKind.CONV: (4, 8),
                OpKind.DEPTHWISE: (4, 8),
                OpKind.TRANSPOSED: (8,),
            },
            fully_connected_pointwise=True,
            min_runtime=_LITERT,
        ),
        Target(
            name="litert-int8",
            description="old runtimes and NPUs: low-bit codes in INT8 tensors",
            storage_bits=dict.fromkeys(OpKind, (8,)),
            fully_connected_pointwise=False,
            min_runtime={8: "1.0.1"},
            code_bits=(2, 3, 4, 6, 8),
        ),
        Target(
            name="tflm",
            description="microcontrollers: indices into per-channel tables, for TFLite Micro",
            storage_bits=dict.fromkeys(OpKind, (8,)),
            fully_connected_pointwise=False,
            runtime="tflite-micro",
            missing_operators=("GELU", "BATCH_MATMUL"),
            most_axes={"STRIDED_SLICE": 4, "TRANSPOSE": 5},
            min_runtime={8: "0.dev20260203"},
            code_bits=(2, 3, 4, 8),
            lookup_tables=True,
        ),
    )
}


def get_target(name: str) -> Target:
    """Returns the target called `name`.

    Raises:
        DDQError: if there is none.
    """
    if name not in TARGETS:
        raise DDQError(f"target must be one of {sorted(TARGETS)}. Received: target={name!r}")
    return TARGETS[name]
