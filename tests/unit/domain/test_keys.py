import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.domain.keys import flaw_of_chosen, key_digest, key_prefix

MADE = "lg-0123456789ab-" + "A" * 43


def test_the_prefix_of_a_made_key_is_its_public_part() -> None:
    assert key_prefix(MADE) == "lg-0123456789ab"


@pytest.mark.parametrize("text", ["sk-own-key", "", MADE + "A", MADE[:-1], MADE.upper(), "lg-0123456789ab-"])
def test_a_key_of_another_shape_gets_a_derived_prefix_that_shows_nothing_of_it(text: str) -> None:
    prefix = key_prefix(text)
    assert re.fullmatch("own-[0-9a-f]{12}", prefix)
    assert prefix == key_prefix(text)
    assert key_digest(text).hex()[:12] not in prefix


@given(st.text(alphabet=st.characters(codec=None, categories=None)))
def test_whatever_a_client_sends_has_a_prefix_and_a_digest(text: str) -> None:
    assert key_prefix(text)
    assert len(key_digest(text)) == 32


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("short", "8 to 512"),
        ("x" * 513, "8 to 512"),
        ("has a space", "ASCII"),
        ("geheimnüß", "ASCII"),
        ("tab\tinside", "ASCII"),
    ],
)
def test_a_chosen_key_that_cannot_be_used_is_told_why_without_quoting_it(text: str, flaw: str) -> None:
    told = flaw_of_chosen(text)
    assert told is not None
    assert flaw in told
    assert text not in told


def test_a_chosen_key_that_fits_in_a_header_is_fine() -> None:
    assert flaw_of_chosen("my-own-key!") is None
    assert flaw_of_chosen(MADE) is None
