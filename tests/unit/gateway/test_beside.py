from __future__ import annotations

from logos.gateway.beside import Beside
from logos.scheduling.events import Met

TOKEN_S = 0.001


def test_the_first_meets_nobody_and_the_second_meets_its_prompt() -> None:
    beside = Beside()
    beside.started("a", 100, 10.0)
    beside.started("b", 200, 10.25)
    assert beside.ended("a", 11.0, TOKEN_S) == (Met(100, 0), 0.25 + 2 * 0.75)
    met, batch = beside.ended("b", 11.0, TOKEN_S) or (None, 0.0)
    assert met is not None
    assert (met.prompt_tokens, met.running, met.prefill_tokens, met.prefill_pairs) == (200, 1, 100, 100 * 50)
    assert met.prefill_elapsed_s == 0.25
    assert batch == 2.0


def test_a_prompt_with_a_first_token_is_not_ahead_of_anybody() -> None:
    beside = Beside()
    beside.started("a", 100, 10.0)
    beside.first_token("a", 10.1, TOKEN_S)
    beside.started("b", 200, 10.5)
    assert (beside.ended("b", 11.0, TOKEN_S) or (None,))[0] == Met(200, 1)


def test_company_is_counted_from_the_first_token_on() -> None:
    beside = Beside()
    beside.started("a", 100, 10.0)
    beside.started("b", 100, 10.0)
    beside.started("c", 100, 10.0)
    beside.first_token("a", 11.0, TOKEN_S)
    beside.ended("b", 12.0, TOKEN_S)
    beside.ended("c", 13.0, TOKEN_S)
    _, batch = beside.ended("a", 15.0, TOKEN_S) or (None, 0.0)
    assert batch == (3 + 2 + 1 + 1) / 4


def test_who_never_started_there_has_met_nothing_and_nothing_is_kept_of_who_left() -> None:
    beside = Beside()
    beside.first_token("a", 10.0, TOKEN_S)
    assert beside.ended("a", 10.0, TOKEN_S) is None
    beside.started("a", 100, 10.0)
    beside.ended("a", 11.0, TOKEN_S)
    assert len(beside) == 0
    assert beside.ended("a", 12.0, TOKEN_S) is None
    beside.started("b", 100, 20.0)
    assert beside.ended("b", 20.0, TOKEN_S) == (Met(100, 0), 1.0)
