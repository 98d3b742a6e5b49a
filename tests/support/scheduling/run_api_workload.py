"""`logos replay` under the name that earlier users know.

    python tests/support/scheduling/run_api_workload.py --logos-key KEY --workload FILE.csv \
        --api-base http://localhost:8080 --latency-slo-ms 10000 --output tests/results/scheduling/api_benchmark.csv

Every option of `logos replay` works as well; without --output the results go to tests/results/scheduling/.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
RESULTS = CHECKOUT / "tests" / "results" / "scheduling"


def main(arguments: list[str]) -> int:
    """The exit code of `logos replay`."""
    try:
        from logos.cli import run
    except ModuleNotFoundError:  # a Python that logos is not installed into, but its dependencies are
        sys.path.insert(0, str(CHECKOUT))
        from logos.cli import run
    says_where = any(each.startswith(("--output", "--compare", "--help", "-h")) for each in arguments)
    now = f"{dt.datetime.now(dt.UTC):%Y%m%d_%H%M%S}"
    output = [] if says_where else ["--output", str(RESULTS / f"api_benchmark_{now}.csv")]
    return run(["replay", *arguments, *output])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
