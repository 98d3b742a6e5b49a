from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.classification.policy_string import is_policy_string, parse_policy_string
from logos.domain.errors import BadRequest
from logos.domain.nouns import Policy, Priority, Privacy

# The machine may be busy: how long an example takes says nothing.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

BASE = Policy(7, "base", privacy=Privacy.CLOUD_IN_EU_BY_EU_PROVIDER, latency=3, cost=4)


def test_settings_replace_those_of_the_base_policy() -> None:
    name = "logos-v1__policy_privacy=LOCAL__quality=20"
    parsed = parse_policy_string(name, BASE)
    assert parsed == Policy(7, name, privacy=Privacy.LOCAL, latency=3, cost=4, quality=20)


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ("privacy=cloud_not_in_eu_by_us_provider", {"privacy": Privacy.CLOUD_NOT_IN_EU_BY_US_PROVIDER}),
        ("priority=high__cost=-1024", {"priority": Priority.HIGH, "cost": -1024}),
        ("priority=10", {"priority": Priority.HIGH}),
        ("accuracy=+5__latency=-7", {"accuracy": 5, "latency": -7}),
        ("default=true__quality=1", {"quality": 1}),
        ("default=false__quality=1", {"quality": 1}),
        ("default=true", {}),
    ],
)
def test_every_setting_is_understood(settings: str, changed: dict[str, object]) -> None:
    parsed = parse_policy_string(f"logos-v1__policy_{settings}", BASE)
    for field in ("privacy", "priority", "latency", "accuracy", "cost", "quality"):
        assert getattr(parsed, field) == changed.get(field, getattr(BASE, field))


def test_the_bare_version_is_the_base_policy() -> None:
    assert parse_policy_string("logos-v1", BASE) == BASE


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("logos-v1__policy_privacy=LOCL", "LOCL", "did you mean LOCAL?"),
        ("logos-v1__policy_privcy=LOCAL", "privcy", "did you mean privacy?"),
        ("logos-v1__policy_privacy=LOCAL__quality=2000", "2000", "not an integer from -1024 to 1024"),
        ("logos-v1__policy_privacy=LOCAL__quality=", None, "'' is not an integer"),
        ("logos-v1__policy_quality=٣", "٣", "is not an integer"),
        ("logos-v1__policy_quality", None, "'=' and a value for quality are missing"),
        ("logos-v1__policy_cost=1__cost=2", "cost=2", "cost is given twice"),
        ("logos-v1__policy_cost=1__", None, "'' is no setting"),
        ("logos-v1__privacy=LOCAL", "privacy", "'policy_' is expected here"),
        ("logos-v2__policy_cost=1", "2__", "version 2 is not known"),
        ("logos-v1__policy_priority=urgent", "urgent", "is no priority; known are 1, 5, 10, low, mid, high"),
        ("logos-v1__policy_default=false", "default", "needs another setting"),
    ],
)
def test_an_error_points_at_its_place(name: str, wrong: str | None, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_policy_string(name, BASE)
    first, shown, caret = caught.value.message.split("\n")
    assert said in first
    assert shown == name
    place = len(name) if wrong is None else name.index(wrong)
    assert caret == " " * place + "^"
    assert f"character {place + 1}:" in first
    assert (caught.value.param, caught.value.code) == ("model", "invalid_policy_string")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("logos-v1", True),
        ("logos-v1__policy_cost=1", True),
        ("logos-v1__nonsense", True),
        ("logos-v2.1__x", True),
        ("logos-v1-turbo", False),
        ("logos-vision", False),
        ("auto", False),
        ("", False),
        ("my-logos-v1", False),
    ],
)
def test_what_is_taken_for_a_policy_string(name: str, expected: bool) -> None:
    assert is_policy_string(name) is expected


pieces = st.sampled_from(
    ["logos-v1", "__", "policy_", "privacy", "=", "LOCAL", "cost", "5", "\x00", "default", "false"]
)


@calm
@given(st.lists(pieces | st.text(max_size=3), max_size=12).map("".join))
def test_any_name_gives_a_policy_or_a_clear_error(name: str) -> None:
    said = "Policy string, character "
    try:
        parsed = parse_policy_string(name, BASE)
    except BadRequest as error:
        said = error.message
    else:
        assert parsed.id == BASE.id
    assert said.startswith("Policy string, character ")


def test_a_very_long_string_is_refused_shortly() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_policy_string("logos-v1__policy_" + "x" * 10_000_000, BASE)
    assert len(caught.value.message) < 300
