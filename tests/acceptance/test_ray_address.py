"""`logos up --ray-address`: a platform in a Ray cluster that was there before, and that goes on afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.logos_up import Platform, wait_for
from tests.support.ray_cluster import RayCluster, environment_for_logos

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LOGOS = str(Path(sys.executable).with_name("logos"))
LEFT_OUT = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


def test_a_platform_joins_a_running_cluster_and_leaves_it_as_it_was() -> None:
    with RayCluster(environment_for_logos()) as cluster:
        with Platform({"ray": {"address": cluster.address}, "keys": [{"name": "made"}]}) as platform:
            [key] = re.findall(r"Key made, shown this once: (\S+)", platform.output.read_text())
            assert "Root key" not in platform.output.read_text()  # it was chosen by who started the platform
            body = {"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
            with platform.client(key) as client:
                answer = client.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine"})
            assert answer.status_code == 200, answer.text
            assert answer.headers.get_list("x-request-id") != ["mine"]
            platform.wait_until_settled()
            assert platform.rows("SELECT client_request_id, result_status FROM log_entry") == [("mine", "success")]
            assert cluster.actors()
        assert cluster.lives
        wait_for(lambda: not cluster.actors(), 10, lambda: f"left in the cluster: {cluster.actors()}")


def test_a_cluster_that_lacks_a_setting_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    environment = environment_for_logos()
    del environment[LEFT_OUT]
    with RayCluster(environment) as cluster:
        done = subprocess.run(
            [LOGOS, "up", "--ray-address", cluster.address, "--port", "0", "--data-dir", str(tmp_path)],
            env={**os.environ, "LOGOS_ROOT_KEY": "a-root-key-of-the-tests"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        [line] = [line for line in done.stderr.splitlines() if line.startswith("logos: ")]
        assert f"lacks {LEFT_OUT}=" in line
        assert not cluster.actors()
