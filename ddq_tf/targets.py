"""What each deployment target stores, as value objects (stdlib only).

The quantizers learn only precisions that the target stores, the budget counts the bytes that it
stores, and the exporter writes them: all three read this one table.
"""

from __future__ import annotations

import dataclasses
import enum

from ddq_tf.errors import DDQError


class OpKind(enum.Enum):
    """The kinds of weight-carrying operators that targets tell apart."""

    POINTWISE = "pointwise convolution (1x1, stride 1)"
    DENSE = "dense"
    CONV = "convolution"
    DEPTHWISE = "depthwise convolution"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A deployment target.

    Attributes:
        name: the name users write.
        description: one line for `--help`.
        storage_bits: for each operator kind, the weight widths in bits that the file can hold.
        code_bits: for targets whose tool chain rewards few distinct codes in wide storage, the
            precisions worth learning; the budget then counts code bits. None elsewhere.
        fully_connected_pointwise: whether 1x1 stride-1 convolutions become FULLY_CONNECTED, the
            only operator whose INT4 weights XNNPACK takes.
        min_runtime: the oldest LiteRT release that runs the file, by how wide its narrowest
            weights are.
    """

    name: str
    description: str
    storage_bits: dict[OpKind, tuple[int, ...]]
    fully_connected_pointwise: bool
    min_runtime: dict[int, str]
    code_bits: tuple[int, ...] | None = None

    def learned_bits(self, kind: OpKind) -> tuple[int, ...]:
        """Returns the precisions worth learning for an operator kind, ascending."""
        return self.code_bits or self.storage_bits[kind]

    def counted_bits(self, kind: OpKind, bits: int) -> int:
        """Returns what the budget counts for a weight of `bits` bits."""
        return bits if self.code_bits else self.stored_bits(kind, bits)

    def stored_bits(self, kind: OpKind, bits: int) -> int:
        """Returns the narrowest stored width that holds codes of `bits` bits."""
        return min(width for width in self.storage_bits[kind] if width >= bits)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="litert",
            description="phones: INT4/INT8 weights, everything delegated to XNNPACK",
            storage_bits={
                OpKind.POINTWISE: (4, 8),
                OpKind.DENSE: (4, 8),
                OpKind.CONV: (8,),
                OpKind.DEPTHWISE: (8,),
            },
            fully_connected_pointwise=True,
            min_runtime={8: "1.0.1", 4: "1.3.0"},
        ),
        Target(
            name="litert-compact",
            description="smallest file: INT2 too, INT4 in convolutions (built-in kernels, slow)",
            storage_bits={
                OpKind.POINTWISE: (2, 4, 8),
                OpKind.DENSE: (2, 4, 8),
                OpKind.CONV: (4, 8),
                OpKind.DEPTHWISE: (4, 8),
            },
            fully_connected_pointwise=True,
            min_runtime={8: "1.0.1", 4: "1.3.0", 2: "2.1.2"},
        ),
        Target(
            name="litert-int8",
            description="old runtimes and NPUs: low-bit codes in INT8 tensors",
            storage_bits=dict.fromkeys(OpKind, (8,)),
            fully_connected_pointwise=False,
            min_runtime={8: "1.0.1"},
            code_bits=(4, 8),
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
