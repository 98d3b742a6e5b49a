"""A replay over real sockets, against upstreams that say exactly what they are told to."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from logos.domain.nouns import Mode, Priority
from logos.workload import clock
from logos.workload.client import Target
from logos.workload.exchanges import Exchange, Run, Status
from logos.workload.files import write_workload
from logos.workload.replaying import replay, replayed
from logos.workload.rows import WorkloadRow
from logos.workload.summary import summarise
from tests.support.raw_upstream import CLOSE, HANG, RESET, Step, chunk, stream_head, whole
from tests.support.upstream import Answer, Received, ScriptedUpstream, error, event, steps, stream_body, streamed

KEY = "a-key"


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


def row(model: str, at_ms: float = 0.0, number: int = 1, **changes: Any) -> WorkloadRow:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **changes.pop("body", {})}
    return WorkloadRow(f"{model}-{number}", at_ms, body, **changes)


def run(address: str, *rows: WorkloadRow, **options: Any) -> Run:
    return clock.run(replayed(rows, Target(address, KEY, **options)))


def one(found: Run) -> Exchange:
    (exchange,) = found.exchanges
    return exchange


def metrics(found: Run) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in summarise(found)}


# ---------------------------------------------------------------------- what is sent


def test_priority_mode_and_id_are_really_sent(upstream: ScriptedUpstream) -> None:
    run(upstream.base_url, row("m", mode=Mode.BATCH, priority=Priority.HIGH))
    (received,) = upstream.of("m")
    sent = {name: received.headers[f"x-{name}"] for name in ("logos-priority", "logos-mode", "request-id")}
    assert sent == {"logos-priority": "high", "logos-mode": "batch", "request-id": "m-1"}
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert "x-logos-slo-ms" not in received.headers


def test_the_objective_is_told_to_the_server_only_where_that_is_wanted(upstream: ScriptedUpstream) -> None:
    run(upstream.base_url, row("m"), slo_ms=1500.0, declare_slo=True)
    assert upstream.of("m")[0].headers["x-logos-slo-ms"] == "1500"


def test_answers_are_streamed_with_usage_unless_the_row_says_otherwise(upstream: ScriptedUpstream) -> None:
    run(
        upstream.base_url,
        row("said-nothing"),
        row("said-no", body={"stream": False}),
        row("options", body={"stream_options": {"include_usage": False, "x": 1}}),
    )
    bodies = {received.model: received.document for received in upstream.received if received.document}
    assert (bodies["said-nothing"]["stream"], bodies["said-nothing"]["stream_options"]) == (
        True,
        {"include_usage": True},
    )
    assert (bodies["said-no"]["stream"], "stream_options" in bodies["said-no"]) == (False, False)
    assert bodies["options"]["stream_options"] == {"include_usage": False, "x": 1}


def test_the_route_follows_the_body(upstream: ScriptedUpstream) -> None:
    rows = (
        WorkloadRow("a", 0, {"model": "a", "prompt": "x"}),
        WorkloadRow("b", 0, {"model": "b", "input": "x"}),
        row("c"),
    )
    run(upstream.base_url, *rows)
    paths = {received.model: received.path for received in upstream.received if received.document}
    assert paths == {"a": "/v1/completions", "b": "/v1/embeddings", "c": "/v1/chat/completions"}


def test_requests_leave_at_their_times_whatever_became_of_the_earlier_ones(upstream: ScriptedUpstream) -> None:
    upstream.answer("m", answered_once_there_are(3, upstream))
    rows = [row("m", at_ms, number) for number, at_ms in enumerate((200.0, 0.0, 100.0))]
    found = run(upstream.base_url, *rows, speed=2.0)
    assert [exchange.row.request_id for exchange in found.exchanges] == ["m-1", "m-2", "m-0"]
    assert [exchange.due_ms for exchange in found.exchanges] == [0.0, 50.0, 100.0]
    assert all(exchange.is_success and exchange.lateness_ms >= 0 for exchange in found.exchanges)


def test_many_streams_run_at_once_in_one_process(upstream: ScriptedUpstream) -> None:
    upstream.answer("m", answered_once_there_are(600, upstream))
    found = run(upstream.base_url, *(row("m", 0.0, number) for number in range(600)))
    assert metrics(found)["successful_requests"] == 600
    assert upstream.connections == 600


def answered_once_there_are(requests: int, upstream: ScriptedUpstream) -> Answer:
    """Nobody is answered before so many have arrived."""

    def answer(received: Received) -> Iterator[Step]:
        while len(upstream.received) < requests:
            yield 0.05
        yield from streamed()(received)

    return answer


# ---------------------------------------------------------------------- what is measured


def test_the_first_token_and_the_pace_are_measured_at_the_client(upstream: ScriptedUpstream) -> None:
    upstream.answer("m", streamed(("a",) * 10, delay_s=0.2, pace_s=0.03))
    found = one(run(upstream.base_url, row("m")))
    assert found.ttft_ms is not None
    assert found.tpot_ms is not None
    assert found.ttft_ms >= 200
    assert found.latency_ms >= found.ttft_ms + sum(found.gaps_ms)
    assert len(found.gaps_ms) == 9
    assert found.tpot_ms == pytest.approx(sum(found.gaps_ms) / 9)
    assert (found.completion_tokens, found.text) == (10, "a" * 10)


def test_what_the_headers_say_stands_beside(upstream: ScriptedUpstream) -> None:
    told = (
        "x-request-id: the-id\r\nx-logos-model: chosen\r\nx-logos-queue-ms: 12.5\r\nx-logos-predicted-ttft-ms: 80\r\n"
    )
    body = b"".join(stream_body(("a",)))
    upstream.answer("m", steps(stream_head(extra=told), chunk(body), b"0\r\n\r\n"))
    server = one(run(upstream.base_url, row("m"))).server
    assert (server.request_id, server.model, server.queue_wait_ms, server.predicted_ttft_ms) == (
        "the-id",
        "chosen",
        12.5,
        80,
    )


def test_a_server_that_is_no_logos_costs_a_note(upstream: ScriptedUpstream) -> None:
    upstream.answer("m", steps(whole(b'{"choices":[]}', extra="x-request-id: i\r\n")))
    found = run(upstream.base_url, row("m"))
    assert one(found).is_success
    assert "the server's own records could not be read" in found.notes[0]


def test_the_servers_records_are_joined_by_request_id_also_when_they_come_late(upstream: ScriptedUpstream) -> None:
    asked: list[list[str]] = []

    def records(received: Received) -> list[Step]:
        """Nothing is known yet when asked for the first time, and one request still runs at the second time."""
        ids = parse_qs(urlsplit(received.path).query)["request_id"]
        asked.append(ids)
        rows = [{"request_id": each, "result_status": "success", "queue_wait_ms": 7.0, "model": "late"} for each in ids]
        if len(asked) == 4:
            rows[0]["result_status"] = None
        return [whole(json.dumps({"rows": rows if len(asked) > 3 else []}).encode())]

    upstream.answer("m", lambda received: [whole(b'{"choices":[]}', extra=f"x-request-id: {new_id(received)}\r\n")])
    upstream.answer("", records)
    found = run(upstream.base_url, *(row("m", float(number), number) for number in range(201)))
    assert [len(ids) for ids in asked] == [100, 100, 1, 100, 100, 1, 1]
    assert {exchange.server.queue_wait_ms for exchange in found.exchanges} == {7.0}
    assert {exchange.model for exchange in found.exchanges} == {"late"}


def new_id(received: Received) -> str:
    """The id that a server gives to a request: here the client's, turned around."""
    return received.headers["x-request-id"][::-1]


def test_what_the_server_has_no_record_of_is_not_waited_for_for_ever(upstream: ScriptedUpstream) -> None:
    upstream.answer("m", error("429 Too Many Requests", headers="x-request-id: refused\r\n"))
    upstream.answer("", steps(whole(b'{"rows":[]}')))
    found = one(run(upstream.base_url, row("m")))
    assert (found.server.request_id, found.server.result_status, found.status) == ("refused", None, Status.FAILED)


# ---------------------------------------------------------------------- what goes wrong

HEAD = stream_head()
SOME = chunk(event({"content": "a"}))

BROKEN: dict[str, tuple[Any, str]] = {
    "answers-500": (error(), "HTTP 500: it broke"),
    "answers-429": (error("429 Too Many Requests", "slow down"), "HTTP 429: slow down"),
    "redirects": (steps(whole(b"", "302 Found", extra="location: /x\r\n")), "HTTP 302"),
    "never-answers": (steps(HANG), "timed out: no byte came for 1 s"),
    "stops-talking": (steps(HEAD, SOME, HANG), "timed out: no byte came for 1 s"),
    "closes-before": (steps(CLOSE), "ServerDisconnectedError"),
    "closes-in-the-middle": (steps(HEAD, SOME, CLOSE), "ClientPayloadError"),
    "resets-in-the-middle": (steps(HEAD, SOME, 0.05, RESET), "Client"),
    "ends-too-early": (steps(HEAD, SOME, b"0\r\n\r\n"), "the answer ended before it was finished"),
    "error-in-stream": (
        steps(HEAD, SOME, chunk(b'data: {"error":{"message":"engine died"}}\n\ndata: [DONE]\n\n'), b"0\r\n\r\n"),
        "engine died",
    ),
    "is-no-http": (steps(b"nonsense\r\n\r\n", CLOSE), "400"),
    "is-no-json": (steps(whole(b"<html>hello</html>", content_type="text/html")), "<html>hello</html>"),
}


def test_every_failure_is_counted_and_missed_and_the_run_ends(upstream: ScriptedUpstream) -> None:
    for name, (answer, _) in BROKEN.items():
        upstream.answer(name, answer)
    upstream.answer("good", streamed(("a", "b")))
    rows = [row(name, 10.0 * number, number) for number, name in enumerate([*BROKEN, "good", "good"])]
    found = run(upstream.base_url, *rows, timeout_s=1.0)
    by_model = {exchange.row.model or "": exchange for exchange in found.exchanges}
    for name, (_, told) in BROKEN.items():
        assert by_model[name].status is Status.FAILED, name
        assert told in (by_model[name].error or ""), name
    counted = metrics(found)
    assert (counted["total_requests"], counted["successful_requests"]) == (len(rows), 2)
    assert counted["failed_requests"] == len(BROKEN)
    assert counted["slo_attainment_rate"] == pytest.approx(2 / len(rows))
    assert found.is_complete


def test_a_server_that_drips_for_ever_is_given_up(upstream: ScriptedUpstream) -> None:
    upstream.answer("m", lambda _: itertools.chain([HEAD], itertools.cycle([SOME, 0.02])))
    found = one(run(upstream.base_url, row("m"), timeout_s=60.0, total_timeout_s=1.0))
    assert found.error == "timed out: not finished after 1 s"
    assert found.text.startswith("a")


def test_a_server_that_is_not_there_fails_every_request() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        found = run(f"http://127.0.0.1:{held.getsockname()[1]}", row("m"), row("n", 20.0))
    assert [exchange.status for exchange in found.exchanges] == [Status.FAILED] * 2
    assert "ClientConnectorError" in (found.exchanges[0].error or "")


# ---------------------------------------------------------------------- the command


def logos(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("logos")), *arguments]


def test_the_command_and_its_older_name_write_the_same_files(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    write_workload(tmp_path / "w.csv", [row("m", 5.0 * number, number) for number in range(4)])
    old = Path(__file__).resolve().parents[2] / "support" / "scheduling" / "run_api_workload.py"
    common = ["--logos-key", KEY, "--api-base", upstream.base_url, "--latency-slo-ms", "10000"]
    commands = {
        "new": logos("replay", str(tmp_path / "w.csv"), *common),
        "old": [sys.executable, str(old), "--workload", str(tmp_path / "w.csv"), *common],
    }
    for name, command in commands.items():
        done = subprocess.run([*command, "--output", str(tmp_path / f"{name}.csv")], capture_output=True, text=True)
        assert done.returncode == 0
        assert "4 of 4 sent, 0 running, 4 answered, 0 failed" in done.stderr.splitlines()
        assert done.stdout.startswith("4 of 4 answered; 100.0% of all sent within 10000 ms\n")
    written = [sorted(path.name.removeprefix(name) for path in tmp_path.glob(f"{name}_*")) for name in commands]
    charts = [f"_{chart}.png" for chart in ("latency", "prediction", "queue_wait", "slo", "ttft")]
    assert written == [sorted(["_detailed.csv", "_summary.csv", *charts])] * 2


def test_a_run_in_which_nothing_was_answered_ends_with_code_1(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.answer("m", error("401 Unauthorized", "no such key"))
    write_workload(tmp_path / "w.csv", [row("m")])
    command = logos("replay", str(tmp_path / "w.csv"), "--logos-key", KEY, "--api-base", upstream.base_url)
    done = subprocess.run([*command, "--output", str(tmp_path / "x.csv")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 times: HTTP 401: no such key" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_broken_off_writes_what_it_has_marked_incomplete(
    upstream: ScriptedUpstream, tmp_path: Path, number: signal.Signals
) -> None:
    upstream.answer("slow", steps(HEAD, SOME, HANG))
    rows = [row("quick", 0.0), row("slow", 1.0), row("never", 3_600_000.0)]
    write_workload(tmp_path / "w.csv", rows)
    command = logos("replay", str(tmp_path / "w.csv"), "--logos-key", KEY, "--api-base", upstream.base_url)
    command += ["--output", str(tmp_path / "x.csv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not (upstream.of("slow") and upstream.of("quick")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "incomplete: the run was broken off, 1 of 3 requests were not sent" in err
    with (tmp_path / "x_summary.csv").open(newline="") as file:
        summary = {line["metric"]: line["value"] for line in csv.DictReader(file)}
    names = ("total_requests", "successful_requests", "not_sent_requests", "run_complete")
    assert [summary[name] for name in names] == ["2", "1", "1", "0"]
    with (tmp_path / "x_detailed.csv").open(newline="") as file:
        statuses = {line["request_id"]: line["status"] for line in csv.DictReader(file)}
    assert statuses == {"quick-1": "success", "slow-1": "interrupted"}
    assert (tmp_path / "x_latency.png").exists()


def test_results_that_cannot_be_written_are_known_before_anything_is_sent(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        replay([row("m")], Target(upstream.base_url, KEY), tmp_path / "file" / "x.csv")
    assert upstream.received == []
