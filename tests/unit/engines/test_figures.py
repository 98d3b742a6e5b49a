from __future__ import annotations

import pytest

from logos.engines.figures import EngineFigures, parse_figures

TEXT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b {c}"} 3.0
vllm:num_requests_running{engine="1",model_name="a b {c}"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+06
process_open_fds 12.0
"""


def test_ranks_are_added_up_and_their_kv_use_is_averaged() -> None:
    assert parse_figures(TEXT) == EngineFigures(running=4, waiting=2, kv_usage=0.375, generation_tokens=1_500_000)


def test_labels_may_be_missing() -> None:
    assert parse_figures("vllm:num_requests_running 7\n").running == 7


@pytest.mark.parametrize("text", ["", "<html>", "process_open_fds 12.0\n", "vllm:other 1\n"])
def test_what_is_no_vllm_s_metrics_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no figures"):
        parse_figures(text)
