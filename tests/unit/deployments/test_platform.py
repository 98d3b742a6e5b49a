from __future__ import annotations

from deployments.platform import SIMULATED_START_S, simulated_times
from logos.config import PaceSettings


def test_a_simulated_node_says_what_it_is_told_to_take_and_what_its_processes_do() -> None:
    assert simulated_times(PaceSettings(load_s=40.0, wake_s=3.0, time_scale=0.5)) == {
        "load_s": 20.0 + SIMULATED_START_S,
        "wake_s": 1.5,
        "sleep_s": 0.5,
    }
    assert simulated_times(PaceSettings())["load_s"] == 2.0 + SIMULATED_START_S
