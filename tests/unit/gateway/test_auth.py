"""Keys: found by prefix, compared by digest, gone the moment they are revoked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.domain.errors import DirectoryStale, NotAuthenticated
from logos.domain.keys import key_digest, key_prefix
from logos.domain.nouns import Key
from logos.gateway.auth import KEY_BYTES_MAX, KeyDirectory, is_stale, key_text

ONE = "lg-0123456789ab-" + "a" * 43
TWO = "lg-0123456789ab-" + "b" * 43  # the same prefix
OWN = "a-key-of-somebody"


def key(number: int, text: str, **fields: object) -> Key:
    return Key(number, f"key {number}", key_prefix(text), key_digest(text), **fields)  # type: ignore[arg-type]


def bearer(text: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + text.encode()}


def test_keys_are_told_apart_even_with_the_same_prefix() -> None:
    directory = KeyDirectory([key(1, ONE), key(2, TWO), key(3, OWN)])
    for number, text in ((1, ONE), (2, TWO), (3, OWN)):
        assert directory.authenticate(bearer(text), unix_now=0.0).id == number
    with pytest.raises(NotAuthenticated):
        directory.authenticate(bearer(ONE[:-1] + "c"), unix_now=0.0)


def test_the_first_header_that_carries_a_key_decides() -> None:
    headers = {
        b"api-key": b"5",
        b"x-api-key": b"4",
        b"authorization": b"Bearer 3",
        b"logos-key": b"2",
        b"logos_key": b"1",
    }
    for expected in ("1", "2", "3", "4", "5"):
        assert key_text(headers) == expected
        headers.popitem()
    assert key_text(headers) is None


def test_a_wrong_key_is_not_made_good_by_a_right_one_further_down() -> None:
    directory = KeyDirectory([key(1, ONE)])
    with pytest.raises(NotAuthenticated):
        directory.authenticate({b"logos-key": b"wrong", **bearer(ONE)}, unix_now=0.0)


@pytest.mark.parametrize("value", [b"Basic abc", b"Bearer", b"Bearer   ", b"", b"lg-123"])
def test_an_authorization_that_is_no_bearer_is_as_if_absent(value: bytes) -> None:
    assert key_text({b"authorization": value, b"x-api-key": b"k"}) == "k"


def test_bearer_is_understood_in_any_case_and_spaces_around_a_key_do_not_matter() -> None:
    assert key_text({b"authorization": b"bEaReR  k "}) == "k"
    assert key_text({b"x-api-key": b" k "}) == "k"


def test_a_revoked_key_is_refused_at_once_and_its_neighbour_is_not() -> None:
    directory = KeyDirectory([key(1, ONE), key(2, TWO)])
    directory.update((), (1, 99))
    with pytest.raises(NotAuthenticated):
        directory.authenticate(bearer(ONE), unix_now=0.0)
    assert directory.authenticate(bearer(TWO), unix_now=0.0).id == 2
    assert directory.get(1) is None


def test_a_rotated_key_forgets_its_old_text() -> None:
    directory = KeyDirectory([key(1, ONE)])
    directory.update([key(1, OWN)], ())
    assert directory.authenticate(bearer(OWN), unix_now=0.0).id == 1
    assert directory.find_or_none(ONE) is None
    assert len(directory) == 1


def test_replacing_leaves_nothing_behind() -> None:
    directory = KeyDirectory([key(1, ONE)])
    directory.replace([key(2, OWN)])
    assert directory.find_or_none(ONE) is None
    assert len(directory) == 1


def test_a_key_ends_when_it_expires() -> None:
    directory = KeyDirectory([key(1, ONE, expires_at=100.0)])
    assert directory.authenticate(bearer(ONE), unix_now=99.9).id == 1
    with pytest.raises(NotAuthenticated, match="expired"):
        directory.authenticate(bearer(ONE), unix_now=100.0)


def test_a_stale_directory_confirms_nobody_but_still_asks_for_a_key() -> None:
    directory = KeyDirectory([key(1, ONE)])
    for text in (ONE, "wrong"):
        with pytest.raises(DirectoryStale):
            directory.authenticate(bearer(text), unix_now=0.0, stale=True)
    with pytest.raises(NotAuthenticated):
        directory.authenticate({}, unix_now=0.0, stale=True)
    assert not is_stale(10.0, 5.0, 5.0)
    assert is_stale(10.1, 5.0, 5.0)
    assert is_stale(0.0, float("-inf"), 5.0)


@given(st.binary(max_size=KEY_BYTES_MAX * 2))
def test_no_bytes_break_the_lookup(value: bytes) -> None:
    directory = KeyDirectory([key(1, ONE)])
    with pytest.raises(NotAuthenticated):
        directory.authenticate({b"x-api-key": value}, unix_now=0.0)


def test_a_refusal_never_quotes_the_key() -> None:
    with pytest.raises(NotAuthenticated) as caught:
        KeyDirectory().authenticate(bearer(ONE), unix_now=0.0)
    assert ONE not in str(caught.value)
