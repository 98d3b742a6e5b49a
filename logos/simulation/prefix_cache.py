"""Which prompt prefixes an engine still holds: an LRU of block identities, as in vLLM's automatic prefix caching.

A block is named by whoever drives the engine (a chained hash of text, or a made-up name in a simulation); only
equality counts. The cache saves prefill time. It does not lend KV memory: a shared block is counted once for
every sequence that uses it, which errs on the side of a fuller engine. No clock and no text must live here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence


class PrefixCache:
    """Block names in order of last use. `queried_tokens` and `hit_tokens` only grow."""

    __slots__ = ("_blocks", "block_tokens", "blocks_max", "hit_tokens", "queried_tokens")

    def __init__(self, *, blocks_max: int, block_tokens: int) -> None:
        self._blocks: OrderedDict[Hashable, None] = OrderedDict()
        self.blocks_max = blocks_max
        self.block_tokens = block_tokens
        self.queried_tokens = 0
        self.hit_tokens = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, blocks: Sequence[Hashable]) -> int:
        """Tokens of the longest held run of blocks from the start; touches them."""
        held = 0
        for block in blocks:
            if block not in self._blocks:
                break
            self._blocks.move_to_end(block)
            held += 1
        self.queried_tokens += len(blocks) * self.block_tokens
        self.hit_tokens += held * self.block_tokens
        return held * self.block_tokens

    def add(self, blocks: Sequence[Hashable]) -> None:
        """Remember `blocks` as the most recently used; the least recently used go when there are too many."""
        # From the end: of one prompt, the first blocks are worth the most and go last.
        for block in reversed(blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.blocks_max:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Forget every block, as a sleeping engine does; the counters stay."""
        self._blocks.clear()
