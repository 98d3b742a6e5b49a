import asyncio
import contextlib

import pytest

from logos.workload import progress
from logos.workload.client import Counts


async def shown(counts: Counts, *, is_terminal: bool) -> None:
    """For as long as it takes to begin, then cut off."""
    task = asyncio.create_task(progress.show(counts, is_terminal=is_terminal))
    await asyncio.sleep(0.01)
    counts.answered = 9
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_the_last_state_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    await shown(Counts(total=20, begun=12, failed=1), is_terminal=is_terminal)
    out, err = capsys.readouterr()
    assert out == ""
    assert "12 of 20 sent, 2 running, 9 answered, 1 failed" in err.splitlines()[-1]
    assert ("replay" in err) is is_terminal
