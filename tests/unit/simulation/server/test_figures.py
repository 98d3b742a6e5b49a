from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from logos.simulation.engine import EnginePace, TransitionTimes
from logos.simulation.server.figures import Histogram, Metrics
from logos.simulation.server.live import LiveEngine, LiveSettings, Sequence

# The names that the platform and its users rely on.
NAMES = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:kv_cache_usage_perc",
    "vllm:engine_sleep_state",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_to_first_token_seconds_count",
    "vllm:inter_token_latency_seconds_sum",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket",
}


async def test_every_name_is_there_with_the_model_s_name() -> None:
    engine = LiveEngine(LiveSettings(EnginePace(), TransitionTimes()))
    samples = [
        sample
        for family in text_string_to_metric_families(Metrics(engine, 'a "model"').text().decode())
        for sample in family.samples
    ]
    assert {sample.name for sample in samples} >= NAMES
    assert all(sample.labels["model_name"] == 'a "model"' for sample in samples)


async def test_held_requests_are_waiting_and_the_sleep_state_is_told() -> None:
    engine = LiveEngine(LiveSettings(EnginePace(), TransitionTimes(load_s=0, sleep_s=0)))
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(0.01)
    await engine.sleep(2, "wait")
    engine.submit(Sequence(1, 1, asyncio.Event()))
    text = Metrics(engine, "m").text().decode()
    task.cancel()
    assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 1.0' in text
    assert 'vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="deferred"} 1.0' in text
    assert 'vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} 0.0' in text
    assert 'vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="discard_all"} 1.0' in text


def test_a_histogram_counts_up_to_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0)
    histogram.observe(1.5, times=2)
    histogram.observe(9.0)
    assert histogram.buckets() == [("1.0", 1), ("2.0", 3), ("+Inf", 4)]
    assert histogram.sum == 1.0 + 3.0 + 9.0
