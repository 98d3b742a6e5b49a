from __future__ import annotations

from logos.simulation.prefix_cache import PrefixCache


def test_only_an_unbroken_run_from_the_start_is_held() -> None:
    cache = PrefixCache(blocks_max=10, block_tokens=16)
    cache.add(["a", "b", "c"])
    assert cache.match(["a", "b", "x", "c"]) == 32
    assert cache.match(["b", "c"]) == 32
    assert cache.match(["x", "a"]) == 0
    assert (cache.queried_tokens, cache.hit_tokens) == (8 * 16, 4 * 16)


def test_the_least_recently_used_blocks_go_and_the_ends_of_prompts_before_their_starts() -> None:
    cache = PrefixCache(blocks_max=4, block_tokens=1)
    cache.add(["a", "b"])
    cache.add(["c", "d"])
    cache.match(["a"])
    cache.add(["e"])
    assert len(cache) == 4
    assert cache.match(["a", "b"]) == 1  # b was the oldest
    cache.clear()
    assert cache.match(["a"]) == 0
