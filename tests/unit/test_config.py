from pathlib import Path
from typing import Any

import pytest

from logos.config import Settings, load, read_environment
from logos.documents import valid_paths
from logos.domain.errors import InvalidDeclaration


def loaded(tmp_path: Path, text: str, **options: Any) -> Settings:
    path = tmp_path / "logos.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environment=options.pop("environment", {}), **options).settings


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(InvalidDeclaration) as caught:
        loaded(tmp_path, text)
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(str(tmp_path / "logos.yaml"))


# Seven lines, ten million values.
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 7)
)


def test_everything_has_a_default() -> None:
    settings = load(environment={}).settings
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings.server.body_bytes_max == 20 * 1024 * 1024
    assert settings.server.cors_origins == ()
    assert settings.scheduler.policy == "slo"
    assert settings.scheduler.queue_timeout_s == 60
    assert settings.gateway.ship_interval_ms == 100
    assert settings.gateway.replicas_min == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {prot: 80}", ": unknown key server.prot: the nearest valid key is server.port"),
        ("port: 80", ": unknown key port: the nearest valid key is server.port"),
        ("nodes: [{name: n, memory: 24}]", ": unknown key nodes[0].memory: the nearest valid key is nodes[0].mem"),
        ("scheduler: {policy: etfft}", ": scheduler.policy: should be 'fcfs', 'utilization', 'ettft' or 'slo'"),
        ("scheduler: {hedge_share: 1.1}", ": scheduler.hedge_share: should be less than or equal to 1"),
        ("scheduler: {hedge_share: -0.1}", ": scheduler.hedge_share: should be greater than or equal to 0"),
        ("scheduler: {hedge_share: .nan}", ": scheduler.hedge_share: should be"),
        ("scheduler: {hedge_share: '5%'}", ": scheduler.hedge_share: should be a number"),
        ("server: {port: '80'}", ": server.port: should be a whole number"),
        ("server: {port: 65536}", ": server.port: should be less than or equal to 65535"),
        ("upstream: {connect_s: 0}", ": upstream.connect_s: should be greater than 0"),
        ("upstream: {connect_s: .inf}", ": upstream.connect_s: should be"),
        ("gateway: {replicas_min: 9}", ": gateway: replicas_min 9 is above replicas_max 4"),
        ("nodes: [{name: n}, {name: n}]", ": nodes[1]: n is there twice"),
        ("server:", ": server: should be a mapping of keys to values; leave it out for the defaults"),
        ("- a list", ": expected `key: value` lines at the top, found a list"),
        ("a: [", ":1: "),
        ("server: {port: 1, port: 2}", ":1: the key 'port' is there twice"),
        ("!!python/object:os.system {}", ":1: "),
        ("nodes: &n [*n]", ": nodes: is nested too deeply, or contains itself"),
        ("server: &s {port: *s}", ": server: is nested too deeply, or contains itself"),
        (f"nodes: {'[' * 200}{']' * 200}", ": nodes: is nested too deeply, or contains itself"),
        (LAUGHS, ": the document: has more than 1,000,000 values, counted again wherever an anchor is used"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_that_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text).startswith(message)


def test_every_misspelling_by_one_letter_finds_the_right_key(tmp_path: Path) -> None:
    for path in valid_paths(Settings):
        section, _, name = path.rpartition(".")
        if len(name) > 4 and section in {"server", "gateway", "upstream", "scheduler", "ledger", "ray"}:
            assert refused(tmp_path, f"{section}: {{{name[:-2]}{name[-1]}: 1}}").endswith(f"valid key is {path}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidDeclaration, match=r"gone\.yaml cannot be read: No such file"):
        load(tmp_path / "gone.yaml", environment={})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidDeclaration, match=r"binary\.yaml cannot be read: it is not UTF-8"):
        load(tmp_path / "binary.yaml", environment={})


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    overrides = {"server": {"port": 9000, "host": None}, "ray": {"address": None}}
    settings = loaded(tmp_path, "server: {port: 1234, host: 0.0.0.0}", overrides=overrides)
    assert (settings.server.port, settings.server.host, settings.ray.address) == (9000, "0.0.0.0", None)


def test_without_a_provider_there_is_a_simulated_world_that_fits_its_nodes() -> None:
    configuration = load(environment={})
    world = Settings.default_world()
    assert configuration.simulated_world
    assert configuration.settings.nodes == world.nodes
    assert [node.simulated for node in world.nodes] == [True, True]
    assert [node.pace.flags() for node in world.nodes] == [("--load-s", "2.0")] * 2
    assert len(world.models) == 3
    # First fit in declared order: everything can be loaded at the same time.
    free_gib = [node.memory_gib for node in world.nodes for _ in range(node.gpus)]
    for model in world.models:
        assert model.engine is not None
        index = next(index for index, free in enumerate(free_gib) if free >= model.engine.memory_gib)
        free_gib[index] -= model.engine.memory_gib
    assert all(not providers.base_url for providers in world.providers)


@pytest.mark.parametrize("text", ["nodes: []", "models: []", "providers: []"])
def test_whoever_says_what_to_serve_gets_no_simulated_world(tmp_path: Path, text: str) -> None:
    path = tmp_path / "logos.yaml"
    path.write_text(text, encoding="utf-8")
    configuration = load(path, environment={})
    assert not configuration.simulated_world
    assert configuration.settings.nodes == ()


def test_an_initial_provider_of_the_environment_replaces_the_simulated_world() -> None:
    variables = {"PROVIDER_NAME": "acme", "BASE_URL": "https://acme.example/v1", "PROVIDER_API_KEY": "env:secret-9"}
    configuration = load(environment=variables)
    provider = configuration.environment.provider
    assert not configuration.simulated_world
    assert provider is not None
    assert provider.api_key is not None
    assert provider.api_key.get_secret_value() == "env:secret-9"
    assert provider.privacy.name == "CLOUD_NOT_IN_EU_BY_US_PROVIDER"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PROVIDER_NAME": "acme"}, "BASE_URL is not set"),
        ({"BASE_URL": "https://h/v1"}, "PROVIDER_NAME is not set"),
        ({"PROVIDER_NAME": "acme", "BASE_URL": "acme"}, "PROVIDER_NAME, BASE_URL: base_url"),
        ({"LOGOS_ROOT_KEY": "short"}, "LOGOS_ROOT_KEY: a key has 8 to 512 characters"),
        ({"LOGOS_DATABASE_URL": "mysql://u:secret-9@h/d"}, "LOGOS_DATABASE_URL: should look like postgresql://"),
    ],
)
def test_a_variable_that_does_not_fit_is_named_without_its_value(variables: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidDeclaration) as caught:
        read_environment(variables)
    assert caught.value.message.startswith(message)
    assert "secret-9" not in caught.value.message


def test_no_secret_of_the_environment_is_shown() -> None:
    variables = {
        "LOGOS_ROOT_KEY": "root-secret-1",
        "LOGOS_DATABASE_URL": "postgresql://u:pass-secret-2@h/d",
        "PROVIDER_NAME": "acme",
        "BASE_URL": "https://acme.example/v1",
        "PROVIDER_API_KEY": "provider-secret-3",
    }
    configuration = load(environment=variables)
    for shown in (repr(configuration), str(configuration.model_dump()), configuration.model_dump_json()):
        assert "secret" not in shown


def test_what_the_file_declares_is_what_apply_would_send(tmp_path: Path) -> None:
    text = "server: {port: 1}\nmodels: [{name: m, tags: [a]}]\nkeys: [{name: ci, key: 'env:CI'}]"
    settings = loaded(tmp_path, text, environment={"CI": "ci-secret-1"})
    assert settings.declaration.revealed() == {
        "models": [{"name": "m", "tags": ["a"]}],
        "keys": [{"name": "ci", "key": "ci-secret-1"}],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classifier: {embedding: openai, model: bge}", "needs a base_url"),
        ("classifier: {embedding: sentence-transformers}", "needs a model"),
        ("classifier: {model: bge}", "leave model and base_url out"),
        ("classifier: {embedding: openai, model: m, base_url: 'ftp://x'}", "base_url"),
        ("classifier: {embedding: word2vec}", "embedding"),
    ],
)
def test_an_embedding_that_is_not_whole_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_an_embedding_s_key_comes_from_the_environment_and_is_never_shown(tmp_path: Path) -> None:
    text = "classifier: {embedding: openai, model: m, base_url: 'https://e.example/v1', api_key: 'env:EMBEDDING_KEY'}"
    settings = loaded(tmp_path, text, environment={"EMBEDDING_KEY": "a-secret-key"})
    assert settings.classifier.api_key is not None
    assert settings.classifier.api_key.get_secret_value() == "a-secret-key"
    assert "a-secret-key" not in repr(settings)
