"""Client keys on a real Postgres."""

from typing import Any

import pytest

from logos.actors.administration import Administration
from logos.domain.errors import Conflict, InvalidDeclaration, NotFound
from logos.domain.keys import key_digest, key_prefix
from logos.domain.nouns import Key, Role
from tests.support.postgres import rows


def who_opens(administration: Administration, text: str) -> Key | None:
    found = [
        key for key in administration.load().keys if key.prefix == key_prefix(text) and key.digest == key_digest(text)
    ]
    assert len(found) < 2
    return found[0] if found else None


def created(administration: Administration, name: str, **fields: Any) -> str:
    secret: str = administration.perform("key.create", {"name": name, **fields}).result["keys"][name]
    return secret


def test_a_made_key_opens_and_is_stored_as_a_hash_only(administration: Administration, database_url: str) -> None:
    secret = created(administration, "ci")
    key = who_opens(administration, secret)
    assert key is not None
    assert (key.name, key.role) == ("ci", Role.USER)
    stored = repr(rows(database_url, "SELECT * FROM api_keys"))
    assert key.prefix in stored
    assert secret.removeprefix(key.prefix) not in stored


def test_a_chosen_key_opens(administration: Administration) -> None:
    performed = administration.perform("key.create", {"name": "own", "key": "my-own-secret"})
    assert performed.result["keys"] == {}
    assert who_opens(administration, "my-own-secret") is not None


def test_a_name_is_used_once_among_the_living(administration: Administration) -> None:
    created(administration, "ci")
    with pytest.raises(Conflict, match="there is a key named ci"):
        administration.perform("key.create", {"name": "ci"})
    administration.perform("key.revoke", {"key": "ci"})
    created(administration, "ci")


def test_a_rotated_key_keeps_its_id_and_its_old_secret_is_worth_nothing(administration: Administration) -> None:
    old = created(administration, "ci")
    before = who_opens(administration, old)
    new = administration.perform("key.rotate", {"key": "ci"}).result["keys"]["ci"]
    after = who_opens(administration, new)
    assert before is not None
    assert after is not None
    assert before.id == after.id
    assert who_opens(administration, old) is None


def test_in_its_grace_the_old_secret_opens_with_the_same_rights(administration: Administration) -> None:
    administration.perform("apply", {"models": [{"name": "m"}, {"name": "n"}]})
    old = created(administration, "ci", models=["m"], limits={"concurrent": 3})
    performed = administration.perform("key.rotate", {"key": "ci", "grace_s": 60})
    new, grace = who_opens(administration, performed.result["keys"]["ci"]), who_opens(administration, old)
    assert new is not None
    assert grace is not None
    assert new.expires_at is None
    assert grace.expires_at is not None
    assert (grace.model_ids, grace.limits) == (new.model_ids, new.limits)
    assert grace.id > new.id
    assert performed.key_ids == {new.id, grace.id}


def test_a_grace_never_lengthens_a_keys_life(administration: Administration) -> None:
    old = created(administration, "ci", expires_at="2999-01-01T00:00:00Z")
    before = who_opens(administration, old)
    administration.perform("key.rotate", {"key": "ci", "grace_s": 86_400 * 90})
    grace = who_opens(administration, old)
    assert before is not None
    assert grace is not None
    assert grace.expires_at is not None
    assert before.expires_at is not None
    assert grace.expires_at < before.expires_at


def test_a_revoked_key_never_comes_back(administration: Administration) -> None:
    administration.perform("apply", {"keys": [{"name": "ci", "key": "ci-secret-12"}]})
    administration.perform("key.revoke", {"key": "ci"})
    assert who_opens(administration, "ci-secret-12") is None
    for name in ("ci", "other"):
        with pytest.raises(InvalidDeclaration, match=r"keys\[0\]\.key: this key was revoked; choose another"):
            administration.perform("apply", {"keys": [{"name": name, "key": "ci-secret-12"}]})
    with pytest.raises(NotFound):
        administration.perform("key.revoke", {"key": "ci"})


def test_a_replaced_secret_never_comes_back(administration: Administration) -> None:
    for secret in ("ci-secret-12", "ci-secret-34"):
        administration.perform("apply", {"keys": [{"name": "ci", "key": secret}]})
    assert who_opens(administration, "ci-secret-12") is None
    assert who_opens(administration, "ci-secret-34") is not None
    with pytest.raises(InvalidDeclaration, match="this key was revoked"):
        administration.perform("apply", {"keys": [{"name": "ci", "key": "ci-secret-12"}]})


def test_one_secret_belongs_to_one_key(administration: Administration) -> None:
    document = {"keys": [{"name": "a", "key": "same-secret"}, {"name": "b", "key": "same-secret"}]}
    with pytest.raises(InvalidDeclaration, match=r"keys\[1\]\.key: this is already the key named a"):
        administration.perform("apply", document)


def test_another_secret_with_a_taken_prefix_is_refused(administration: Administration) -> None:
    first = "lg-0123456789ab-" + "A" * 43
    administration.perform("apply", {"keys": [{"name": "a", "key": first}]})
    with pytest.raises(InvalidDeclaration, match="another key begins the same way"):
        administration.perform("apply", {"keys": [{"name": "b", "key": first[:-1] + "B"}]})


def test_the_last_administrator_cannot_be_revoked(administration: Administration) -> None:
    created(administration, "first", role="admin")
    with pytest.raises(Conflict, match="first is the last administrator's key"):
        administration.perform("key.revoke", {"key": "first"})
    created(administration, "second", role="admin")
    administration.perform("key.revoke", {"key": "first"})


def test_a_key_is_found_by_name_prefix_and_id(administration: Administration) -> None:
    secret = created(administration, "ci")
    key = who_opens(administration, secret)
    assert key is not None
    for ref in ("ci", key.prefix, str(key.id)):
        assert administration.perform("key.get", {"key": ref}).result["name"] == "ci"


def test_a_list_of_keys_shows_no_secret_and_counts_all_pages(administration: Administration) -> None:
    secrets = [created(administration, f"k{number}") for number in range(5)]
    page = administration.perform("list", {"kind": "key", "limit": 2, "offset": 4}).result
    assert page["total"] == 5
    assert [row["name"] for row in page["rows"]] == ["k4"]
    everything = repr(administration.perform("list", {"kind": "key"}))
    assert "digest" not in repr(page)
    assert not any(secret in everything for secret in secrets)


def test_an_expired_key_is_not_told_to_anybody(administration: Administration) -> None:
    secret = created(administration, "ci", expires_at="2020-01-01T00:00:00Z")
    assert who_opens(administration, secret) is None
