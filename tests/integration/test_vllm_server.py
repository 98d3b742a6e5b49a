"""The real vLLM that other tests rely on: it answers, streams, counts, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import time

import httpx
import pytest

from tests.support.vllm_server import VllmServer, group_exists, stop_group, vllm_server

__all__ = ["vllm_server"]

BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "What is the integral of x squared?"}],
    "max_tokens": 8,
    "temperature": 0,
    "ignore_eos": True,
}


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_the_tiny_model_answers_a_chat_with_exact_usage(vllm_server: VllmServer) -> None:
    answer = httpx.post(f"{vllm_server.base_url}/v1/chat/completions", json=BODY).json()
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_a_streamed_chat_says_what_the_whole_one_says(vllm_server: VllmServer) -> None:
    url = f"{vllm_server.base_url}/v1/chat/completions"
    whole = httpx.post(url, json=BODY).json()["choices"][0]["message"]["content"]
    streamed = httpx.post(url, json={**BODY, "stream": True, "stream_options": {"include_usage": True}}).text
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line]
    chunks = [json.loads(event) for event in events[:-1]]
    assert events[-1] == "[DONE]"
    assert "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]) == whole
    assert chunks[-1]["usage"]["completion_tokens"] == 8


@pytest.mark.vllm
@pytest.mark.timeout(400)
def test_vllm_drops_a_sequence_whose_client_has_left(vllm_server: VllmServer) -> None:
    url = f"{vllm_server.base_url}/v1/chat/completions"
    with httpx.stream("POST", url, json={**BODY, "max_tokens": 8000, "stream": True}) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the connection when its iterator is dropped
        next(lines)
        wait_for_running(vllm_server, 1)
    wait_for_running(vllm_server, 0)


def wait_for_running(server: VllmServer, expected: int) -> None:
    """Returns once vLLM counts so many running sequences; fails after a second."""
    deadline = time.monotonic() + 1
    while (running := server.metric("vllm:num_requests_running")) != expected:
        assert time.monotonic() < deadline, f"{running:.0f} running, not {expected}"
        time.sleep(0.01)


def test_stopping_ends_the_children_too() -> None:
    shell = ["sh", "-c", "sleep 300 & sleep 300"]
    with subprocess.Popen(shell, start_new_session=True) as parent:
        assert group_exists(parent.pid)
        stop_group(parent)
    assert not group_exists(parent.pid)
