from __future__ import annotations

from logos.billing.wallet import REFUSAL_KEPT_S, QuotaWallet, Spent
from logos.domain.leases import QuotaRefusal, QuotaSlice, QuotaUse

T = 50.0


def slice_of(
    requests: int | None = 5,
    tokens: int | None = 500,
    concurrent: int | None = None,
    *,
    slice_id: str = "q1-1",
    key_id: int = 1,
) -> QuotaSlice:
    return QuotaSlice(slice_id, key_id, "a", 10.0, requests, tokens, concurrent, 100, 80, 60.0, 1000, 400, 60.0)


def wallet_with(*slices: QuotaSlice, at: float = T) -> QuotaWallet:
    wallet = QuotaWallet("a")
    for each in slices:
        assert wallet.add(each, at)
    return wallet


def spend(wallet: QuotaWallet, tokens: int = 0, now: float = T) -> Spent:
    spent = wallet.spend(1, tokens, now)
    assert spent is not None
    return spent


def test_an_empty_wallet_asks() -> None:
    wallet = QuotaWallet("a")
    assert wallet.spend(1, 10, T) is None
    need = wallet.need(1, 10, T)
    assert (need.key_id, need.tokens, need.wanted_requests, need.wanted_tokens) == (1, 10, 1, 10)
    assert wallet.need(1, 10, T + 20, waiting=30).wanted_requests == 30


def test_no_more_is_spent_than_was_granted() -> None:
    wallet = wallet_with(slice_of(requests=2, tokens=100))
    assert wallet.spend(1, 101, T) is None
    spend(wallet, 60)
    assert wallet.spend(1, 41, T) is None
    spend(wallet, 40)
    assert wallet.spend(1, 0, T) is None


def test_no_more_run_at_once_than_was_granted() -> None:
    wallet = wallet_with(slice_of(requests=None, tokens=None, concurrent=2))
    first, _ = spend(wallet), spend(wallet)
    assert wallet.spend(1, 0, T) is None
    wallet.settle(first, 0, T)
    wallet.settle(first, 0, T)  # a second settlement frees nothing
    spend(wallet)
    assert wallet.spend(1, 0, T) is None


def test_time_runs_from_when_the_slice_was_asked_for() -> None:
    wallet = wallet_with(slice_of(), at=T - 9.5)
    spend(wallet, now=T + 0.4)
    assert wallet.spend(1, 0, T + 0.5) is None
    (use,) = wallet.due(T + 0.5)
    assert use.final


def test_unused_tokens_come_back_and_excess_is_taken_at_settlement() -> None:
    wallet = wallet_with(slice_of(tokens=100))
    wallet.settle(spend(wallet, 100), 30, T)
    wallet.settle(spend(wallet, 70), 90, T)
    assert wallet.spend(1, 0, T) is None
    assert wallet.due(T) == (QuotaUse("q1-1", 2, 120, 0, key_id=1),)


def test_figures_for_headers_count_what_the_granter_and_the_wallet_have_left() -> None:
    wallet = wallet_with(slice_of(requests=5, tokens=500), slice_of(requests=3, tokens=100, slice_id="q1-2"))
    spent = spend(wallet, 50)
    assert (spent.limit_requests, spent.remaining_requests, spent.reset_requests_s) == (100, 80 + 4 + 3, 60.0)
    assert (spent.limit_tokens, spent.remaining_tokens, spent.reset_tokens_s) == (1000, 400 + 450 + 100, 60.0)


def test_a_report_repeats_until_it_has_arrived() -> None:
    wallet = wallet_with(slice_of())
    spent = spend(wallet, 10)
    (use,) = wallet.due(T + 1)
    assert use == QuotaUse("q1-1", 1, 10, 1, key_id=1, age_s=1.0)
    assert wallet.due(T + 2) != ()
    wallet.reported((use,), T + 2)
    assert wallet.due(T + 2) == ()
    other = spend(wallet, 10)
    uses = wallet.due(T + 3)
    assert uses[0].running == 2
    wallet.settle(spent, 10, T + 3)
    wallet.reported(uses, T + 3)  # it changed in the meantime
    assert wallet.due(T + 3)[0].running == 1
    wallet.recall(["q1-1"], T + 4)
    wallet.settle(other, 10, T + 4)
    uses = wallet.due(T + 4)
    wallet.reported(uses, T + 4)
    assert wallet.is_idle()


def test_after_the_final_report_running_requests_are_reported_until_they_end() -> None:
    wallet = wallet_with(slice_of())
    spent = spend(wallet, 10)
    (use,) = wallet.recall(["q1-1"], T + 1)
    assert (use.requests, use.running, use.final) == (1, 1, True)
    assert wallet.spend(1, 0, T + 1) is None
    wallet.reported((use,), T + 1)
    assert wallet.due(T + 1) == ()
    wallet.settle(spent, 4, T + 30)
    (use,) = wallet.due(T + 30)
    assert (use.tokens, use.running, use.final) == (4, 0, True)
    wallet.reported((use,), T + 30)
    assert wallet.is_idle()


def test_a_slice_that_is_used_up_is_closed_by_the_next_report() -> None:
    wallet = wallet_with(slice_of(requests=1))
    spend(wallet)
    assert wallet.due(T)[0].final


def test_a_slice_that_cannot_serve_what_is_asked_goes_back_with_the_need() -> None:
    wallet = wallet_with(slice_of(tokens=100))
    wallet.need(1, 200, T)
    (use,) = wallet.due(T)
    assert (use.slice_id, use.final) == ("q1-1", True)


def test_a_slice_whose_slots_are_busy_is_kept() -> None:
    wallet = wallet_with(slice_of(concurrent=1))
    spend(wallet)
    wallet.need(1, 0, T)
    assert not wallet.due(T)[0].final


def test_a_recalled_slice_that_is_not_here_is_disowned() -> None:
    wallet = QuotaWallet("a")
    assert wallet.recall(["q1-1"], T) == (QuotaUse("q1-1", 0, 0, 0, True),)
    assert not wallet.add(slice_of(), T)
    assert wallet.spend(1, 0, T) is None


def test_the_wish_doubles_while_slices_are_used_up_within_a_second_and_shrinks_when_they_last() -> None:
    wallet = QuotaWallet("a")
    now, wishes = T, []
    for number in range(6):
        need = wallet.need(1, 100, now)
        wishes.append((need.wanted_requests, need.wanted_tokens))
        wallet.add(slice_of(need.wanted_requests, None, slice_id=f"q1-{number}"), now)
        now += 0.5 if number < 3 else 8.0
    assert wishes == [(1, 100), (2, 200), (4, 400), (8, 800), (4, 400), (2, 200)]


def test_the_wish_does_not_grow_while_the_granter_gives_less() -> None:
    wallet = QuotaWallet("a")
    wishes = []
    for number in range(20):
        wishes.append(wallet.need(1, 0, T + number / 10).wanted_requests)
        wallet.add(slice_of(1, slice_id=f"q1-{number}"), T + number / 10)
    assert max(wishes) == 2


def test_a_refusal_is_repeated_for_a_moment_without_asking() -> None:
    wallet = QuotaWallet("a")
    refusal = QuotaRefusal(1, "tokens_per_minute", "key", 100, 30.0)
    wallet.refused(refusal, 50, T)
    assert wallet.refusal(1, 50, T) == refusal
    assert wallet.refusal(1, 49, T) is None  # a smaller one may fit
    assert wallet.refusal(2, 50, T) is None
    assert wallet.refusal(1, 50, T + REFUSAL_KEPT_S) is None


def test_a_refusal_is_forgotten_when_a_request_of_the_key_ends() -> None:
    wallet = wallet_with(slice_of())
    spent = spend(wallet)
    wallet.refused(QuotaRefusal(1, "concurrent", "key", 1, 1.0), 0, T)
    wallet.settle(spent, 0, T)
    assert wallet.refusal(1, 0, T) is None


def test_after_a_restart_of_the_granter_everything_of_the_last_minute_is_told() -> None:
    wallet = wallet_with(slice_of(slice_id="q1-1", requests=2), slice_of(slice_id="q1-2"))
    for _ in range(2):
        wallet.settle(spend(wallet, 10), 10, T)
    wallet.reported(wallet.due(T), T)  # q1-1 is over and forgotten, but for the history
    spend(wallet, 7, T + 5)
    told = wallet.reintroduce(T + 8)
    assert {
        (use.slice_id, use.requests, use.tokens, use.running, use.final, use.key_id, use.age_s) for use in told
    } == {
        ("past-a-1-50", 2, 20, 0, True, 1, 8.0),
        ("q1-2", 1, 7, 1, True, 1, 3.0),
    }
    assert wallet.spend(1, 0, T + 8) is None
    assert [use.slice_id for use in wallet.reintroduce(T + 61)] == ["q1-2"]


def test_a_key_that_is_gone_admits_nothing_more_and_is_still_reported() -> None:
    wallet = wallet_with(slice_of())
    spend(wallet)
    wallet.forget(1)
    assert wallet.spend(1, 0, T) is None
    assert wallet.due(T)[0].final


def test_memory_does_not_grow_with_the_number_of_admissions() -> None:
    wallet = QuotaWallet("a")
    for number in range(5_000):
        now = T + number / 10
        wallet.need(1, 1, now)
        wallet.add(slice_of(1, slice_id=f"q1-{number}"), now)
        wallet.recall([f"lost-{number}"], now)
        wallet.settle(spend(wallet, 1, now), 1, now)
        wallet.reported(wallet.due(now), now)
    sizes = [len(wallet._history), len(wallet._disowned), len(wallet._deadlines), len(wallet._paces)]
    assert sizes[0] <= 62
    assert sizes[1] <= 601
    assert sizes[2] <= 102
    assert (sizes[3], len(wallet._holdings), len(wallet._changed), len(wallet._of_key)) == (1, 0, 0, 0)
