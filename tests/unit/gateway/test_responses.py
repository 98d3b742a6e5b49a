"""The headers of an answer."""

from __future__ import annotations

from multidict import CIMultiDict

from logos.domain.leases import QuotaSlice
from logos.domain.records import Charge
from logos.gateway.http import header_value
from logos.gateway.responses import ServedBy, rate_limit_headers, response_headers


def headers_for(
    upstream: dict[str, str] | None = None, charge: Charge | None = None, **fields: object
) -> dict[bytes, bytes]:
    served_by = ServedBy("model", "provider", "warm", 1.234, 0.5, 2, charge=charge, **fields)  # type: ignore[arg-type]
    listed = response_headers(CIMultiDict(upstream or {}), served_by, None)
    assert len({name for name, _ in listed}) == len(listed)
    return dict(listed)


def test_what_logos_says_of_its_work() -> None:
    told = headers_for(predicted_ttft_ms=20.0)
    assert told == {
        b"content-type": b"application/json",
        b"x-logos-model": b"model",
        b"x-logos-provider": b"provider",
        b"x-logos-tier": b"warm",
        b"x-logos-queue-ms": b"1.23",
        b"x-logos-overhead-ms": b"0.50",
        b"x-logos-attempts": b"2",
        b"x-logos-predicted-ttft-ms": b"20.00",
    }


def test_a_charge_is_told_only_where_there_is_a_price() -> None:
    assert headers_for(charge=Charge(12345, "EUR"))[b"x-logos-cost"] == b"0.00012345"
    assert b"x-logos-cost" not in headers_for(charge=Charge())


def test_streams_are_not_buffered_on_the_way() -> None:
    told = headers_for({"Content-Type": "text/event-stream; charset=utf-8"})
    assert told[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert (told[b"cache-control"], told[b"x-accel-buffering"]) == (b"no-cache", b"no")


def test_of_the_upstreams_headers_only_the_content_type_and_a_renamed_id_are_passed_on() -> None:
    upstream = {
        "x-request-id": "up",
        "connection": "keep-alive",
        "transfer-encoding": "chunked",
        "set-cookie": "a=b",
        "server": "secret",
        "x-ratelimit-limit-requests": "1",
    }
    assert headers_for(upstream).keys() - headers_for().keys() == {b"x-logos-upstream-request-id"}


def test_header_values_cannot_be_broken_out_of() -> None:
    assert header_value("größe\r\nx: 1\x00") == b"gr%C3%B6%C3%9Fe%0D%0Ax: 1%00"
    assert header_value("plain") == b"plain"
    assert header_value("\ud800") == b"%ED%A0%80"


def test_only_limits_that_exist_are_told() -> None:
    quota = QuotaSlice("s", 1, "g", 10.0, 5, None, None, 600, 595, 0.5)
    assert dict(rate_limit_headers(quota)) == {
        b"x-ratelimit-limit-requests": b"600",
        b"x-ratelimit-remaining-requests": b"595",
        b"x-ratelimit-reset-requests": b"0.50s",
    }
    tokens = QuotaSlice("s", 1, "g", 10.0, 5, 5, None, limit_tokens=100, remaining_tokens=-3, reset_tokens_s=9.0)
    assert dict(rate_limit_headers(tokens))[b"x-ratelimit-remaining-tokens"] == b"0"
