from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from logos.config import load_declaration
from logos.declarations import Declaration, PriceDeclared, ProviderDeclared, SloDeclared
from logos.documents import parse, parse_yaml
from logos.domain.errors import InvalidDeclaration
from logos.domain.nouns import Priority, Privacy, SloTargets

# The document of the interface page, as it stands there.
INTERFACE = """
providers:
  - {name: azure-eu, kind: azure, base_url: "https://host/openai", api_key: "env:AZURE_KEY",
     privacy: CLOUD_IN_EU_BY_US_PROVIDER}
models:
  - name: qwen2.5-7b
    description: everyday questions, short code
    tags: [chat, code]
    weights: {latency: 8, accuracy: 2, cost: 10, quality: 3}
    context_length: 32768
    endpoints:
      - {provider: azure-eu, upstream_model: my-deployment, max_parallel: 64, requests_per_minute: 600,
         tokens_per_minute: 100000}
    engine: {weights: /models/qwen, gpus: 1, memory_gib: 16, min_replicas: 0, max_replicas: 2, pinned: false, args: []}
prices:
  - {model: qwen2.5-7b, provider: azure-eu, currency: USD, valid_from: 2026-01-01,
     per_million: {prompt: 0.15, completion: 0.60, cached_prompt: 0.075}}
policies:
  - {name: local-only, privacy: LOCAL, priority: mid, latency: 0, accuracy: 0, cost: -1024, quality: 0}
teams:
  - {name: research, limits: {requests_per_minute: 600, tokens_per_minute: 100000},
     budget: {amount: 50, currency: EUR, per: month, hard: true}}
keys:
  - {name: ci, team: research, key: "env:CI_KEY", log: FULL, models: [qwen2.5-7b], limits: {concurrent: 8},
     budget: {amount: 5, currency: EUR, per: day}}
slo: {interactive: {ttft_ms: 2000}, batch: {total_ms: 600000}}
"""
SECRETS = {"AZURE_KEY": "azure-secret-1", "CI_KEY": "ci-secret-12"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "platform.yaml"
    path.write_text(INTERFACE, encoding="utf-8")
    return path


def refused(document: dict[str, Any]) -> str:
    with pytest.raises(InvalidDeclaration) as caught:
        parse(Declaration, document)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_an_azure_account_may_name_its_api_version() -> None:
    declared = {"name": "p", "kind": "azure", "privacy": "LOCAL", "base_url": "https://h/?api-version=2024-10-21"}
    (provider,) = parse(Declaration, {"providers": [declared]}).providers
    assert provider.base_url == "https://h/?api-version=2024-10-21"


def test_the_document_of_the_interface_page_is_read_whole(file: Path) -> None:
    declared = load_declaration(file, SECRETS)
    (provider,), (model,), (policy,) = declared.providers, declared.models, declared.policies
    assert provider.privacy is Privacy.CLOUD_IN_EU_BY_US_PROVIDER
    assert provider.auth == ("api-key", "{key}")
    assert model.engine is not None
    assert model.engine.memory_gib == 16
    assert model.endpoints[0].upstream_model == "my-deployment"
    assert declared.prices[0].micro_cents_per_million == {
        "prompt": 15_000_000,
        "completion": 60_000_000,
        "cached_prompt": 7_500_000,
    }
    assert (policy.priority, policy.cost) == (Priority.MID, -1024)
    assert declared.keys[0].key is not None
    assert declared.keys[0].key.get_secret_value() == "ci-secret-12"


def test_secrets_are_in_what_is_sent_and_in_nothing_else(file: Path) -> None:
    declared = load_declaration(file, SECRETS)
    sent = declared.revealed()
    assert sent["keys"][0]["key"] == "ci-secret-12"
    assert sent["providers"][0]["api_key"] == "azure-secret-1"
    for shown in (repr(declared), str(declared), str(declared.model_dump()), declared.model_dump_json()):
        assert not any(secret in shown for secret in SECRETS.values())


def test_what_is_sent_is_plain_json_and_means_the_same(file: Path) -> None:
    declared = load_declaration(file, SECRETS)
    again = parse(Declaration, declared.revealed())
    assert again == declared
    assert again.revealed() == declared.revealed()


def test_what_was_left_out_is_left_out_of_what_is_sent() -> None:
    declared = parse(Declaration, {"models": [{"name": "m"}]})
    assert declared.revealed() == {"models": [{"name": "m"}]}


def test_a_missing_secret_names_its_place_and_its_variable(file: Path) -> None:
    with pytest.raises(InvalidDeclaration, match=r"providers\[0\]\.api_key: the environment variable AZURE_KEY is not"):
        load_declaration(file, {"CI_KEY": "ci-secret-12"})


def test_a_secret_may_come_from_a_file_beside_the_document(tmp_path: Path) -> None:
    (tmp_path / "ci.key").write_text("ci-secret-34\n", encoding="utf-8")
    path = tmp_path / "keys.yaml"
    path.write_text("keys: [{name: ci, key: 'file:ci.key'}, {name: two, key: 'file:gone.key'}]", encoding="utf-8")
    with pytest.raises(InvalidDeclaration, match=r"keys\[1\]\.key: the file gone\.key cannot be read"):
        load_declaration(path, {})
    path.write_text("keys: [{name: ci, key: 'file:ci.key'}]", encoding="utf-8")
    assert load_declaration(path, {}).revealed()["keys"][0]["key"] == "ci-secret-34"


def test_a_server_resolves_no_secret() -> None:
    document = {"keys": [{"name": "ci", "key": "file:/etc/passwd"}]}
    assert refused(document) == (
        "keys[0].key: env: and file: are resolved by `logos apply` and the config file; send the secret itself"
    )


def test_a_deadline_that_is_not_declared_is_the_same_whether_slo_is_there_or_not() -> None:
    for document in ({}, {"interactive": {}}, {"batch": {}}):
        assert parse(SloDeclared, document).targets == SloTargets()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"models": [{"name": "a"}, {"name": "b", "engine": {"gpu": 1}}]}, "valid key is models[1].engine.gpus"),
        ({"modles": []}, "unknown key modles: the nearest valid key is models"),
        ({"models": [{"name": "m", "engine": {}}]}, "models[0].engine.memory_gib is missing"),
        (
            {"models": [{"name": "m", "engine": {"memory_gib": 2, "residue_gib": 2.5}}]},
            "models[0].engine: residue_gib 2.5 is above memory_gib 2",
        ),
        ({"slo": {"interactive": {"ttft_ms": 0}}}, "slo.interactive.ttft_ms: should be greater than or equal to 1"),
        ({"models": [{"name": "auto"}]}, "models[0].name: this name asks for a model to be chosen"),
        ({"models": [{"name": "logos-v1__x"}]}, "models[0].name: this name asks"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "models[1]: a is declared twice"),
        ({"models": [{"name": "m", "context_length": True}]}, "models[0].context_length: should be a whole number"),
        ({"models": [{"name": "m", "description": "a\0b"}]}, "models[0].description: has a character that cannot"),
        ({"models": [{"name": "m", "tags": ["\ud800"]}]}, "models[0].tags[0]: has a character that cannot"),
        ({"models": [{"name": "m", "engine": {"memory_gib": float("nan")}}]}, "memory_gib: should be"),
        ({"providers": [{"name": "p", "privacy": "PUBLIC", "base_url": "https://h"}]}, "should be one of LOCAL, CLOUD"),
        ({"providers": [{"name": "p", "privacy": "LOCAL"}]}, "providers[0]: a remote provider needs its base_url"),
        ({"providers": [{"name": "p", "privacy": "LOCAL", "base_url": "ftp://h"}]}, "providers[0].base_url: "),
        ({"providers": [{"name": "p", "privacy": "LOCAL", "base_url": "https://h?key=k"}]}, "providers[0].base_url: "),
        (
            {"providers": [{"name": "p", "privacy": "LOCAL", "base_url": "https://h?api-version=2"}]},
            "providers[0]: only the base_url of a provider of kind azure may end in ?api-version",
        ),
        (
            {"providers": [{"name": "p", "privacy": "LOCAL", "base_url": "https://h", "auth_format": "{key.x}"}]},
            "auth_format needs {key} once",
        ),
        ({"policies": [{"name": "p", "priority": "urgent"}]}, "policies[0].priority: should be low, mid or high"),
        ({"policies": [{"name": "p", "cost": 5000}]}, "policies[0].cost: should be less than or equal to 1024"),
        ({"keys": [{"name": "k", "key": "with blanks in it"}]}, "keys[0].key: a key is printable ASCII"),
        ({"keys": [{"name": "k", "expires_at": "2027-01-01T00:00:00"}]}, "keys[0].expires_at: "),
        ({"prices": [{"currency": "usd", "per_million": {"prompt": 1}}]}, "prices[0].currency: "),
        ({"prices": [{"currency": "USD", "per_million": {"Prompt": 1}}]}, "token types are lower-case words"),
        ({"prices": [{"currency": "USD", "per_million": {"prompt": -1}}]}, "prices[0].per_million.prompt: "),
        ({"prices": [{"currency": "USD", "per_million": {"prompt": "1e-9"}}]}, "more than 8 decimal places"),
        ({"prices": [{"currency": "USD", "per_million": {"prompt": "inf"}}]}, "prices[0].per_million.prompt: "),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_that_names_the_place(document: dict[str, Any], message: str) -> None:
    assert message in refused(document)


def test_an_error_never_quotes_a_secret() -> None:
    secret = "s3cret with a blank"
    assert secret not in refused({"keys": [{"name": "k", "key": secret}]})
    document = {"providers": [{"name": "p", "privacy": "LOCAL", "api_key": secret, "kind": "pool"}]}
    assert secret not in refused(document)


@pytest.mark.parametrize(("price", "micro_cents"), [("0.1", 10_000_000), ("0.00000001", 1), ("12", 1_200_000_000)])
def test_prices_become_integers_without_rounding(price: str, micro_cents: int) -> None:
    declared = PriceDeclared(currency="USD", per_million={"prompt": Decimal(price)})
    assert declared.micro_cents_per_million == {"prompt": micro_cents}
    from_yaml = parse(PriceDeclared, parse_yaml(f"{{currency: USD, per_million: {{prompt: {price}}}}}", "x"))
    assert from_yaml.micro_cents_per_million == {"prompt": micro_cents}


def test_other_providers_send_their_key_as_they_say() -> None:
    document = {"name": "p", "base_url": "https://h/v1", "privacy": "LOCAL", "auth_header": "x-key"}
    assert parse(ProviderDeclared, document).auth == ("x-key", "Bearer {key}")
