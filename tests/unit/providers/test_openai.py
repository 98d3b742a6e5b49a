"""Where a request goes: URLs as declared, credentials in the declared header, nothing guessed."""

from __future__ import annotations

import pytest

from logos.domain.directory import ProviderAccess
from logos.domain.errors import UpstreamFailed
from logos.providers.openai import OpenAITargets, engine_target, remote_target


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/v1/", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com", "https://api.example.com/chat/completions"),
        ("http://10.0.0.1:8000/openai/v1", "http://10.0.0.1:8000/openai/v1/chat/completions"),
        ("https://x.example/a%2Fb/v1?api-version=2", "https://x.example/a%2Fb/v1/chat/completions?api-version=2"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions"),
    ],
)
def test_the_path_follows_the_base_url_as_in_the_openai_sdk(base_url: str, url: str) -> None:
    assert str(remote_target(ProviderAccess(1, base_url), "/chat/completions").url) == url


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://r.openai.azure.com", "https://r.openai.azure.com/openai/v1/embeddings"),
        ("https://r.openai.azure.com/openai/", "https://r.openai.azure.com/openai/v1/embeddings"),
        ("https://r.openai.azure.com/openai/v1", "https://r.openai.azure.com/openai/v1/embeddings"),
        (
            "https://r.openai.azure.com/?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/my%2Fone/embeddings?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/my%2Fone/embeddings?api-version=2024-10-21",
        ),
        (
            "https://r.openai.azure.com/openai/v1?api-version=preview",
            "https://r.openai.azure.com/openai/v1/embeddings?api-version=preview",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/d/embeddings?api-version=2024-10-21",
        ),
        ("https://front.example/ours", "https://front.example/ours/embeddings"),
    ],
)
def test_an_azure_account_is_called_where_its_api_is_and_other_addresses_as_they_are(base_url: str, url: str) -> None:
    assert str(remote_target(ProviderAccess(1, base_url), "/embeddings", "my/one").url) == url
    targets = OpenAITargets()
    assert str(targets.remote(ProviderAccess(1, base_url), "/embeddings", "my/one").url) == url
    assert str(targets.remote(ProviderAccess(1, base_url), "/embeddings", "my/one").url) == url


@pytest.mark.parametrize("address", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/", "http://127.0.0.1:9000/v1"])
def test_engines_serve_the_public_api_below_v1(address: str) -> None:
    target = engine_target(address, "/completions")
    assert str(target.url) == "http://127.0.0.1:9000/v1/completions"
    assert "Authorization" not in target.headers


def test_the_key_goes_into_the_declared_header_in_the_declared_format() -> None:
    bearer = remote_target(ProviderAccess(1, "https://x.example/v1", "k-1"), "/embeddings")
    assert bearer.headers["authorization"] == "Bearer k-1"
    plain = remote_target(ProviderAccess(1, "https://x.example/v1", "k-1", "api-key", "{key}"), "/embeddings")
    assert plain.headers["api-key"] == "k-1"
    assert "Authorization" not in plain.headers
    odd = remote_target(ProviderAccess(1, "https://x.example/v1", "{0}{key.x}", "x-key", "{} {key}"), "/embeddings")
    assert odd.headers["x-key"] == "{} {0}{key.x}"


@pytest.mark.parametrize("access", [ProviderAccess(1, "https://x/v1", None), ProviderAccess(1, "https://x/v1", "")])
def test_empty_credentials_send_no_header_at_all(access: ProviderAccess) -> None:
    assert "Authorization" not in remote_target(access, "/embeddings").headers


def test_an_empty_header_name_sends_no_credentials() -> None:
    target = remote_target(ProviderAccess(1, "https://x/v1", "k", auth_header=""), "/embeddings")
    assert "k" not in target.headers.values()


@pytest.mark.parametrize(
    "access",
    [
        ProviderAccess(1, "ftp://x.example/v1"),
        ProviderAccess(1, "x.example/v1"),
        ProviderAccess(1, ""),
        ProviderAccess(1, "http://[oops/v1"),
        ProviderAccess(1, "http://x.example:99999/v1"),
        ProviderAccess(1, "https://x.example/v1", "secret\r\nx-evil: 1"),
    ],
)
def test_what_cannot_be_called_is_an_upstream_failure_that_shows_no_secret(access: ProviderAccess) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        remote_target(access, "/embeddings")
    assert caught.value.code == "upstream_misdeclared"
    assert "secret" not in caught.value.message
    assert "example" not in caught.value.message


def test_nothing_secret_is_printed() -> None:
    target = remote_target(ProviderAccess(1, "https://x.example/v1", "k-secret"), "/embeddings")
    assert "k-secret" not in repr(target)
    assert "x.example" not in repr(target)


def test_a_target_is_built_once_and_again_when_the_access_changes() -> None:
    targets = OpenAITargets()
    old, new = ProviderAccess(1, "https://x.example/v1", "a"), ProviderAccess(1, "https://x.example/v1", "b")
    assert targets.remote(old, "/x") is targets.remote(old, "/x")
    assert targets.remote(new, "/x").headers["authorization"] == "Bearer b"
    assert targets.engine("http://h:1", "/x") is targets.engine("http://h:1", "/x")
