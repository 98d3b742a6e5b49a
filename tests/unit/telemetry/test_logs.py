"""No secret passes through the log, in whatever way it came in."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from logos.telemetry.logs import REDACTED, configure, redact

SECRETS = [
    "sk-proj-abcdefghijklmnop1234",
    "sk-ant-api03-AAAABBBBCCCC_dddd-eeee",
    "lg-3f9a2c_Zm9vYmFyYmF6cXV4",
    "lg_3f9a2cZm9vYmFyYmF6cXV4",
    "hf_AbCdEfGhIjKlMnOp",
    "gsk_abcdefghijklmnop",
    "AIzaSyA-1234567890abcdefghijklmno",
]


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = tuple(root.handlers), root.level
    yield
    for handler in tuple(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "sentence",
    ["{}", "key {} was refused", "Authorization: Bearer {}", "url=https://x/?api_key={}&a=1", '{{"k":"{}"}}'],
)
def test_a_key_is_redacted_wherever_it_stands(secret: str, sentence: str) -> None:
    assert secret not in redact(sentence.format(secret))


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abc123def456",
        "'authorization': 'Basic dXNlcjpwYXNzd29yZA=='",
        "api-key=abc123def456",
        '{"api_key": "abc123def456"}',
        "x-api-key: abc123def456",
        "logos_key: abc123def456",
        "password=abc123def456",
        "postgresql://postgres:abc123def456@127.0.0.1:5432/logosdb",
        "dsn postgresql://:abc123def456@h/db",
        "{b'api-key': b'abc123def456'}",
        "[(b'x-api-key', b'abc123def456')]",
        r"body {\"password\": \"abc123def456\"}",
        "[('api-key', 'abc123def456'), ('accept', '*/*')]",
        "password='abc123 def456 ghi'",
        "host=h password=abc123def456 dbname=d",
        "DB_PASSWORD=abc123def456",
        "PROVIDER_API_KEY: abc123def456",
        "client_secret=abc123def456",
        "aws_secret_access_key=abc123def456",
        "refresh_token: abc123def456",
        "postgresql://u:abc123def456@h1:1,h2:2/db",
        "redis://:abc123def456@h",
        "postgresql://u:abc/123def456@h/db",
    ],
)
def test_what_is_announced_as_a_secret_is_redacted(text: str) -> None:
    found = redact(text)
    assert "abc123def456" not in found
    assert "dXNlcjpwYXNzd29yZA" not in found
    assert "[redacted]" in found


@pytest.mark.parametrize(
    "text",
    [
        "the scheduler took 12 ms for req_0123456789abcdef",
        "model qwen2.5-7b at endpoint 3, prompt 12 tokens",
        "http://127.0.0.1:8080/v1/models",
        "task-12345678 and risk-assessment-tool",
        "no api key was given",
        "the password, if any, is kept",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@pytest.mark.timeout(30)  # by its square it would be minutes
@pytest.mark.parametrize("part", ["a", "secret", "password\\", "http://", "a://b", "x@", "sk-", "bearer ", "a.-"])
def test_a_line_without_end_takes_time_by_its_length(part: str) -> None:
    redact(part * (200_000 // len(part)))


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("piece", ["a", "a.", "a://", "a://b:", "sk-", "secret:", "bearer a "])
def test_a_long_text_is_read_once_and_not_again_from_each_of_its_letters(piece: str) -> None:
    """A header of a client is as long as the client likes; the square of its length would stop the gateway."""
    long = piece * (1_000_000 // len(piece))
    assert redact(f"{long} postgresql://postgres:abc123def456@h/db").endswith(f" postgresql://postgres:{REDACTED}@h/db")


@pytest.mark.parametrize("style", ["keyvalue", "json"])
def test_arguments_and_tracebacks_are_redacted_too(style: str) -> None:
    stream = io.StringIO()
    configure("INFO", style, stream)
    try:
        raise ValueError("upstream said sk-abcdefghijklmnop")
    except ValueError:
        logging.getLogger("x").exception("calling with %s", {"Authorization": "Bearer abcdefgh12345678"})
    text = stream.getvalue()
    assert "abcdefgh12345678" not in text
    assert "sk-abcdefghijklmnop" not in text
    assert "Traceback" in text
    assert text.count("\n") == 1


@pytest.mark.usefixtures("restored")
def test_json_lines_are_json_with_the_request_id() -> None:
    stream = io.StringIO()
    configure("INFO", "json", stream)
    logging.getLogger("logos.x").info("hello %s", "world", extra={"request_id": "req_1"})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["level"], line["logger"], line["request_id"]) == (
        "hello world",
        "info",
        "logos.x",
        "req_1",
    )


@pytest.mark.usefixtures("restored")
def test_key_value_lines_quote_what_needs_it() -> None:
    stream = io.StringIO()
    configure("INFO", "keyvalue", stream)
    logging.getLogger("x").warning('two words and a "quote"\nand a line')
    text = stream.getvalue()
    assert 'level=warning logger=x message="two words and a \\"quote\\"\\nand a line"' in text


@pytest.mark.usefixtures("restored")
def test_a_library_with_a_handler_of_its_own_keeps_it_and_says_no_secret() -> None:
    """As Ray and Serve do it: their loggers tell nothing to the root's handler."""
    own, ours = io.StringIO(), io.StringIO()
    logger = logging.getLogger("a.library.of.others")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(own))
    configure(stream=ours)
    configure(stream=ours)
    try:
        raise ValueError("upstream said sk-abcdefghijklmnop")
    except ValueError:
        logger.exception("GET %s", "postgresql://postgres:abc123def456@127.0.0.1/logosdb")
    assert own.getvalue().startswith("GET postgresql://postgres:[redacted]@127.0.0.1/logosdb\nTraceback")
    assert own.getvalue().count("ValueError: upstream said [redacted]") == 1
    assert ours.getvalue() == ""


@pytest.mark.usefixtures("restored")
def test_a_line_goes_where_standard_error_went_at_first_and_only_once() -> None:
    """Serve puts a logger that drops what it hears in the place of `sys.stderr`."""
    program = (
        "import io, logging, sys\n"
        "from logos.telemetry.logs import configure\n"
        "logging.basicConfig()\n"
        "sys.stderr = io.StringIO()\n"
        "configure()\n"
        "logging.getLogger('logos.x').info('not this')\n"
        "logging.getLogger('psycopg').warning('password=abc123def456')\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert said.stderr.count("\n") == 1, said.stderr
    assert "level=warning logger=psycopg" in said.stderr
    assert "password=[redacted]" in said.stderr
