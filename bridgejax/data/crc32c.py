"""CRC-32C (Castagnoli), as TFRecord files want it, in numpy.

A checksum is a chain over bytes, so the input is cut into many lanes whose chains run side by side; the lanes are then
joined pairwise, because appending k zero bytes to a message acts on its checksum as a fixed linear map over GF(2).
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, bit-reversed
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h
_SHORT = 2048
_LANE_BYTES = 256


def _make_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


_TABLE = _make_table()
_TABLE_LIST = _TABLE.tolist()


def _plain(state: int, data: bytes) -> int:
    for byte in data:
        state = _TABLE_LIST[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state


def _apply(matrix: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Multiplies states [n] by a matrix given as the images [32] of the unit vectors."""
    out = np.zeros_like(states)
    for bit in range(32):
        out ^= np.where((states >> np.uint32(bit)) & np.uint32(1), matrix[bit], np.uint32(0))
    return out


@functools.cache
def _zeros(log2: int) -> np.ndarray:
    """Returns the map that 2^log2 zero bytes make of a state, as uint32 [32]."""
    if log2 == 0:
        units = np.uint32(1) << np.arange(32, dtype=np.uint32)
        return _TABLE[units & 0xFF] ^ (units >> np.uint32(8))
    half = _zeros(log2 - 1)
    return _apply(half, half)


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C of `data` as an unsigned 32-bit integer."""
    state = 0xFFFFFFFF
    # A power-of-two number of lanes is taken from the front again and again; the short rest is done byte by byte.
    position = 0
    while len(data) - position >= _SHORT:
        log_lanes = ((len(data) - position) // _LANE_BYTES).bit_length() - 1
        size = _LANE_BYTES << log_lanes
        lanes = np.frombuffer(data, np.uint8, size, position).reshape(-1, _LANE_BYTES)
        columns = np.ascontiguousarray(lanes.T).astype(np.uint32)
        states = np.zeros(len(lanes), np.uint32)
        states[0] = state
        for column in columns:
            states = _TABLE[(states ^ column) & np.uint32(0xFF)] ^ (states >> np.uint32(8))
        shift = _LANE_BYTES.bit_length() - 1
        while len(states) > 1:
            states = _apply(_zeros(shift), states[0::2]) ^ states[1::2]
            shift += 1
        state = int(states[0])
        position += size
    return _plain(state, data[position:]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """Returns the CRC-32C rotated and offset, as TFRecord frames store it."""
    value = crc32c(data)
    return (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF
