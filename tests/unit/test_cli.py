import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.ray_environment import claim, free_port
from logos.cli import run
from logos.domain.errors import DatabaseUnavailable, InvalidDeclaration
from logos.storage.database import ExternalDatabase
from logos.storage.migrate import migrate

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGOS_KEY", raising=False)
    monkeypatch.setenv("LOGOS_API_BASE", NOWHERE)


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the one line on stderr."""
    code = run(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("logos: ")
    assert err.count("\n") == 1
    return code, err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["upp"], "No such command 'upp'"),
        (["up", "--prot", "80"], "No such option"),
        (["up", "--port", "99999"], "--port"),
        (["key", "rotate", "ci", "--grace-s", "nan"], "nan is not a finite number"),
        (["up", "--config", "gone.yaml"], "'gone.yaml' does not exist"),
        (["apply"], "Missing argument 'FILE' (see `logos apply --help`)"),
        (["key", "create"], "Missing argument 'NAME'"),
        (["key", "create", "ci", "limits"], "'limits' should be FIELD=VALUE"),
        (["model", "create", "m", "engine=1", "engine.gpus=1"], "engine.gpus is inside of something"),
        (["model", "create", "m", "tags=["], "the value of tags cannot be read"),
        (["simulate", "x.csv"], "Missing option '--cluster'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, err = failed(capsys, *arguments)
    assert code == 2
    assert told in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["key", "list"], f"no platform answers at {NOWHERE} (ConnectError): start one with `logos up`"),
        (["status"], "no platform answers"),
    ],
)
def test_what_fails_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, err = failed(capsys, *arguments)
    assert code == 1
    assert told in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "--api-base", "nonsense"], "give --api-base like http://HOST:PORT"),
        (["status", "--api-base", "http://[::"], "give --api-base like http://HOST:PORT"),
        (["key", "list", "--logos-key", "ungültig"], "give --api-base like http://HOST:PORT"),
        (["model", "create", "m", "engine.memory=1"], "the nearest valid key is engine.memory_gib"),
        (["key", "create", "ci", "key=env:NO_SUCH_VARIABLE"], "key: the environment variable NO_SUCH_VARIABLE is not"),
    ],
)
def test_what_was_given_wrong_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, err = failed(capsys, *arguments)
    assert code == 2
    assert told in err


@pytest.mark.parametrize(("status", "expected"), [("422 No", 2), ("400 No", 2), ("503 No", 1), ("401 No", 1)])
def test_a_declaration_that_the_platform_refuses_is_bad_input_and_one_that_it_cannot_take_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, expected: int
) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("models: []", encoding="utf-8")
    body = b'{"error": {"message": "for a reason"}}'
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                connection.sendall(head.encode() + body)

        threading.Thread(target=answer, daemon=True).start()
        code, err = failed(capsys, "apply", str(file), "--api-base", f"http://127.0.0.1:{server.getsockname()[1]}")
    assert code == expected
    assert err.startswith("logos: for a reason")


def test_a_config_that_does_not_fit_stops_up_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "logos.yaml"
    config.write_text("server: {prot: 80}", encoding="utf-8")
    code, err = failed(capsys, "up", "--config", str(config))
    assert code == 2
    assert err == f"logos: {config}: unknown key server.prot: the nearest valid key is server.port\n"


def test_a_data_directory_that_cannot_be_made_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = failed(capsys, "up", "--data-dir", "/dev/null/x")
    assert code == 2
    assert err == (
        "logos: the data directory /dev/null/x cannot be used (Not a directory): give another with --data-dir\n"
    )


def test_a_port_that_is_taken_is_one_line_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, err = failed(capsys, "up", "--port", str(port), "--data-dir", str(tmp_path))
    assert code == 1
    assert err == (
        f"logos: cannot listen at 127.0.0.1:{port} (Address already in use): give another --host or --port\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(sys.platform != "linux", reason="only there a port can be claimed before anything listens at it")
def test_of_two_platforms_that_start_at_once_at_one_address_the_second_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    with claim("127.0.0.1", port):
        code, err = failed(capsys, "up", "--port", str(port), "--data-dir", str(tmp_path))
    assert code == 1
    assert err == (f"logos: another 'logos up' has taken 127.0.0.1:{port}: stop it or give another --host or --port\n")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    claim("127.0.0.1", port).close()


@pytest.mark.parametrize("use", [lambda url: ExternalDatabase(url).require_alive(), migrate])
def test_a_database_url_that_cannot_be_used_is_one_line_without_its_password(use: Callable[[str], None]) -> None:
    for url in ("postgresql://u:the-password@127.0.0.1:1/x", "postgresql://u:the-password@127.0.0.1:1,[::1/x"):
        with pytest.raises((DatabaseUnavailable, InvalidDeclaration), match="LOGOS_DATABASE_URL") as raised:
            use(url)
        assert "the-password" not in raised.value.message
        assert "\n" not in raised.value.message


def test_a_declaration_that_does_not_fit_is_not_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("models: [{name: m, wieghts: {}}]", encoding="utf-8")
    code, err = failed(capsys, "apply", str(file))
    assert code == 2
    assert "unknown key models[0].wieghts: the nearest valid key is models[0].weights" in err


def test_a_journal_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.jsonl").touch()
    code, err = failed(capsys, "journal", "replay", str(tmp_path / "empty.jsonl"))
    assert code == 2
    assert "is empty: a journal begins with its opening" in err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    commands = "up status apply key provider model endpoint policy team user price journal".split()
    assert all(f"\n  {command} " in shown for command in commands)


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, logos.cli; code = logos.cli.run(['--help']);"
        "heavy = {'ray', 'pydantic', 'fastapi', 'sqlalchemy', 'httpx', 'numpy', 'yaml'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    best_s = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
        best_s = min(best_s, time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
    assert best_s < 0.5
