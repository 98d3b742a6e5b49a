"""Quota kept at hand for the next request of a key in use: only far from every limit, and never for long."""

from __future__ import annotations

from logos.billing.quota import QuotaBook
from logos.billing.standby import DENIED_S, KEPT_S, KEYS_MAX, REQUESTS_MIN
from logos.billing.wallet import QuotaWallet, Spent
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice
from logos.domain.nouns import Key, Limits

T = 1000.0


def key(key_id: int = 1, *, team: Limits | None = None, **limits: int | None) -> Key:
    team_id = 7 if team is not None else None
    return Key(key_id, str(key_id), "", b"", team_id=team_id, limits=Limits(**limits), team_limits=team or Limits())


class World:
    """One book and one gateway's wallet; each round is what a gateway exchanges in one call."""

    def __init__(self, *keys: Key) -> None:
        self.book = QuotaBook(1, ttl_s=10.0, grace_s=1.0)
        self.book.apply_limits(keys, T)
        self.wallet = QuotaWallet("a")
        self.now = T
        self.calls = 0

    def admit(self, tokens: int = 10, key_id: int = 1) -> Spent:
        """Whether from the wallet or by asking; refused is an error here."""
        spent = self.wallet.spend(key_id, tokens, self.now)
        if spent is None:
            need = self.wallet.need(key_id, tokens, self.now)
            self.report()
            self.calls += 1
            answer = self.book.request(need, "a", self.now)
            assert isinstance(answer, QuotaSlice), answer
            self.wallet.add(answer, self.now)
            spent = self.wallet.spend(key_id, tokens, self.now)
        assert spent is not None
        return spent

    def report(self) -> None:
        uses = self.wallet.due(self.now)
        for use in uses:
            self.book.use(use, "a", self.now)
        self.wallet.reported(uses, self.now)

    def round(self) -> list[QuotaSlice | QuotaRefusal]:
        needs = self.wallet.standby_needs(self.now)
        self.report()
        answers = []
        for need in needs:
            answer = self.book.request(need, "a", self.now)
            assert isinstance(answer, QuotaSlice | QuotaRefusal)
            answers.append(answer)
            if isinstance(answer, QuotaSlice):
                self.wallet.add_standby(answer, self.now)
            else:
                self.wallet.standby_denied(need.key_id, self.now)
        return answers

    def passes(self, seconds: float) -> None:
        """Time passes, with a round every half second."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 0.5, until)
            self.round()

    def counted(self) -> int:
        """Requests that count against the key's limit."""
        self.report()
        return self.book.counted("key", 1, self.now).requests


def test_a_key_in_use_asks_once_and_then_finds_quota_at_hand() -> None:
    world = World(key(requests_per_minute=600, tokens_per_minute=60_000, concurrent=64))
    for _ in range(20):
        world.wallet.settle(world.admit(), 10, world.now)
        world.passes(7.3)
    assert world.calls == 1


def test_there_is_no_moment_at_which_a_key_in_use_finds_nothing() -> None:
    for half_seconds in range(2, int(KEPT_S * 2)):
        world = World(key(requests_per_minute=600))
        world.admit()
        world.passes(half_seconds / 2)
        world.now += 0.4
        world.admit()
        assert world.calls == 1, f"after {half_seconds / 2} s"


def test_a_slice_that_was_asked_for_and_used_in_part_is_replaced() -> None:
    world = World(key(requests_per_minute=600))
    need = world.wallet.need(1, 10, T, waiting=5)
    answer = world.book.request(need, "a", T)
    assert isinstance(answer, QuotaSlice)
    world.wallet.add(answer, T)
    world.wallet.settle(world.admit(), 10, T)
    world.round()
    assert world.counted() == 1 + REQUESTS_MIN


def test_a_key_that_rests_gives_everything_back() -> None:
    world = World(key(requests_per_minute=600))
    world.wallet.settle(world.admit(), 10, world.now)
    world.passes(KEPT_S - 1.0)
    assert world.counted() == 1 + REQUESTS_MIN
    world.passes(2.0)
    assert world.wallet.is_idle()
    assert world.counted() == 1


def test_what_was_used_counts_for_a_minute_and_hardly_longer() -> None:
    world = World(key(requests_per_minute=600))
    world.wallet.settle(world.admit(), 10, world.now)
    world.passes(1.0)
    world.wallet.settle(world.admit(), 10, world.now)  # from the standby slice, of which more is left
    world.passes(1.0)
    world.wallet.settle(world.admit(), 10, world.now)  # from the next one
    world.passes(58.4)
    assert world.counted() == 2
    world.passes(1.0)
    assert world.counted() == 1


def test_standby_slices_are_a_small_share_and_are_denied_when_half_of_a_limit_is_gone() -> None:
    book = QuotaBook(1)
    book.apply_limits([key(requests_per_minute=80)], T)
    wish = QuotaNeed(1, 0, wanted_requests=100, standby=True)
    answers = [book.request(wish, "a", T) for _ in range(8)]
    assert [answer.requests for answer in answers if isinstance(answer, QuotaSlice)] == [10, 8, 7, 6, 6, 5]
    assert all(isinstance(answer, QuotaRefusal) for answer in answers[6:])
    assert isinstance(book.request(QuotaNeed(1, 0), "a", T), QuotaSlice)


def test_a_team_near_its_limit_denies_standby_to_its_keys() -> None:
    team = Limits(tokens_per_minute=1000)
    book = QuotaBook(1)
    book.apply_limits([key(1, team=team), key(2, team=team)], T)
    assert isinstance(book.request(QuotaNeed(1, 100, standby=True), "a", T), QuotaSlice)
    assert isinstance(book.request(QuotaNeed(1, 500), "a", T), QuotaSlice)
    answer = book.request(QuotaNeed(2, 10, standby=True), "a", T)
    assert isinstance(answer, QuotaRefusal)
    assert answer.scope == "team"


def test_a_request_too_large_for_a_small_share_does_not_stand_by() -> None:
    book = QuotaBook(1)
    book.apply_limits([key(tokens_per_minute=800)], T)
    assert isinstance(book.request(QuotaNeed(1, 101, standby=True), "a", T), QuotaRefusal)
    assert isinstance(book.request(QuotaNeed(1, 100, standby=True), "a", T), QuotaSlice)


def test_nothing_stands_by_before_gateways_have_said_what_they_hold() -> None:
    book = QuotaBook(1, ready_at=T + 1.0)
    book.apply_limits([key(requests_per_minute=100)], T)
    assert isinstance(book.request(QuotaNeed(1, 0, standby=True), "a", T), QuotaRefusal)
    assert isinstance(book.request(QuotaNeed(1, 0, standby=True), "a", T + 1.0), QuotaSlice)


def test_a_key_that_was_denied_gives_its_standby_back_and_asks_again_later() -> None:
    world = World(key(requests_per_minute=32))
    world.admit()
    assert isinstance(world.round()[0], QuotaSlice)
    world.admit()
    for _ in range(20):
        world.book.request(QuotaNeed(1, 0), "b", world.now)
    assert world.counted() == 1 + 3 + 20
    [denied] = world.round()
    assert isinstance(denied, QuotaRefusal)
    assert world.counted() == 1 + 1 + 20
    world.now += DENIED_S - 0.1
    assert world.round() == []
    world.now += 0.2
    assert len(world.round()) == 1


def test_a_burst_is_remembered_for_the_next_one() -> None:
    world = World(key(requests_per_minute=100_000))
    for _ in range(32):
        world.admit()
    asked = world.calls
    world.passes(7.0)
    for _ in range(32):
        world.admit()
    assert world.calls == asked


def test_no_more_keys_stand_by_than_a_gateway_can_look_after() -> None:
    world = World(*(key(number, requests_per_minute=60) for number in range(1, KEYS_MAX + 10)))
    for number in range(1, KEYS_MAX + 10):
        world.admit(key_id=number)
    assert len(world.round()) == KEYS_MAX
    world.passes(KEPT_S + 11.0)
    world.admit(key_id=KEYS_MAX + 5)
    assert len(world.round()) == 1


def test_a_key_that_is_gone_does_not_stand_by() -> None:
    world = World(key(requests_per_minute=60))
    world.admit()
    world.wallet.forget(1)
    assert world.round() == []
