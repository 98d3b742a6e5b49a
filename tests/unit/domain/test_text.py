from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logos.domain.text import storable, storable_text

any_text = st.text(alphabet=st.characters(categories=["Cs"]) | st.characters())


@given(any_text)
def test_storable_text_has_no_nul_and_can_be_encoded(text: str) -> None:
    found = storable_text(text)
    assert "\0" not in found
    found.encode()


@given(st.text())
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert storable_text(text) == text.replace("\0", "\ufffd")


def test_each_lone_surrogate_is_replaced_and_its_neighbours_stay() -> None:
    assert storable_text("a\ud800b\udfffc\0d") == "a\ufffdb\ufffdc\ufffdd"


def test_keys_and_nested_values_are_cleaned_too() -> None:
    assert storable({"a\0": ["\ud800", {"b": ("c\0", 1, None)}]}) == {
        "a\ufffd": ["\ufffd", {"b": ["c\ufffd", 1, None]}]
    }
