"""The format of the log: one line an event, key=value or JSON, and nothing in it that looks like a key.

Redaction is the last line of defence: code does not log secrets in the first place. Where the lines go is decided by
whoever starts the process.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

REDACTED = "[redacted]"
LINE_CHARACTERS_MAX = 8000

_SECRETS = (
    # An authorization header's value, or anything after a word that announces a secret.
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=\-]{6,}"), rf"\1\2{REDACTED}"),
    (
        re.compile(
            r"(?i)((?:(?:api|logos|access)[-_]?key|authorization|password|passwd|secret|cookie"
            r"|(?:access|refresh|auth|session)[-_]?token)"
            # Its end, which may be quoted, and the quotes escaped; and the value's beginning, which may be bytes.
            r"\\*(?:[\"']\s*[:=,]|\s*[:=])\s*b?\\*[\"']?)(?!\[redacted\]|bearer|basic)[^\s\"',;&}\\]{4,}"
        ),
        rf"\1{REDACTED}",
    ),
    # Keys by their shape, ours and other people's.
    (re.compile(r"\b(?:sk|pk|rk|lg|gsk|xai|hf|ghp|pat)[-_][A-Za-z0-9][A-Za-z0-9_\-]{7,}"), REDACTED),
    (re.compile(r"\bAIza[A-Za-z0-9_\-]{20,}"), REDACTED),
    # The password in a URL. Everything in it is bounded, or a long word would be looked at from each of its letters.
    (re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.\-]{0,30}://[^\s:/@]{0,200}:)[^\s@]{1,500}@"), rf"\1{REDACTED}@"),
)


def redact(text: str) -> str:
    """`text` without what looks like a secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Line(logging.Formatter):
    """Builds the fields; the last step of each format is redaction, so that it sees arguments and tracebacks too."""

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        found = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            found["request_id"] = str(request_id)
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return {name: redact(value[: 2 * LINE_CHARACTERS_MAX])[:LINE_CHARACTERS_MAX] for name, value in found.items()}


class KeyValueFormatter(_Line):
    """For people: time=... level=... logger=... message="..."."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{name}={_quoted(value)}" for name, value in self.fields(record).items())


class JsonFormatter(_Line):
    """For machines: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record))


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[\w.:+\-/\[\]]+", value) else json.dumps(value, ensure_ascii=False)


def configure(level: str = "WARNING", style: str = "keyvalue", stream: TextIO | None = None) -> None:
    """Send everything of this process to `stream` in this format, replacing what was there; without one, to where
    standard error went when the process began, whatever `sys.stderr` is by now. Loggers that have handlers of their own
    (Ray's) keep them, and these say no secrets from now on. `style`: keyvalue or json."""
    output = logging.StreamHandler(stream or sys.__stderr__)
    output.setFormatter(JsonFormatter() if style == "json" else KeyValueFormatter())
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(output)
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "asyncio", "alembic", "aiohttp.access", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    for logger in tuple(root.manager.loggerDict.values()):
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            handler.addFilter(_without_secrets)


def _without_secrets(record: logging.LogRecord) -> bool:
    """As a filter: takes the secrets out before anybody's formatter sees the record, and keeps every record."""
    record.msg, record.args = redact(record.getMessage()), None
    if record.exc_info:
        record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
    return True
