"""`logos simulate` on the command line: what is printed and written, and what bad input gets."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from logos.cli import run

HEADER = "request_id,arrival_offset,mode,priority,body_json\n"
MESSAGES = '[{""role"":""user"",""content"":""Hello there""}]'
BODY = '"{""model"":""qwen2.5-coder-3b"",""max_tokens"":50,""messages"":' + MESSAGES + '}"'
ROWS = [f"r{number},{number * 900},interactive,mid,{BODY}\n" for number in range(12)]


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    path = tmp_path / "w.csv"
    path.write_text(HEADER + "".join(ROWS), encoding="utf-8")
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(("simulate", *arguments)) == 0
    return capsys.readouterr().out


def test_the_figures_of_each_policy_and_seed_are_printed_as_json(
    workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--cluster", "laptop", "--policy", "ettft,slo", "--seeds", "2", "--slo-ttft-ms", "1000", "--json")
    document = json.loads(told(capsys, str(workload), *options))
    assert [(each["policy"], each["seed"]) for each in document["runs"]] == [
        ("ettft", 1),
        ("ettft", 2),
        ("slo", 1),
        ("slo", 2),
    ]
    for each in document["runs"]:
        assert (each["requests"], each["ok"]) == (12, 12)
        assert set(each["ttft_s"]) == {"mean", "p50", "p95", "p99"}
        assert set(each) >= {"slo_attainment", "latency_s", "queue_wait_s", "tpot_s", "swaps", "swap_seconds"}
        assert each["worst_wait_s"] >= each["per_model"]["qwen2.5-coder-3b"]["mean_wait_s"] >= 0
        assert each["ttft_s"]["mean"] >= document["bound"]["ttft_s"]["mean"] > 0
    assert document["bound"]["clairvoyant"] is None


def test_where_models_take_turns_the_best_schedule_found_stands_beside(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--cluster", "contention", "--policy", "slo", "--json")
    document = json.loads(told(capsys, "poisson:rate=0.3,duration_s=120", *options))
    assert document["bound"]["clairvoyant"]["ok"] == document["runs"][0]["requests"]
    assert document["bound"]["clairvoyant"]["ttft_s"]["mean"] > document["bound"]["ttft_s"]["mean"]


def test_the_same_command_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    first = told(capsys, "--cluster", "laptop", "--policy", "slo,ollama")
    assert told(capsys, "--cluster", "laptop", "--policy", "slo,ollama") == first
    assert "no schedule is below: TTFT mean" in first
    assert told(capsys, "--cluster", "laptop", "--policy", "slo,ollama", "--seed", "2") != first


class Terminal(io.StringIO):
    """What a command takes for a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_long_run_shows_how_far_it_is_and_prints_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--cluster", "laptop", "--policy", "slo")
    elsewhere = told(capsys, *options)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert told(capsys, *options) == elsewhere
    shown = [int(share) for share in re.findall(r"(\d+)%", terminal.getvalue())]
    assert shown == sorted(shown)
    assert len(set(shown)) > 10
    assert shown[-1] == 100


def test_elsewhere_one_run_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(("simulate", "--cluster", "laptop")) == 0
    assert capsys.readouterr().err == ""


SHORT_QUEUES = ("poisson:rate=0.6,duration_s=120", "--cluster", "contention", "--set", "queue_length_max=2")


def test_no_bound_is_claimed_for_runs_that_left_requests_unanswered(capsys: pytest.CaptureFixture[str]) -> None:
    options = (*SHORT_QUEUES, "--no-search", "--policy", "slo,fcfs")
    document = json.loads(told(capsys, *options, "--json"))
    assert document["bound"] == {"seed": 1, "ttft_s": None, "latency_s": None, "clairvoyant": None}
    answered = ", ".join(f"{run['policy']} {run['ok']} of {run['requests']}" for run in document["runs"])
    text = told(capsys, *options)
    assert f"no bound: times are of answered requests, and not all were answered ({answered})" in text
    for each in document["runs"]:
        assert f"{each['policy']} seed 1: {each['requests'] - each['ok']} rejected: no_capacity: " in text
    assert "is below" not in text


def test_only_runs_that_answered_everything_are_compared_with_the_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, *SHORT_QUEUES, "--policy", "slo,ollama")  # the baseline knows no queue_length_max
    assert "ollama: mean TTFT is " in text
    assert "slo: mean TTFT is " not in text
    assert " answered, not comparable with the clairvoyant schedule" in text
    assert "no schedule that answers every request is below: TTFT mean" in text


IMPATIENT = """
nodes: [{name: n, memory_mib_per_gpu: 16384}]
models: [{name: m, engine: {memory_mib: 8000}}]
queue_timeout_s: 1
"""


def test_times_of_a_run_without_an_answer_are_dashes_and_null(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = tmp_path / "impatient.yaml"
    cluster.write_text(IMPATIENT, encoding="utf-8")
    options = ("steady:rate=1,duration_s=3", "--cluster", str(cluster), "--policy", "fcfs")
    (run,) = json.loads(told(capsys, *options, "--json"))["runs"]
    assert (run["ok"], run["ttft_s"]["mean"], run["fairness"]) == (0, None, None)
    assert told(capsys, *options).splitlines()[2].split().count("-") == 7


def test_with_several_seeds_the_bound_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--cluster", "laptop", "--policy", "slo", "--seed", "3")
    assert "no schedule is below: TTFT mean" in told(capsys, *options)
    assert "no schedule is below with seed 3: TTFT mean" in told(capsys, *options, "--seeds", "2")


HEDGED = """
providers: [{name: one}, {name: other}]
models:
  - name: m
    remotes:
      - {provider: one, max_parallel: 8, ttft_s: 0.3, stall_share: 0.4, stall_s: 8.0}
      - {provider: other, max_parallel: 8, ttft_s: 0.3, stall_share: 0.4, stall_s: 8.0}
slo: {interactive: {ttft_ms: 1500.0}}
"""


def test_a_hedged_run_is_not_below_the_bound_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = tmp_path / "hedged.yaml"
    cluster.write_text(HEDGED, encoding="utf-8")
    options = ("poisson:rate=0.2,duration_s=600", "--cluster", str(cluster), "--set", "hedge_share=1", "--json")
    document = json.loads(told(capsys, *options))
    (run,) = document["runs"]
    assert run["hedges_won"] > 0
    for time in ("ttft_s", "latency_s"):
        assert all(run[time][figure] >= least - 1e-9 for figure, least in document["bound"][time].items())


CROWDED = """
nodes:
  - name: n
    memory_mib_per_gpu: 16384
    engines: [{model: a, state: asleep}, {model: b, state: asleep}, {model: c, state: asleep}]
models:
  - {name: a, engine: {memory_mib: 16000, residue_mib: 0}}
  - {name: b, engine: {memory_mib: 8000, residue_mib: 1000}}
  - {name: c, engine: {memory_mib: 10000, residue_mib: 1000}}
"""


def test_where_no_schedule_serves_all_models_none_stands_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Awake, `a` does not fit beside the residues of the others."""
    cluster = tmp_path / "crowded.yaml"
    cluster.write_text(CROWDED, encoding="utf-8")
    options = ("poisson:rate=0.2,duration_s=30", "--cluster", str(cluster), "--policy", "slo")
    assert json.loads(told(capsys, *options, "--json"))["bound"]["clairvoyant"] is None
    assert "clairvoyant" not in told(capsys, *options)


def test_a_setting_of_the_scheduler_changes_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("bursty:rate=2,duration_s=120,max_tokens=100-400", "--cluster", "laptop", "--policy", "ettft")
    assert told(capsys, *options, "--set", "queue_length_max=1") != told(capsys, *options)


FAULTS = (
    "node_lost: [{at_s: 100, node: laptop, back_after_s: 30}]\nremote_down: [{at_s: 200, for_s: 5, provider: cloud}]\n"
)


def test_with_faults_the_recovery_from_each_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(FAULTS, encoding="utf-8")
    options = ("--cluster", "laptop", "--policy", "fcfs,slo")
    harmed = json.loads(told(capsys, *options, "--faults", str(file), "--json"))["runs"]
    fine = json.loads(told(capsys, *options, "--json"))["runs"]
    text = told(capsys, *options, "--faults", str(file))
    for number, each in enumerate(harmed):
        assert each["without_faults"] == {name: fine[number][name] for name in each["without_faults"]}
        assert each["ok"] < fine[number]["ok"] == each["requests"]
        assert [(fault["fault"], fault["at_s"]) for fault in each["faults"]] == [
            ("node_lost laptop", 100.0),
            ("remote_down cloud", 200.0),
        ]
        seconds = each["faults"][0]["recovery_s"]
        assert seconds > 0
        assert f"{each['policy']} seed 1: node_lost laptop at 100 s: recovered after {seconds:.1f} s" in text
        assert f"{each['policy']} seed 1: {each['ok']} answered, {fine[number]['ok']} without the faults" in text
        assert "faults" not in fine[number]


def test_the_output_has_a_row_for_each_request_and_each_transition(
    workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "out" / "here"
    told(capsys, str(workload), "--cluster", "laptop", "--policy", "ettft", "--output", str(directory))
    assert sorted(path.name for path in directory.iterdir()) == [
        "ettft-1-engines.csv",
        "ettft-1-requests.csv",
        "runs.json",
    ]
    with (directory / "ettft-1-requests.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["request_id"] for row in rows] == [f"r{number}" for number in range(12)]
    assert all(row["status"] == "ok" and float(row["ttft_s"]) > 0 for row in rows)
    with (directory / "ettft-1-engines.csv").open(encoding="utf-8", newline="") as file:
        changes = [(row["model"], row["after"]) for row in csv.DictReader(file)]
    assert ("qwen2.5-coder-3b", "awake") in changes
    assert json.loads((directory / "runs.json").read_text(encoding="utf-8"))["runs"][0]["ok"] == 12


def test_what_remote_answers_cost_is_printed_and_is_the_sum_of_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--cluster", "laptop", "--policy", "slo", "--output", str(tmp_path))
    text = told(capsys, *options)
    (run,) = json.loads((tmp_path / "runs.json").read_text(encoding="utf-8"))["runs"]
    with (tmp_path / "slo-1-requests.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    remote = [int(row["cost_micro_cents"]) for row in rows if not row["engine_id"]]
    assert run["cost"] == {
        "currency": "EUR",
        "remote_requests": len(remote),
        "remote_micro_cents": sum(remote),
        "local_micro_cents": 0,
    }
    assert sum(remote) > 0
    assert "times in s, cost in EUR" in text
    assert Decimal(text.splitlines()[2].split()[-1]) == Decimal(sum(remote)) / 10**8
    assert float(text.splitlines()[2].split()[-2]) == pytest.approx(run["gpu_seconds"], abs=0.05)


def test_where_nothing_has_a_price_there_is_no_cost(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "poisson:rate=0.3,duration_s=30", "--cluster", "contention", "--no-search")
    assert text.splitlines()[0].endswith("times in s")
    assert text.splitlines()[2].split()[-1] == "-"


BAD = {
    "an unknown policy": (["--policy", "fastest"], "there is no policy 'fastest' to simulate: choose from fcfs"),
    "an SLO of zero": (["--slo-ttft-ms", "0"], "--slo-ttft-ms"),
    "an SLO that is no number": (["--slo-ttft-ms", "nan"], "nan is not a finite number"),
    "an SLO without end": (["--slo-ttft-ms", "inf"], "inf is not a finite number"),
    "a negative setting": (["--set", "queue_length_max=-5"], "queue_length_max is -5: choose a number from 0"),
    "a setting without end": (["--set", "load_timeout_s=-inf"], "load_timeout_s is -inf: choose a number from 0.001"),
    "a setting that is nan": (["--set", "cost_late=nan"], "cost_late is nan: choose a number from 0"),
    "a pause of nothing": (["--set", "swap_review_s=0"], "swap_review_s is 0.0: choose a number from 0.001"),
    "no policy": (["--policy", ","], "--policy names none"),
    "a policy twice": (["--policy", "slo,fcfs, slo"], "--policy names one twice"),
    "the policy as a setting": (["--set", "policy=ettft"], "--set policy=ettft: the policy is what --policy says"),
    "a setting twice": (["--set", "overtakes_mid=1", "--set", "overtakes_mid=2"], "overtakes_mid is set twice"),
    "an unknown setting": (["--set", "overtake_mid=1"], "the nearest is overtakes_mid"),
    "a setting that cannot be": (["--set", "hedge_share=1.5"], "choose a share from 0 (off) to 1"),
    "a setting that is no number": (["--set", "overtakes_mid=many"], "'many' is no int"),
    "an unknown world": (["--cluster", "nowhere"], "there is no world 'nowhere' and no such file"),
    "faults that cannot be read": (["--faults", "gone.yaml"], "gone.yaml cannot be read: No such file"),
    "a world that cannot be read": (["--cluster", "gone.yaml"], "gone.yaml cannot be read: No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_usage_gets_one_line_and_exit_code_2(
    name: str, workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, line = BAD[name]
    directory = tmp_path / "out"
    given = [
        "simulate",
        str(workload),
        "--cluster",
        "laptop",
        "--policy",
        "fcfs",
        "--output",
        str(directory),
        *arguments,
    ]
    assert run(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err
    assert err.count("\n") == 1
    assert not directory.exists()


BAD_WORKLOADS = {
    "a negative offset": (HEADER + f"r,-5,interactive,mid,{BODY}\n", "line 2, column arrival_offset: '-5' should be 0"),
    "an unknown model": (
        HEADER + ROWS[0] + f"r,5,interactive,mid,{BODY}\n".replace("qwen2.5-coder-3b", "gpt-9"),
        "line 3: the world laptop has no model 'gpt-9'",
    ),
    "a repeated id": (HEADER + ROWS[0] + ROWS[0], "line 3, column request_id: 'r0' is already used in line 2"),
    "an SLO of zero in a row": (
        HEADER.replace("\n", ",slo_ttft_ms\n") + f"r,5,interactive,mid,{BODY},0\n",
        "line 2, column slo_ttft_ms: should be more than 0 milliseconds",
    ),
    "an empty file": ("", "the file is empty"),
}


@pytest.mark.parametrize("name", BAD_WORKLOADS)
def test_a_bad_row_is_named_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, line = BAD_WORKLOADS[name]
    path, directory = tmp_path / "bad.csv", tmp_path / "out"
    path.write_text(text, encoding="utf-8")
    assert run(["simulate", str(path), "--cluster", "laptop", "--policy", "fcfs", "--output", str(directory)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{path}" in err
    assert line in err
    assert err.count("\n") == 1
    assert not directory.exists()


def test_an_output_that_cannot_be_written_leaves_nothing_half_done(
    workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    given = [
        "simulate",
        str(workload),
        "--cluster",
        "laptop",
        "--policy",
        "fcfs",
        "--output",
        str(tmp_path / "file" / "d"),
    ]
    assert run(given) == 1
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_a_run_that_never_ends_is_broken_off_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster, directory = tmp_path / "slow.yaml", tmp_path / "out"
    cluster.write_text(
        "nodes: [{name: n, memory_mib_per_gpu: 9000, engines: [{model: m, state: awake}]}]\n"
        "models: [{name: m, engine: {memory_mib: 8000, pace: {step_base_s: 1000000.0}}}]\n",
        encoding="utf-8",
    )
    given = ["simulate", "poisson:rate=1,duration_s=5", "--cluster", str(cluster), "--output", str(directory)]
    assert run(given) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("logos: the run in slow was broken off: ")
    assert "requests never ended" in err
    assert err.count("\n") == 1
    assert not directory.exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("poisson:rat=1", "unknown key rat: the nearest valid key is rate"),
        ("poisson:arrivals=steady", "arrivals is said twice"),
        ("poisson:rate=1,rate=2", "rate is said twice"),
        (
            "poisson:rate=1,output_tokens=9",
            "output_tokens changes nothing in traffic by arrivals, which has arrivals, ",
        ),
        ("bursty:rates=1-5", "arrivals changes nothing in traffic by rates, which has duration_s, keys, "),
        ("pareto:rate=1", "pareto:rate=1 is no file and no traffic to generate, as steady:rate=2 (steady, poisson, "),
        ("poisson: rate=0", "rate: should be greater than 0"),
        ("poisson:rate=0", "rate: should be greater than 0"),
        ("poisson:rate=0.001,duration_s=1", "nothing arrives"),
        ("poisson:rate=90000,duration_s=1e5", "more than 1000000 requests"),
        ("poisson:rates=1-90000,duration_s=1e5", "could be more than 1000000 requests"),
        ("poisson:rates=1-5,prompt_normal=0-0", "prompt_normal: hardly any length would be from 1 to 32000 tokens"),
        ("poisson:rates=1-5,output_normal=900000-1", "output_normal: hardly any length would be from 1 to 32000"),
        ("poisson:rates=1-5,step_s=5e-324", "a step should last at least 0.001 s"),
    ],
)
def test_traffic_that_cannot_be_is_refused(text: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", text, "--cluster", "laptop", "--policy", "fcfs"]) == 2
    assert line in capsys.readouterr().err
