"""Narrow integers to bytes and back, in the layout of TFLite's INT4 and INT2 tensors.

Values are taken in C order over the whole tensor (rows are not padded), low bits first, in two's
complement; unused bits of the last byte are zero.
"""

from __future__ import annotations

import numpy as np


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Packs signed 4-bit integers two per byte, low nibble first.

    For example [1, -2, 7] becomes [0xE1, 0x07].

    Args:
        values: integers of any shape, each in [-8, 7].

    Returns:
        uint8 of shape (ceil(values.size / 2),).

    Raises:
        ValueError: if a value is out of range or not an integer.
    """
    return _pack(values, 4)


def unpack_int4(packed: np.ndarray, size: int) -> np.ndarray:
    """Undoes `pack_int4`.

    Args:
        packed: uint8 of shape (ceil(size / 2),).
        size: how many values were packed.

    Returns:
        int8 of shape (size,), each in [-8, 7].

    Raises:
        ValueError: if `packed` holds another number of bytes.
    """
    return _unpack(packed, size, 4)


def pack_int2(values: np.ndarray) -> np.ndarray:
    """Packs signed 2-bit integers four per byte, lowest bits first.

    For example [1, -2, 0, -1, 1] becomes [0xC9, 0x01].

    Args:
        values: integers of any shape, each in [-2, 1].

    Returns:
        uint8 of shape (ceil(values.size / 4),).

    Raises:
        ValueError: if a value is out of range or not an integer.
    """
    return _pack(values, 2)


def unpack_int2(packed: np.ndarray, size: int) -> np.ndarray:
    """Undoes `pack_int2`.

    Args:
        packed: uint8 of shape (ceil(size / 4),).
        size: how many values were packed.

    Returns:
        int8 of shape (size,), each in [-2, 1].

    Raises:
        ValueError: if `packed` holds another number of bytes.
    """
    return _unpack(packed, size, 2)


def _pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Packs `bits`-bit integers (bits divides 8) into uint8."""
    values = np.asarray(values)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"values must be integers. Received: dtype {values.dtype}")
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(
            f"values must lie in [{low}, {high}] to be stored in {bits} bits. "
            f"Received: [{values.min()}, {values.max()}]"
        )
    per_byte = 8 // bits
    # The cast keeps the low bits, which are the two's complement ones.
    fields = values.ravel().astype(np.uint8) & ((1 << bits) - 1)
    fields = np.pad(fields, (0, -fields.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(fields << shifts, axis=1)


def _unpack(packed: np.ndarray, size: int, bits: int) -> np.ndarray:
    """Reads `size` `bits`-bit integers (bits divides 8) from uint8."""
    packed = np.asarray(packed, dtype=np.uint8).ravel()
    required = -(-size * bits // 8)
    if packed.size != required:
        raise ValueError(
            f"{size} values of {bits} bits take {required} bytes. Received: {packed.size} bytes"
        )
    # Shifting each field to the top and back, arithmetically, extends its sign.
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    fields = (packed[:, None] << shifts).view(np.int8) >> np.int8(8 - bits)
    return fields.ravel()[:size]
