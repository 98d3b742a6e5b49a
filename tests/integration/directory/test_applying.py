"""Declarations on a real Postgres."""

from typing import Any

import pytest

from logos.actors.administration import Administration
from logos.config import Settings
from logos.declarations import Declaration
from logos.domain.errors import BadRequest, Conflict, DatabaseUnavailable, InvalidDeclaration, LogosError, NotFound
from logos.domain.nouns import EngineSpec, LogLevel, Mode, Privacy
from tests.support.postgres import value

WHOLE: dict[str, Any] = {
    "providers": [
        {
            "name": "azure-eu",
            "kind": "azure",
            "base_url": "https://host/openai",
            "api_key": "azure-secret-1",
            "privacy": "CLOUD_IN_EU_BY_US_PROVIDER",
        }
    ],
    "models": [
        {
            "name": "qwen2.5-7b",
            "description": "everyday questions, short code",
            "tags": ["chat", "code"],
            "weights": {"latency": 8, "accuracy": 2, "cost": 10, "quality": 3},
            "context_length": 32768,
            "endpoints": [{"provider": "azure-eu", "upstream_model": "my-deployment", "requests_per_minute": 600}],
            "engine": {"weights": "/models/qwen", "memory_gib": 16, "max_replicas": 2, "args": ["--seed", "1"]},
        }
    ],
    "prices": [
        {
            "model": "qwen2.5-7b",
            "provider": "azure-eu",
            "currency": "USD",
            "valid_from": "2026-01-01",
            "per_million": {"prompt": "0.15", "completion": "0.60", "cached_prompt": "0.075"},
        }
    ],
    "policies": [{"name": "local-only", "privacy": "LOCAL"}],
    "teams": [{"name": "research", "limits": {"requests_per_minute": 600}, "budget": {"amount": "50"}}],
    "users": [{"name": "ada", "email": "ada@example.org", "teams": ["research"]}],
    "keys": [
        {
            "name": "ci",
            "team": "research",
            "user": "ada",
            "key": "ci-secret-12",
            "log": "FULL",
            "models": ["qwen2.5-7b"],
            "limits": {"concurrent": 8},
            "policy": "local-only",
            "budget": {"amount": "5", "per": "day"},
        }
    ],
    "slo": {"interactive": {"ttft_ms": 2000}, "batch": {"total_ms": 600000}},
}


def actions(performed: Any) -> list[tuple[str, str]]:
    return [(change["action"], change["kind"]) for change in performed.result["changes"]]


def refused(administration: Administration, document: dict[str, Any]) -> str:
    with pytest.raises(InvalidDeclaration) as caught:
        administration.perform("apply", document)
    return caught.value.message


def test_the_whole_document_becomes_the_catalogue(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    stored = administration.load()
    catalogue = stored.catalogue
    model = catalogue.model_named["qwen2.5-7b"]
    remote, pooled = sorted(catalogue.endpoints_of[model.id], key=lambda each: each.engine is not None)
    assert (remote.upstream_model, remote.privacy) == ("my-deployment", Privacy.CLOUD_IN_EU_BY_US_PROVIDER)
    assert remote.limits.requests_per_minute == 600
    assert pooled.engine == EngineSpec(1, 16 * 1024, "/models/qwen", 0, 2, False, ("--seed", "1"))
    assert pooled.privacy is Privacy.LOCAL
    assert catalogue.provider[pooled.provider_id].is_pool
    assert {price.token_type: price.micro_cents_per_million for price in catalogue.prices} == {
        "prompt": 15_000_000,
        "completion": 60_000_000,
        "cached_prompt": 7_500_000,
    }
    (key,) = stored.keys
    assert key.log_level is LogLevel.FULL
    assert key.model_ids == {model.id}
    assert key.limits.concurrent == 8
    assert key.team_limits.requests_per_minute == 600
    assert key.policy_id == catalogue.policy_named["local-only"].id
    (access,) = stored.access
    assert (access.auth_header, access.auth_format, access.api_key) == ("api-key", "{key}", "azure-secret-1")


def test_applying_the_same_twice_changes_nothing_and_keeps_the_version(administration: Administration) -> None:
    first = administration.perform("apply", WHOLE)
    second = administration.perform("apply", WHOLE)
    assert first.result["version"] == 1
    assert second.result["changes"] == []
    assert second.result["version"] == 1
    assert second.version is None
    assert administration.get_version() == 1


def test_the_catalogues_version_stays_while_only_keys_change(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    administration.perform("key.create", {"name": "another"})
    stored = administration.load()
    assert (stored.version, stored.catalogue.version) == (2, 1)


def test_what_is_stored_but_not_enforced_is_said(administration: Administration) -> None:
    notes = administration.perform("apply", WHOLE).result["notes"]
    assert notes == ["budgets are stored; they are not enforced yet"]


def test_a_wrong_reference_names_its_place_and_changes_nothing(administration: Administration) -> None:
    document = {**WHOLE, "keys": [{**WHOLE["keys"][0], "models": ["qwen2.5-7b", "gone"]}]}
    assert refused(administration, document) == "keys[0].models[1]: there is no model gone; declare it first"
    assert administration.get_version() == 0
    assert administration.load().catalogue.models == ()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"models": [{"name": "m", "endpoints": [{"provider": "p"}]}]}, "models[0].endpoints[0].provider: there is no"),
        ({"models": [{"name": "m", "engine": {"memory_gib": 1, "provider": "p"}}]}, "models[0].engine.provider: there"),
        ({"endpoints": [{"model": "m", "provider": "p"}]}, "endpoints[0].model: there is no model m; declare it first"),
        ({"prices": [{"model": "m", "currency": "EUR", "per_million": {"prompt": 1}}]}, "prices[0].model: there is no"),
        ({"prices": [{"currency": "EUR", "per_million": {"promt": 1}}]}, "did you mean 'prompt'?"),
        ({"users": [{"name": "u", "teams": ["t"]}]}, "users[0].teams[0]: there is no team t"),
        ({"keys": [{"name": "k", "policy": "p"}]}, "keys[0].policy: there is no policy p"),
        ({"keys": [{"name": "root"}]}, "keys[0].name: root is made by `logos up`"),
        (
            {
                "providers": [{"name": "local", "kind": "pool", "privacy": "LOCAL"}],
                "models": [{"name": "m", "endpoints": [{"provider": "local"}]}],
            },
            "provider local is a pool: give model m an `engine:` there",
        ),
        (
            {
                "providers": [{"name": "p", "base_url": "https://h/v1", "privacy": "LOCAL"}],
                "models": [{"name": "m", "engine": {"memory_gib": 1, "provider": "p"}}],
            },
            "the engine of m needs a provider of kind pool; p is none",
        ),
    ],
)
def test_what_contradicts_the_platform_is_refused(
    administration: Administration, document: dict[str, Any], message: str
) -> None:
    assert message in refused(administration, document)
    assert administration.get_version() == 0


def test_endpoints_and_engine_that_are_left_out_stay(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    performed = administration.perform("apply", {"models": [{"name": "qwen2.5-7b", "description": "new"}]})
    assert actions(performed) == [("updated", "model")]
    assert len(administration.load().catalogue.endpoints) == 2


def test_endpoints_that_are_named_replace_the_others(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    model = {**WHOLE["models"][0], "endpoints": [{"provider": "azure-eu", "upstream_model": "other"}], "engine": None}
    performed = administration.perform("apply", {"models": [model]})
    assert actions(performed) == [("created", "endpoint"), ("deleted", "endpoint"), ("deleted", "endpoint")]
    (endpoint,) = administration.load().catalogue.endpoints
    assert endpoint.upstream_model == "other"


def test_a_provider_key_that_is_left_out_stays_and_null_removes_it(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    provider = {name: value for name, value in WHOLE["providers"][0].items() if name != "api_key"}
    assert actions(administration.perform("apply", {"providers": [provider]})) == []
    assert administration.load().access[0].api_key == "azure-secret-1"
    administration.perform("apply", {"providers": [{**provider, "api_key": None}]})
    assert administration.load().access[0].api_key is None


def test_a_deleted_model_takes_its_endpoints_and_prices_and_its_name_is_free(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    old_id = administration.load().catalogue.model_named["qwen2.5-7b"].id
    performed = administration.perform("delete", {"kind": "model", "ref": "qwen2.5-7b"})
    assert actions(performed)[0] == ("deleted", "model")
    stored = administration.load()
    assert (stored.catalogue.models, stored.catalogue.endpoints, stored.catalogue.prices) == ((), (), ())
    # A key that was for this model only may now use none, rather than every one.
    assert stored.keys[0].model_ids == {old_id}
    administration.perform("apply", {"models": [{"name": "qwen2.5-7b"}]})
    (model,) = administration.load().catalogue.models
    assert not administration.load().keys[0].may_use(model.id)


@pytest.mark.parametrize(("kind", "ref"), [("policy", "local-only"), ("team", "research"), ("user", "ada")])
def test_what_a_key_relies_on_cannot_be_deleted(administration: Administration, kind: str, ref: str) -> None:
    administration.perform("apply", WHOLE)
    with pytest.raises(Conflict, match="is in use by the keys ci; change or revoke them first"):
        administration.perform("delete", {"kind": kind, "ref": ref})


@pytest.mark.parametrize(
    ("operation", "arguments", "error"),
    [
        ("delete", {"kind": "model", "ref": "gone"}, NotFound),
        ("delete", {"kind": "model", "ref": "99"}, NotFound),
        ("delete", {"kind": "model", "ref": "9" * 30}, NotFound),
        ("delete", {"kind": "model", "ref": "a\0b"}, BadRequest),
        ("delete", {"kind": "modle", "ref": "a"}, BadRequest),
        ("delete", {"kind": "model"}, BadRequest),
        ("list", {"kind": "secret"}, BadRequest),
        ("list", {"kind": "key", "limit": 0}, BadRequest),
        ("key.rotate", {"key": "gone"}, NotFound),
        ("key.rotate", {"key": "gone", "grace_s": "1"}, BadRequest),
        ("key.revoke", {"key": "own-%"}, NotFound),
        ("explode", {}, BadRequest),
    ],
)
def test_bad_arguments_are_errors_of_ours(
    administration: Administration, operation: str, arguments: dict[str, Any], error: type[LogosError]
) -> None:
    with pytest.raises(error):
        administration.perform(operation, arguments)


def test_two_currencies_for_one_request_are_refused(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    price = {"currency": "EUR", "valid_from": "2026-02-01", "per_million": {"reasoning": 1}}
    assert "one request is charged in one currency" in refused(administration, {"prices": [price]})


def test_the_built_in_world_applies(administration: Administration) -> None:
    administration.perform("apply", Settings.default_world().declaration.revealed())
    catalogue = administration.load().catalogue
    assert len(catalogue.models) == 3
    assert all(endpoint.engine is not None and endpoint.privacy is Privacy.LOCAL for endpoint in catalogue.endpoints)


def bootstrap(administration: Administration, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"root_key": None, "world": None, "provider": None, "provider_models": ()}
    return administration.bootstrap(**{**options, "declaration": Declaration(), **changes}).result


def test_the_world_comes_at_the_first_start_only(administration: Administration) -> None:
    world = Settings.default_world().declaration
    first = bootstrap(administration, world=world)
    assert first["keys"]["root"].startswith("lg-")
    administration.perform("delete", {"kind": "model", "ref": "bge-m3"})
    second = bootstrap(administration, world=world)
    assert second["keys"] == {}
    assert second["changes"] == []
    assert len(administration.load().catalogue.models) == 2


def test_a_preset_root_key_is_the_root_key_and_another_one_later_is_told(administration: Administration) -> None:
    assert bootstrap(administration, root_key="my-root-key")["keys"] == {"root": "my-root-key"}
    assert bootstrap(administration, root_key="my-root-key")["notes"] == []
    (note,) = bootstrap(administration, root_key="other-root-key")["notes"]
    assert note.startswith("LOGOS_ROOT_KEY is not the root key of this installation")


def test_a_config_file_that_contradicts_a_running_installation_does_not_stop_it(
    administration: Administration,
) -> None:
    wrong = Declaration.model_validate({"keys": [{"name": "ci", "models": ["gone"]}], "teams": [{"name": "t"}]})
    with pytest.raises(InvalidDeclaration):
        bootstrap(administration, declaration=wrong)
    assert administration.get_version() == 0
    bootstrap(administration)
    (note,) = bootstrap(administration, declaration=wrong)["notes"]
    assert note.startswith("the config file's declarations were not applied: keys[0].models[0]: there is no model")
    assert administration.perform("list", {"kind": "team"}).result["total"] == 0


def test_a_key_whose_declaration_was_undone_is_not_told(administration: Administration) -> None:
    bootstrap(administration)
    wrong = Declaration.model_validate({"keys": [{"name": "first"}, {"name": "ci", "models": ["gone"]}]})
    told = bootstrap(administration, declaration=wrong)
    assert len(told["notes"]) == 1
    assert (told["keys"], told["changes"]) == ({}, [])
    assert administration.perform("list", {"kind": "key"}).result["total"] == 1


def test_writers_take_turns(administration: Administration, database_url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(administration.perform, "apply", {"teams": [{"name": f"t{n % 4}"}]}) for n in range(16)]
        versions = [job.result().version for job in jobs]
    assert sorted(version for version in versions if version is not None) == [1, 2, 3, 4]
    assert value(database_url, "SELECT count(*) FROM teams") == 4


def test_a_database_that_is_away_is_said_without_its_password() -> None:
    away = Administration("postgresql://u:pass-secret@127.0.0.1:1/logosdb")
    with pytest.raises(DatabaseUnavailable) as caught:
        away.perform("apply", {})
    assert "pass-secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    away.close()


def test_figures_of_sleep_and_deadlines_by_mode_reach_the_catalogue(administration: Administration) -> None:
    administration.perform("apply", WHOLE)
    before = administration.load().catalogue
    assert before.slo.of(Mode.INTERACTIVE).ttft_s == 2.0
    assert before.slo.of(Mode.BATCH).total_s == 600.0
    engine = {
        "memory_gib": 16,
        "sleep": False,
        "residue_gib": 0.5,
        "host_memory_gib": 20,
        "load_s": 40.0,
        "wake_s": 2.5,
    }
    administration.perform("apply", {"models": [{"name": "sleeper", "engine": engine}]})
    administration.perform("apply", {"slo": {"interactive": {"ttft_ms": 500, "total_ms": 9000}}})
    after = administration.load().catalogue
    assert after.version > before.version
    assert (after.slo.interactive.ttft_s, after.slo.interactive.total_s) == (0.5, 9.0)
    [sleeper] = after.endpoints_of[after.model_named["sleeper"].id]
    assert sleeper.engine is not None
    assert (sleeper.engine.sleeps, sleeper.engine.residue_mib, sleeper.engine.host_mib) == (False, 512, 20 * 1024)
    assert (sleeper.engine.load_s, sleeper.engine.wake_s, sleeper.engine.sleep_s) == (40.0, 2.5, None)


def test_the_salt_of_fingerprints_is_made_once_and_long_enough(administration: Administration) -> None:
    salt = administration.load().salt
    assert len(salt) > 60
    administration.perform("apply", WHOLE)
    assert administration.load().salt == salt
    assert salt not in repr(administration.load())
