"""docker-compose.yaml, Dockerfile, cluster/ and deployments/serve.yaml name nothing that does not exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from prometheus_client.parser import text_string_to_metric_families
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from deployments import platform
from deployments.ray_settings import missing, ray_settings
from logos.config import load, read_environment
from logos.telemetry.metrics import Aggregate, Instruments, LedgerFigures

ROOT = Path(__file__).parents[3]
HAPROXY_DIR = Path("/opt/logos/haproxy")
PANELS = json.loads((ROOT / "cluster/grafana-dashboard.json").read_text())["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def served() -> dict[str, set[str]]:
    """Every sample that /metrics has once something of each kind has happened, with its labels."""
    told = Instruments()
    told.request_ended("m", "p", "success", 0.1)
    told.refused("limit")
    told.tokens_used("m", {"prompt": 1})
    told.charged("EUR", 1)
    told.first_token("m", 0.1)
    told.steps({"parse": 0.1})
    whole = Aggregate()
    whole.push("g", told.snapshot(), 0.0)
    text = whole.render(0.0, LedgerFigures()).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_dashboard_asks_for_metrics_and_labels_that_are_served(expression: str) -> None:
    names = re.findall(r"logos_\w+", expression)
    assert names
    known = served()
    for name in names:
        assert name in known
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        for label in labels.split(","):
            assert label.strip() in known[names[0]]


def test_every_metric_that_is_served_is_on_the_dashboard() -> None:
    shown = " ".join(EXPRESSIONS)
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in served()}
    assert not [name for name in families if name not in shown]


def test_prometheus_scrapes_where_metrics_are_served() -> None:
    [job] = document("cluster/prometheus.yaml")["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": ["logos:8080"]}]


def rayservice() -> tuple[dict[str, Any], dict[str, Any]]:
    config, service = yaml.safe_load_all((ROOT / "cluster/rayservice.yaml").read_text())
    return config, service


def test_pods_have_every_setting_that_a_cluster_needs_as_the_table_has_it() -> None:
    table = ray_settings(
        haproxy_dir=HAPROXY_DIR,
        stats_port=0,
        metrics_port=0,
        replica_ports=range(1, 2),
        fallback_ports=(0, 0),
        longest_request_s=3600,
        reload_grace_s=600,
        haproxy=True,
    )
    values = {setting.name: setting.value for setting in table}
    cluster = rayservice()[1]["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        assert not missing(table, given)
        assert given == {name: values[name] for name in given}
    assert cluster["rayVersion"] == ray.__version__


def test_the_image_has_haproxy_where_the_pods_look_for_it() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert f"Path('{HAPROXY_DIR}')" in text
    assert "write_haproxy_wrapper(d)" in text


def test_the_configuration_of_the_pods_is_one(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(rayservice()[0]["data"]["config.yaml"])
    [node] = load(file, environment={}).settings.nodes
    assert not node.simulated


@pytest.mark.parametrize("where", ["deployments/serve.yaml", "cluster/rayservice.yaml"])
def test_serve_understands_what_it_is_given(where: str) -> None:
    given = yaml.safe_load(rayservice()[1]["spec"]["serveConfigV2"]) if "rayservice" in where else document(where)
    [application] = ServeDeploySchema.model_validate(given).applications
    assert application.import_path == f"{platform.build.__module__}:{platform.build.__name__}"
    assert application.name == platform.APP_NAME


def test_ray_up_understands_the_cluster_file() -> None:
    validate_config(prepare_config(document("cluster/ray-cluster.yaml")))


def test_the_compose_file_refers_to_what_it_has() -> None:
    compose = document("docker-compose.yaml")
    services, volumes = compose["services"], set(compose["volumes"])
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {mount.split(":")[0] for mount in service.get("volumes", [])} <= volumes
        assert "image" in service or (ROOT / service["build"] / "Dockerfile").exists()
    assert set(services["tls"]["command"].split()) >= {"--to", "logos:8080"}


def test_what_compose_leaves_empty_is_as_if_it_were_not_there() -> None:
    given = document("docker-compose.yaml")["services"]["logos"]["environment"]
    empty = {name: "" for name, value in given.items() if value.endswith(":-}")}
    assert set(empty) == {"LOGOS_ROOT_KEY", "PROVIDER_NAME", "BASE_URL", "PROVIDER_API_KEY"}
    assert read_environment(empty) == read_environment({})
