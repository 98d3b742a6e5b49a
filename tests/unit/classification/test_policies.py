from __future__ import annotations

import pytest

from logos.classification.policies import DEFAULT_POLICY, effective_policy
from logos.domain.catalogue import Catalogue
from logos.domain.errors import UnknownPolicy
from logos.domain.nouns import Key, Policy, Priority, Privacy

LOCAL = Policy(3, "local-only", privacy=Privacy.LOCAL)
FAST = Policy(4, "fast", latency=1024)
NUMBERED = Policy(5, "4")
CATALOGUE = Catalogue(policies=(LOCAL, FAST))


def key(policy_id: int | None = None) -> Key:
    return Key(1, "key", "", b"", policy_id=policy_id)


def test_the_built_in_default_is_the_reference_s() -> None:
    assert Policy(
        0, "default", Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER, Priority.MID, latency=0, accuracy=0, cost=-1024, quality=0
    ) == effective_policy(CATALOGUE, key())


def test_what_is_asked_for_comes_before_the_key_s_default_before_the_built_in_one() -> None:
    assert effective_policy(CATALOGUE, key(3), "fast") == FAST
    assert effective_policy(CATALOGUE, key(3)) == LOCAL
    assert effective_policy(CATALOGUE, key(3), " ") == LOCAL
    assert effective_policy(CATALOGUE, key()) == DEFAULT_POLICY


def test_a_policy_is_asked_for_by_name_or_id() -> None:
    assert effective_policy(CATALOGUE, key(), "local-only") == LOCAL
    assert effective_policy(CATALOGUE, key(), "4") == FAST
    assert effective_policy(Catalogue(policies=(FAST, NUMBERED)), key(), "4") == NUMBERED
    assert effective_policy(CATALOGUE, key(3), "default") == DEFAULT_POLICY


def test_a_declared_default_replaces_the_built_in_one() -> None:
    declared = Policy(9, "default", privacy=Privacy.LOCAL)
    catalogue = Catalogue(policies=(declared,))
    assert effective_policy(catalogue, key()) == declared
    assert effective_policy(catalogue, key(), "default") == declared


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("local_only", "did you mean local-only?"),
        ("zzz", "known are default, fast, local-only."),
        ("77", "There is no policy '77'"),
        ("²", "There is no policy"),
        ("9" * 5000, "known are"),
    ],
)
def test_an_unknown_policy_is_an_error_that_names_close_ones(asked: str, said: str) -> None:
    with pytest.raises(UnknownPolicy) as caught:
        effective_policy(CATALOGUE, key(), asked)
    assert said in caught.value.message
    assert len(caught.value.message) < 400


def test_a_key_whose_default_is_gone_does_not_fall_back_to_the_loosest() -> None:
    with pytest.raises(UnknownPolicy, match="default policy of this key does not exist"):
        effective_policy(CATALOGUE, key(99))
    assert effective_policy(CATALOGUE, key(99), "fast") == FAST
