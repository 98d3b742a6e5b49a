"""The tokenizer of the simulated engine: UTF-8 cut into pieces of 5, 4, 5, 4, ... bytes, 4.5 on average.

A token's id is its bytes behind a leading 1, so that any ids can be turned back into text without a table, and text
into ids and back without loss. Counting needs only the length. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_EVEN_BYTES = 5
_PAIR_BYTES = 9
ID_MAX = 2**63 - 1  # what vLLM accepts


def count(text: bytes) -> int:
    """Number of tokens of a text."""
    pairs, rest = divmod(len(text), _PAIR_BYTES)
    return 2 * pairs + (rest > 0) + (rest > _EVEN_BYTES)


def pieces(text: bytes) -> list[bytes]:
    """The bytes of each token of a text."""
    cut: list[bytes] = []
    for start in range(0, len(text), _PAIR_BYTES):
        cut.append(text[start : start + _EVEN_BYTES])
        if second := text[start + _EVEN_BYTES : start + _PAIR_BYTES]:
            cut.append(second)
    return cut


def encode(text: bytes) -> list[int]:
    """Token ids of a text."""
    return [int.from_bytes(b"\x01" + piece, "big") for piece in pieces(text)]


def decode(ids: Sequence[int]) -> bytes:
    """The bytes behind token ids; ids that `encode` never makes stand for whatever their bytes say."""
    return b"".join(_bytes_of(token) for token in ids)


def _bytes_of(token: int) -> bytes:
    if token < 256:
        return bytes((token,))
    size = (token.bit_length() - 1) // 8
    return (token & ((1 << (8 * size)) - 1)).to_bytes(size, "big")


def blocks(text: bytes, block_tokens: int) -> list[int]:
    """Names of the full blocks of `block_tokens` tokens of a text; a name depends on all text before it, too."""
    size = block_tokens * _PAIR_BYTES // 2  # block_tokens is even: see settings
    names: list[int] = []
    name = 0
    for end in range(size, len(text) + 1, size):
        name = hash((name, text[end - size : end]))
        names.append(name)
    return names


def fingerprint(text: bytes, seed: int) -> int:
    """A 32-bit number that is the same for the same text and seed, in every process."""
    return zlib.crc32(text, seed & 0xFFFFFFFF)
