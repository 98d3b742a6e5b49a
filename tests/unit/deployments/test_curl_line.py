"""The line that a platform prints to be pasted, as a shell takes it."""

from __future__ import annotations

import json
import subprocess

import pytest

from deployments.up import curl_line


def said_to_curl(line: str, **environment: str) -> list[str]:
    """The arguments, one in a line each, with a curl that only prints them."""
    script = f"curl() {{ printf '%s\\n' \"$@\"; }}; {line}"
    return subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()


@pytest.mark.parametrize(("key", "environment"), [("lg-1", {}), ("$LOGOS_KEY", {"LOGOS_KEY": "lg-1"})])
def test_it_can_be_pasted_with_the_key_that_is_shown_and_with_one_in_the_environment(
    key: str, environment: dict[str, str]
) -> None:
    url, _, bearer, _, _, _, body = said_to_curl(curl_line("http://127.0.0.1:1", key, "it's mine"), **environment)
    assert url == "http://127.0.0.1:1/v1/chat/completions"
    assert bearer == "Authorization: Bearer lg-1"
    assert json.loads(body)["model"] == "it's mine"
