"""What a record keeps of headers and bodies: what was said, without credentials and without the client's address."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.gateway.kept import kept_headers, kept_payload

HIDDEN = (
    *("authorization", "proxy-authorization", "x-api-key", "api-key", "logos_key", "logos-key", "cookie"),
    *("x-goog-api-key", "ocp-apim-subscription-key", "x-auth-token", "x-amz-security-token", "x-vault-secret"),
    *("x-forwarded-for", "forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-azure-clientip"),
    *("x-original-forwarded-for", "x-envoy-external-address"),
)
SHOWN = ("user-agent", "x-forwarded-proto", "x-author", "x-logos-priority", "x-tip", "content-type")
KEY = "lg-0123456789ab-" + "k" * 43


def test_the_headers_on_record_hold_no_credential_and_do_not_say_where_the_client_is() -> None:
    kept = kept_headers({name.encode(): b"203.0.113.9 or a word" for name in (*HIDDEN, *SHOWN)})
    assert {name for name, value in kept.items() if value == "[redacted]"} == set(HIDDEN)
    assert all(kept[name] == "203.0.113.9 or a word" for name in SHOWN)


@pytest.mark.parametrize(
    "said",
    [
        {"api_key": KEY},
        {"extra_headers": {"Authorization": "Bearer 0123456789abcdef"}},
        {"password": "hunter22", "user": "me"},
        {"messages": [{"role": "user", "content": f"my key is {KEY}, is it safe?"}]},
        {"messages": [{"role": "user", "content": "curl -H 'authorization: Bearer 0123456789abcdefghij'"}]},
        {"tool_calls": [{"function": {"arguments": json.dumps({"api_key": "a b c 1", "city": "Ulm"})}}]},
        {"content": "sk-proj-0123456789abcdefghij and AIzaSy0123456789abcdefghij0123456789abc"},
    ],
)
def test_credentials_leave_a_body_and_what_is_left_is_still_json(said: object) -> None:
    kept = kept_payload(json.dumps(said).encode())
    assert "[redacted]" in kept
    for secret in (KEY, "0123456789abcdef", "hunter22", "a b c 1"):
        assert secret not in kept
    assert json.loads(kept).keys() == said.keys()  # type: ignore[attr-defined]
    assert kept_payload(kept.encode()) == kept


@pytest.mark.parametrize(
    "said",
    [
        {"content": "sk-learn-is-a-library-of-tools and pat-a-cake-pat-a-cake-bakers-man"},
        {"content": "The password: is it safe? Bearer of good news, and the secret of the api key"},
        {"tools": [{"parameters": {"properties": {"password": {"type": "string"}, "secret": {"type": "string"}}}}]},
        {"max_tokens": 16, "stop_token_ids": [1], "api_key": None},
    ],
)
def test_words_about_credentials_stay(said: object) -> None:
    raw = json.dumps(said)
    assert kept_payload(raw.encode()) == raw


_PIECES = [b'"api_key":"', b'\\"password\\":\\"', b"bearer ", b"lg-", b"\\", b'"', b"}", b"A1b2C3d4E5f6G7h8", b" "]


@given(st.lists(st.sampled_from(_PIECES)))
def test_garbage_never_fails(pieces: list[bytes]) -> None:
    kept_payload(b"".join(pieces))
