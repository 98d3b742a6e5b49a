from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logos.simulation.server import tokens


@given(st.text())
def test_text_survives_the_way_to_ids_and_back(text: str) -> None:
    ids = tokens.encode(text.encode())
    assert tokens.decode(ids).decode() == text
    assert tokens.count(text.encode()) == len(ids) == len(tokens.pieces(text.encode()))
    assert all(0 <= token <= tokens.ID_MAX for token in ids)


@given(st.lists(st.integers(0, tokens.ID_MAX)))
def test_any_ids_can_be_decoded(ids: list[int]) -> None:
    tokens.decode(ids).decode(errors="replace")


def test_a_token_has_four_and_a_half_bytes() -> None:
    assert tokens.count(b"x" * 900) == 200


def test_block_names_say_what_comes_before_too() -> None:
    one, other = tokens.blocks(b"a" * 144, 16), tokens.blocks(b"b" * 72 + b"a" * 72, 16)
    assert len(one) == len(other) == 2
    assert one[1] != other[1]
    assert tokens.blocks(b"a" * 200, 16) == one


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    assert tokens.fingerprint(b"a prompt", 7) == 1865843282
