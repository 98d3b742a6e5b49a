from __future__ import annotations

import pytest

from logos.billing.holdings import Amounts
from logos.billing.quota import QuotaBook, RecallNeeded
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.nouns import Key, Limits

T = 1000.0


def key(key_id: int = 1, *, team_id: int | None = None, team: Limits | None = None, **limits: int | None) -> Key:
    return Key(key_id, str(key_id), "", b"", team_id=team_id, limits=Limits(**limits), team_limits=team or Limits())


def book_of(*keys: Key, **options: float) -> QuotaBook:
    book = QuotaBook(5, **options)  # type: ignore[arg-type]
    book.apply_limits(keys, T)
    return book


def granted(
    book: QuotaBook, at: float, *, gateway: str = "a", key_id: int = 1, tokens: int = 0, **need: int
) -> QuotaSlice:
    answer = book.request(QuotaNeed(key_id, tokens, **need), gateway, at)
    assert isinstance(answer, QuotaSlice), answer
    return answer


def final(slice_: QuotaSlice, requests: int = 1, tokens: int = 0, running: int = 0, age_s: float = 0.0) -> QuotaUse:
    return QuotaUse(slice_.slice_id, requests, tokens, running, True, slice_.key_id, age_s)


def test_a_slice_is_at_least_what_is_needed_and_at_most_a_share_of_what_is_left() -> None:
    book = book_of(key(requests_per_minute=100, tokens_per_minute=1000, concurrent=8))
    first = granted(book, T, tokens=10, wanted_requests=50, wanted_tokens=100)
    assert (first.requests, first.tokens, first.concurrent) == (25, 100, 4)
    assert granted(book, T, tokens=800).tokens == 800


def test_slices_shrink_to_one_as_the_limit_nears() -> None:
    book = book_of(key(requests_per_minute=20))
    sizes = [granted(book, T, wanted_requests=100).requests for _ in range(11)]
    assert sizes == [5, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1]
    assert sum(sizes) == 20


def test_what_is_not_limited_is_none_in_the_slice() -> None:
    slice_ = granted(book_of(key(concurrent=4)), T, tokens=10**9)
    assert (slice_.requests, slice_.tokens, slice_.concurrent) == (None, None, 1)
    assert (slice_.limit_requests, slice_.remaining_requests) == (None, None)


def test_a_slice_counts_in_full_from_its_grant_and_its_unused_part_is_free_at_the_final_report() -> None:
    book = book_of(key(requests_per_minute=40))
    slice_ = granted(book, T, wanted_requests=10)
    assert book.counted("key", 1, T) == Amounts(10, 0, 0)
    book.use(final(slice_, requests=3), "a", T + 2)
    assert book.counted("key", 1, T + 2).requests == 3


def test_what_was_used_counts_for_sixty_seconds_after_the_last_admission_not_after_the_report() -> None:
    book = book_of(key(requests_per_minute=10))
    book.use(final(granted(book, T), age_s=4.0), "a", T + 5)  # admitted at T + 1
    assert book.counted("key", 1, T + 61).requests == 1
    assert book.counted("key", 1, T + 61.2).requests == 0


def test_a_silent_slice_counts_in_full_for_sixty_seconds_more_or_until_its_report_comes() -> None:
    book = book_of(key(requests_per_minute=10), ttl_s=10.0, grace_s=1.0)
    slice_ = granted(book, T, wanted_requests=2)
    assert slice_.requests == 2
    assert book.expire(T + 10.9) == ()
    assert book.expire(T + 11.1) == (slice_.slice_id,)
    assert book.counted("key", 1, T + 70).requests == 2
    book.use(final(slice_, requests=1, age_s=60.0), "a", T + 70.5)  # admitted at T + 10.5
    assert book.counted("key", 1, T + 70.7).requests == 0
    other = granted(book, T + 80, wanted_requests=2)
    assert book.counted("key", 1, T + 80 + 70.9).requests == other.requests
    assert book.counted("key", 1, T + 80 + 71.1).requests == 0


def test_running_requests_count_until_they_are_reported_as_ended() -> None:
    book = book_of(key(concurrent=3))
    slice_ = granted(book, T, wanted_requests=3)
    book.use(final(slice_, running=1), "a", T + 1)
    assert book.counted("key", 1, T + 500).running == 1
    book.use(QuotaUse(slice_.slice_id, 1, 0, 0), "a", T + 501)  # from before the final report, and late
    assert book.counted("key", 1, T + 501).running == 1
    book.use(final(slice_, running=0), "a", T + 502)
    assert book.is_idle(T + 502)


def test_a_lost_gateway_runs_nothing_and_may_have_admitted_all_until_then() -> None:
    book = book_of(key(requests_per_minute=40, concurrent=4))
    granted(book, T, wanted_requests=4)
    other = granted(book, T, gateway="b", wanted_requests=4)
    book.gateway_lost("a", T + 2)
    assert book.counted("key", 1, T + 2) == Amounts(8, 0, other.concurrent or 0)
    assert book.counted("key", 1, T + 61.9).requests == 8
    assert book.counted("key", 1, T + 62.2).requests == 4


def test_unused_slices_of_others_are_recalled_before_anything_is_refused() -> None:
    book = book_of(key(requests_per_minute=4))
    held = [granted(book, T, gateway=name) for name in "abcd"]
    book.use(final(held[0]), "a", T)
    answer = book.request(QuotaNeed(1, 0), "e", T + 1)
    assert isinstance(answer, RecallNeeded)
    assert answer.slice_ids in {(each.slice_id,) for each in held[1:]}
    for slice_ in held[1:3]:
        book.use(final(slice_), slice_.gateway_id, T + 1)
    answer = book.request(QuotaNeed(1, 0), "e", T + 1)
    assert answer == RecallNeeded((held[3].slice_id,), T + 11)
    book.use(final(held[3], requests=0), "d", T + 1)
    assert granted(book, T + 1, gateway="e").requests == 1
    book.use(QuotaUse("q5-5", 1, 0, 1), "e", T + 1)
    refused = book.request(QuotaNeed(1, 0), "e", T + 1)
    assert refused == QuotaRefusal(1, "requests_per_minute", "key", 4, pytest.approx(59.1, abs=0.11))


def test_what_ran_when_it_was_last_reported_may_have_ended_and_is_asked_back() -> None:
    book = book_of(key(concurrent=1, tokens_per_minute=100))
    slice_ = granted(book, T, tokens=90)
    book.use(QuotaUse(slice_.slice_id, 1, 90, 1), "a", T + 1)
    assert book.request(QuotaNeed(1, 50), "b", T + 2) == RecallNeeded((slice_.slice_id,), T + 11)
    book.use(final(slice_, tokens=10, running=0), "a", T + 2)
    assert granted(book, T + 2, gateway="b", tokens=50).concurrent == 1


def test_without_waiting_for_recalls_it_is_refused_with_the_time_at_which_it_may_fit() -> None:
    book = book_of(key(requests_per_minute=2))
    book.use(final(granted(book, T)), "a", T)
    granted(book, T + 10)
    answer = book.request(QuotaNeed(1, 0), "b", T + 20, recall=False)
    assert isinstance(answer, QuotaRefusal)
    assert answer.retry_after_s == pytest.approx(40.1, abs=0.11)


def test_key_and_team_must_both_allow() -> None:
    team = Limits(requests_per_minute=3)
    book = book_of(
        key(1, team_id=9, team=team, requests_per_minute=2), key(2, team_id=9, team=team, requests_per_minute=2)
    )
    for _ in range(2):
        book.use(final(granted(book, T)), "a", T)
    refused = book.request(QuotaNeed(1, 0), "a", T)
    assert isinstance(refused, QuotaRefusal)
    assert (refused.scope, refused.limit_value) == ("key", 2)
    book.use(final(granted(book, T, key_id=2)), "a", T)
    refused = book.request(QuotaNeed(2, 0), "a", T)
    assert isinstance(refused, QuotaRefusal)
    assert (refused.scope, refused.limit_value) == ("team", 3)


def test_the_tighter_of_key_and_team_is_shown() -> None:
    book = book_of(key(1, team_id=9, team=Limits(requests_per_minute=10), requests_per_minute=100))
    slice_ = granted(book, T)
    assert (slice_.limit_requests, slice_.remaining_requests) == (10, 9)


def test_tokens_not_used_after_all_return_even_after_the_final_report() -> None:
    book = book_of(key(tokens_per_minute=1000))
    slice_ = granted(book, T, tokens=900)
    book.use(final(slice_, tokens=900, running=1), "a", T + 1)
    assert isinstance(book.request(QuotaNeed(1, 900), "a", T + 2), QuotaRefusal)
    book.use(final(slice_, tokens=50, running=0), "a", T + 3)
    assert book.counted("key", 1, T + 3).tokens == 50
    assert granted(book, T + 3, tokens=900).tokens == 900


def test_tokens_beyond_the_estimate_count_from_their_report() -> None:
    book = book_of(key(tokens_per_minute=1000))
    slice_ = granted(book, T, tokens=100)
    book.use(final(slice_, tokens=100, running=1), "a", T + 1)
    book.use(final(slice_, tokens=700, running=0), "a", T + 30)
    assert book.counted("key", 1, T + 30).tokens == 700
    assert book.counted("key", 1, T + 62).tokens == 600
    assert book.counted("key", 1, T + 91).tokens == 0


def test_a_request_above_the_whole_limit_is_refused_at_once() -> None:
    book = book_of(key(tokens_per_minute=100))
    refused = book.request(QuotaNeed(1, 101), "a", T)
    assert refused == QuotaRefusal(1, "tokens_per_minute", "key", 100, 60.0)


def test_a_limit_of_zero_allows_nothing() -> None:
    book = book_of(key(requests_per_minute=0))
    assert isinstance(book.request(QuotaNeed(1, 0), "a", T), QuotaRefusal)


def test_a_key_that_is_not_known_gets_nothing() -> None:
    refused = book_of().request(QuotaNeed(3, 0), "a", T)
    assert refused == QuotaRefusal(3, "requests_per_minute", "key", 0, 60.0)


def test_repeated_and_unknown_reports_change_nothing() -> None:
    book = book_of(key(requests_per_minute=10))
    slice_ = granted(book, T, wanted_requests=2)
    for _ in range(3):
        book.use(final(slice_, requests=2), "a", T + 1)
    assert book.counted("key", 1, T + 1).requests == 2
    book.expire(T + 5)
    book.use(final(slice_, requests=2), "a", T + 6)  # closed before, and forgotten
    book.use(QuotaUse("q4-77", 5, 0, 0, True, key_id=99), "a", T + 6)  # of a key that is gone
    assert book.counted("key", 1, T + 6).requests == 2


def test_slices_of_an_earlier_epoch_are_adopted_once() -> None:
    book = book_of(key(requests_per_minute=10, concurrent=5))
    for at in (T, T + 0.5, T + 3):
        book.expire(at)
        book.use(QuotaUse("q4-77", 5, 0, 2, True, key_id=1, age_s=20.0), "a", at)
        assert book.counted("key", 1, at) == Amounts(5, 0, 2)
    for at in (T + 4, T + 8):
        book.use(QuotaUse("q4-77", 5, 0, 0, True, key_id=1, age_s=at - T + 20.0), "a", at)
        book.expire(at + 2)
        assert book.counted("key", 1, at) == Amounts(5, 0, 0)
    assert book.counted("key", 1, T + 40.2) == Amounts(0, 0, 0)


def test_nothing_is_granted_before_gateways_could_tell_what_they_hold() -> None:
    book = book_of(key(requests_per_minute=10), ready_at=T + 2)
    assert book.request(QuotaNeed(1, 0), "a", T) == RecallNeeded((), T + 2)
    assert granted(book, T + 2).requests == 1


def test_lower_limits_and_removed_keys_recall_what_is_out() -> None:
    book = book_of(key(1, requests_per_minute=100), key(2, requests_per_minute=100), key(3, concurrent=3))
    slices = [granted(book, T, key_id=key_id, wanted_requests=20) for key_id in (1, 2, 3)]
    assert book.apply_limits([key(1, requests_per_minute=100), key(2, requests_per_minute=100), key(3)], T) == ()
    changed = [key(1, requests_per_minute=10), key(3, requests_per_minute=10)]
    assert book.apply_limits(changed, T) == tuple(each.slice_id for each in slices)
    book.use(final(slices[0], requests=12), "a", T)
    refused = book.request(QuotaNeed(1, 0), "a", T)
    assert isinstance(refused, QuotaRefusal)
    assert refused.limit_value == 10


def test_memory_does_not_grow_with_the_number_of_admissions() -> None:
    book = book_of(key(requests_per_minute=100_000))
    for number in range(20_000):
        at = T + number / 100
        book.use(final(granted(book, at)), "a", at)
    assert len(book._held) <= 200
    assert len(book._scopes["key", 1].window) <= 602
    assert book.is_idle(at + 61)
