"""The command against a platform on a loopback port."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos.cli import run
from tests.support.admin_platform import ROOT_KEY, platform_in_a_thread

DOCUMENT = """
providers: [{name: acme, base_url: "https://acme.example/v1", api_key: "env:ACME_KEY", privacy: LOCAL}]
models: [{name: org/m, tags: [chat], endpoints: [{provider: acme}], engine: {memory_gib: 4}}]
keys: [{name: ci, key: "file:ci.key", models: [org/m]}, {name: made}]
"""


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with platform_in_a_thread(database_url) as url:
        monkeypatch.setenv("LOGOS_API_BASE", f"{url}/v1")
        monkeypatch.setenv("LOGOS_KEY", ROOT_KEY)
        monkeypatch.setenv("ACME_KEY", "acme-secret-1")
        yield url


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    got = run(arguments)
    out, err = capsys.readouterr()
    assert got == code, err
    return out, err


def test_the_same_file_twice_changes_nothing_and_shows_no_given_secret(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ci.key").write_text("ci-secret-12\n", encoding="utf-8")
    file = tmp_path / "platform.yaml"
    file.write_text(DOCUMENT, encoding="utf-8")
    first, _ = said(capsys, "apply", str(file))
    assert "created model org/m\n" in first
    assert "key made, shown this once: lg-" in first
    second, _ = said(capsys, "apply", str(file))
    assert second.startswith("nothing changed (version ")
    third, _ = said(capsys, "apply", str(file), "--json")
    assert json.loads(third)["changes"] == []
    for text in (first, second, third):
        assert "acme-secret-1" not in text
        assert "ci-secret-12" not in text


def test_a_keys_life(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, told = said(capsys, "key", "create", "team/ci", "--log", "FULL", "limits.concurrent=8")
    assert first.startswith("lg-")
    assert first.count("\n") == 1
    assert told == "team/ci: keep it, it is not shown again\n"
    second, _ = said(capsys, "key", "rotate", "team/ci")
    assert second.startswith("lg-")
    listed, _ = said(capsys, "key", "list")
    assert [line.split()[1] for line in listed.splitlines()] == ["name", "root", "team/ci"]
    assert "concurrent=8" in listed
    assert second.strip() not in listed
    as_json, _ = said(capsys, "key", "list", "--json")
    assert json.loads(as_json)[1]["log"] == "FULL"
    assert said(capsys, "key", "revoke", "team/ci")[0] == "revoked key team/ci\n"
    _, err = said(capsys, "key", "revoke", "team/ci", code=1)
    assert err == "logos: there is no such key; `logos key list` shows the ones there are\n"
    monkeypatch.setenv("LOGOS_KEY", second.strip())
    _, err = said(capsys, "key", "list", code=1)
    assert err == "logos: This API key is not valid here. Give --logos-key or set LOGOS_KEY.\n"


def test_things_are_created_listed_and_deleted_one_by_one(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "provider", "create", "acme", "base_url=https://h/v1", "privacy=LOCAL", "api_key=env:ACME_KEY")
    said(capsys, "model", "create", "org/m", "tags=[chat, code]", "engine.memory_gib=4")
    said(capsys, "endpoint", "create", "model=org/m", "provider=acme")
    said(capsys, "price", "create", "model=org/m", "currency=EUR", "per_million.prompt=0.15")
    said(capsys, "policy", "create", "local-only", "privacy=LOCAL")
    said(capsys, "team", "create", "t", "limits.requests_per_minute=5")
    said(capsys, "user", "create", "u", "teams=[t]")
    shown = {kind: said(capsys, kind, "list")[0] for kind in ("provider", "model", "endpoint", "price", "policy")}
    assert "acme" in shown["provider"]
    assert "acme-secret-1" not in shown["provider"]
    assert "chat,code" in shown["model"]
    assert len(shown["endpoint"].splitlines()) == 3
    assert "0.15" in shown["price"]
    assert "requests_per_minute=5" in said(capsys, "team", "list")[0]
    assert "u" in said(capsys, "user", "list")[0]
    out, _ = said(capsys, "model", "delete", "org/m")
    assert out.splitlines()[0] == "deleted model org/m"
    assert said(capsys, "endpoint", "list")[0].splitlines()[1:] == []


def test_status_is_well(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "status")
    assert [line.split() for line in out.splitlines()] == [["status", "ok"], ["ledger.lag_s", "0.0"]]
    assert json.loads(said(capsys, "status", "--json")[0])["status"] == "ok"


def test_something_else_on_the_port_is_said(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, "status", "--api-base", f"{url}/docs?", code=1)
    assert "not like a Logos platform" in err or "There is nothing here" in err
