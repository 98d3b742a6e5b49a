from __future__ import annotations

import pytest

from logos.simulation.server.settings import parse


def test_the_defaults_need_only_a_model() -> None:
    settings = parse(["--model", "m"])
    assert (settings.model, settings.host, settings.context_tokens) == ("m", "127.0.0.1", 32_768)
    assert settings.live.pace.kv_cache_tokens >= settings.context_tokens


def test_milliseconds_become_seconds() -> None:
    settings = parse(["--model", "m", "--step-base-ms", "5", "--prefill-per-token-ms", "0.5"])
    assert settings.live.pace.step_base_s == pytest.approx(0.005)
    assert settings.live.pace.prefill_per_token_s == pytest.approx(0.0005)


def test_a_small_cache_makes_a_small_context_and_a_large_context_a_large_cache() -> None:
    assert parse(["--model", "m", "--kv-cache-tokens", "500"]).context_tokens == 500
    assert parse(["--model", "m", "--max-model-len", "200000"]).live.pace.kv_cache_tokens == 200_000


def test_flags_of_a_real_vllm_are_named_and_ignored() -> None:
    assert parse(["--model", "m", "--enforce-eager"]).ignored == ("--enforce-eager",)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--model", "m", "--kv-cache-tokens", "10", "--max-model-len", "11"],
        ["--model", "m", "--max-num-seqs", "0"],
        ["--model", "m", "--load-s", "-1"],
        ["--model", "m", "--time-scale", "-1"],
        ["--model", "m", "--output-shares", "0.5"],
        ["--model", "m", "--output-shares", "1,0"],
        ["--model", "m", "--embedding-dimensions", "0"],
    ],
)
def test_settings_that_do_not_fit_end_with_code_2_and_one_line(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]
