"""Book and wallets together, in any interleaving: the limits hold as seen from outside, and nothing is wasted."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logos.billing.quota import QuotaBook, RecallNeeded
from logos.billing.wallet import QuotaWallet, Spent
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.nouns import Key, Limits

GATEWAYS = ("a", "b", "c")
TEAM = 7
TTL_S, GRACE_S = 10.0, 1.0


@dataclass
class Admission:
    at: float
    key_id: int
    gateway: str
    slice_id: str
    estimate: int
    actual: int | None = None
    running: bool = True

    @property
    def booked(self) -> int:
        """What is known of it: the estimate, then the actual number; excess is exempt from the promise."""
        return self.estimate if self.actual is None else min(self.actual, self.estimate)


@dataclass
class World:
    """Gateways, their clients, and the accounts actor, sharing one clock. Calls may be lost on either way."""

    own: Limits
    team: Limits
    now: float = 1000.0
    epoch: int = 1
    wallets: dict[str, QuotaWallet] = field(default_factory=dict)
    admissions: list[Admission] = field(default_factory=list)
    open: dict[str, list[tuple[Spent, Admission]]] = field(default_factory=dict)
    inbox: dict[str, list[tuple[QuotaSlice, float]]] = field(default_factory=dict)
    granted: dict[str, tuple[QuotaSlice, float]] = field(default_factory=dict)
    finals: set[str] = field(default_factory=set)
    asked: int = 0

    def __post_init__(self) -> None:
        self.keys = [
            Key(
                id=key_id, name=str(key_id), prefix="", digest=b"", team_id=TEAM, limits=self.own, team_limits=self.team
            )
            for key_id in (1, 2)
        ]
        self.new_book()
        for name in GATEWAYS:
            self.new_gateway(name)

    def new_book(self) -> None:
        self.book = QuotaBook(self.epoch, ttl_s=TTL_S, grace_s=GRACE_S)
        self.book.apply_limits(self.keys, self.now)

    def new_gateway(self, name: str) -> None:
        self.wallets[name] = QuotaWallet(name)
        self.open[name] = []
        self.inbox[name] = []

    # What happens

    def arrive(self, name: str, key_id: int, tokens: int, latency_s: float, late: bool, lost: bool) -> None:
        """A request: admitted from the wallet, or after asking, or refused. `late`: the answer stays on its way;
        `lost`: it never comes."""
        if self.spend(name, key_id, tokens):
            return
        need = self.wallets[name].need(key_id, tokens, self.now)
        sent_at = self.now
        answer = self.ask(name, need, latency_s)
        if isinstance(answer, QuotaRefusal):
            self.check_refusal(need, answer)
        elif not lost:
            self.inbox[name].append((answer, sent_at))
            self.now += latency_s
            if not late:
                self.deliver(name)
                self.spend(name, key_id, tokens)

    def ask(self, name: str, need: QuotaNeed, latency_s: float) -> QuotaSlice | QuotaRefusal:
        self.asked += 1
        self.report(name)
        self.now += latency_s
        while isinstance(answer := self.book.request(need, name, self.now), RecallNeeded):
            before = len(self.finals)
            self.recall(answer.slice_ids)
            assert len(self.finals) > before, "a recall that brings nothing back would be repeated for ever"
            self.now += latency_s
        if isinstance(answer, QuotaSlice):
            self.granted[answer.slice_id] = (answer, self.now)
        return answer

    def stand_by(self, name: str, latency_s: float, late: bool) -> None:
        """A gateway's report with the needs of keys in use; `late`: the slices arrive only with the next delivery."""
        needs, sent_at = self.wallets[name].standby_needs(self.now), self.now
        self.report(name)
        self.now += latency_s
        for need in needs:
            answer = self.book.request(need, name, self.now)
            assert not isinstance(answer, RecallNeeded), "nothing is recalled for the sake of standby"
            if isinstance(answer, QuotaRefusal):
                self.wallets[name].standby_denied(need.key_id, self.now)
                continue
            self.granted[answer.slice_id] = (answer, self.now)
            if late:
                self.inbox[name].append((answer, sent_at))
            else:
                self.wallets[name].add_standby(answer, sent_at)

    def spend(self, name: str, key_id: int, tokens: int) -> bool:
        spent = self.wallets[name].spend(key_id, tokens, self.now)
        if spent is None:
            return False
        admission = Admission(self.now, key_id, name, spent.slice_id, tokens)
        self.admissions.append(admission)
        self.open[name].append((spent, admission))
        self.check_limits()
        return True

    def deliver(self, name: str) -> None:
        for slice_, sent_at in self.inbox[name]:
            self.wallets[name].add(slice_, sent_at)
        self.inbox[name] = []

    def end(self, name: str, place: int, actual: int) -> None:
        if self.open[name]:
            spent, admission = self.open[name].pop(place % len(self.open[name]))
            admission.running, admission.actual = False, actual
            self.wallets[name].settle(spent, actual, self.now)

    def report(self, name: str, call_lost: bool = False, reply_lost: bool = False) -> None:
        uses = self.wallets[name].due(self.now)
        if not call_lost:
            self.hear(name, uses)
        if not call_lost and not reply_lost:
            self.wallets[name].reported(uses, self.now)

    def hear(self, name: str, uses: tuple[QuotaUse, ...]) -> None:
        for use in uses:
            self.book.use(use, name, self.now)
            if use.final:
                self.finals.add(use.slice_id)

    def expire(self) -> None:
        self.recall(self.book.expire(self.now))

    def recall(self, slice_ids: tuple[str, ...]) -> None:
        for slice_id in slice_ids:
            holder = self.granted[slice_id][0].gateway_id
            self.hear(holder, self.wallets[holder].recall([slice_id], self.now))

    def lose(self, name: str) -> None:
        """The gateway dies with all that it ran, and another one takes its name's place."""
        self.book.gateway_lost(name, self.now)
        for _, admission in self.open[name]:
            admission.running = False
        self.new_gateway(name)
        self.finals |= {slice_id for slice_id, (slice_, _) in self.granted.items() if slice_.gateway_id == name}

    def restart_book(self) -> None:
        """The accounts actor restarts and every gateway tells what it knows. What a dead one did is lost."""
        self.epoch += 1
        self.new_book()
        self.granted, self.finals = {}, set()
        for name, wallet in self.wallets.items():
            self.inbox[name] = []
            for _ in range(2):  # the first reply is lost
                uses = wallet.reintroduce(self.now)
                self.hear(name, uses)
            wallet.reported(uses, self.now)

    # What must hold

    def recent(self, key_id: int | None) -> list[Admission]:
        return [
            each for each in self.admissions if each.at > self.now - 60.0 and (key_id is None or each.key_id == key_id)
        ]

    def scopes(self) -> list[tuple[str, int, int | None, Limits]]:
        return [("key", 1, 1, self.own), ("key", 2, 2, self.own), ("team", TEAM, None, self.team)]

    def running(self, key_id: int | None) -> int:
        return sum(each.running and (key_id is None or each.key_id == key_id) for each in self.admissions)

    def check_limits(self) -> None:
        """Seen from outside: windows that end at an admission hold the most."""
        for _, _, key_id, limits in self.scopes():
            recent = self.recent(key_id)
            if limits.requests_per_minute is not None:
                assert len(recent) <= limits.requests_per_minute
            if limits.tokens_per_minute is not None:
                assert sum(each.booked for each in recent) <= limits.tokens_per_minute
            if limits.concurrent is not None:
                assert self.running(key_id) <= limits.concurrent

    def check_nothing_is_forgotten(self) -> None:
        """The book may count too much for a while, never too little."""
        for kind, owner, key_id, limits in self.scopes():
            counted, recent = self.book.counted(kind, owner, self.now), self.recent(key_id)
            if limits.requests_per_minute is not None:
                assert counted.requests >= len(recent)
            if limits.tokens_per_minute is not None:
                assert counted.tokens >= sum(each.booked for each in recent)
            if limits.concurrent is not None:
                assert counted.running >= self.running(key_id)

    def check_refusal(self, need: QuotaNeed, refusal: QuotaRefusal) -> None:
        """What is refused would not fit even with everything that lies unused in slices that can be recalled."""
        owner, key_id = (need.key_id, need.key_id) if refusal.scope == "key" else (TEAM, None)
        place = ("requests_per_minute", "tokens_per_minute", "concurrent").index(refusal.limit)
        counted = self.book.counted(refusal.scope, owner, self.now)[place]
        unused = 0
        for slice_id, (slice_, granted_at) in self.granted.items():
            live = self.now <= granted_at + TTL_S + GRACE_S and slice_id not in self.finals
            if live and (key_id is None or slice_.key_id == key_id):
                unused += max(self.unused(slice_)[place], 0)
        assert refusal.limit_value - counted + unused < (1, need.tokens, 1)[place]
        assert 0 < refusal.retry_after_s <= 60.0 + TTL_S + GRACE_S

    def unused(self, slice_: QuotaSlice) -> tuple[int, int, int]:
        under = [each for each in self.admissions if each.slice_id == slice_.slice_id]
        tokens = sum(each.estimate if each.actual is None else each.actual for each in under)
        granted = (slice_.requests or 0, slice_.tokens or 0, slice_.concurrent or 0)
        return granted[0] - len(under), granted[1] - tokens, granted[2] - sum(each.running for each in under)

    def come_to_rest(self) -> None:
        for name in GATEWAYS:
            while self.open[name]:
                self.end(name, 0, 1)
            self.deliver(name)
        self.now += TTL_S + GRACE_S
        for name in GATEWAYS:
            self.report(name)
            assert self.wallets[name].is_idle()
        self.now += 0.1
        self.expire()
        self.now += 60.0 + TTL_S + GRACE_S + 0.2


def limits(low: int) -> st.SearchStrategy[Limits]:
    """Often so low that slices shrink to one, sometimes so high that some stand by."""
    return st.builds(
        Limits,
        requests_per_minute=st.none() | st.integers(low, 12) | st.integers(16, 40),
        tokens_per_minute=st.none() | st.integers(low * 50, 600) | st.integers(1000, 4000),
        concurrent=st.none() | st.integers(low, 6) | st.integers(8, 20),
    )


gateway = st.sampled_from(GATEWAYS)
latency = st.sampled_from([0.0, 0.01, 0.3])
arrivals = st.tuples(
    st.just("arrive"),
    gateway,
    st.sampled_from([1, 2]),
    st.sampled_from([0, 10, 60, 200]),
    latency,
    st.sampled_from([False, False, False, True]),
    st.sampled_from([False, False, False, False, True]),
)
steps = st.one_of(
    arrivals,
    arrivals,
    arrivals,
    st.tuples(st.just("end"), gateway, st.integers(0, 5), st.sampled_from([0, 5, 60, 300])),
    st.tuples(st.just("tick"), st.sampled_from([0.05, 0.5, 3.0, 12.0, 31.0, 48.0, 59.9])),
    st.tuples(st.just("report"), gateway, st.booleans(), st.booleans()),
    st.tuples(st.just("deliver"), gateway),
    st.tuples(st.just("stand_by"), gateway, latency, st.booleans()),
    st.just(("expire",)),
)
with_losses = st.one_of(steps, steps, steps, st.tuples(st.just("lose"), gateway))
with_restarts = st.one_of(steps, steps, steps, st.just(("restart_book",)))


def run(world: World, script: list[tuple]) -> None:
    for name, *arguments in script:
        if name == "tick":
            world.now += arguments[0]
        else:
            getattr(world, name)(*arguments)
        world.check_nothing_is_forgotten()
    world.come_to_rest()
    assert world.book.is_idle(world.now), "quota leaked"


many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(limits(0), limits(0), st.lists(with_losses, min_size=5, max_size=60))
def test_no_interleaving_exceeds_a_limit_or_refuses_what_is_in_reach_or_leaks(
    own: Limits, team: Limits, script: list[tuple]
) -> None:
    run(World(own, team), script)


@many
@given(limits(0), limits(0), st.lists(with_restarts, min_size=5, max_size=60))
def test_the_limits_hold_across_restarts_of_the_accounts_actor(own: Limits, team: Limits, script: list[tuple]) -> None:
    run(World(own, team), script)


def test_a_client_that_stays_just_below_its_limit_is_never_refused() -> None:
    """600 a minute, asked for at 9.8 a second through three gateways in turn, for three minutes."""
    world = World(Limits(requests_per_minute=600), Limits())
    for number in range(1764):
        world.now = 1000.0 + number / 9.8
        if number % 5 == 0:  # as often as gateways report
            for name in GATEWAYS:
                world.stand_by(name, 0.0, False)
        world.arrive(GATEWAYS[number % 3], 1, 10, 0.0, False, False)
        world.end(GATEWAYS[number % 3], 0, 10)
        assert len(world.admissions) == number + 1, f"request {number} was refused"


def test_a_client_far_above_its_limit_gets_all_of_it_in_every_minute() -> None:
    world = World(Limits(requests_per_minute=60), Limits())
    for number in range(3000):
        world.now = 1000.0 + number / 10
        world.arrive(GATEWAYS[number % 3], 1, 10, 0.0, False, False)
        world.end(GATEWAYS[number % 3], 0, 10)
    assert len(world.admissions) >= 5 * 60 - 1


def test_a_busy_key_asks_less_than_twice_a_second() -> None:
    """500 requests a second on one gateway, far below the limit."""
    world = World(Limits(requests_per_minute=100_000, tokens_per_minute=100_000_000, concurrent=200), Limits())
    asked_at_half = 0
    for number in range(5000):
        world.now = 1000.0 + number / 500
        world.arrive("a", 1, 100, 0.0, False, False)
        if len(world.open["a"]) > 50:
            world.end("a", 0, 80)
        if number % 125 == 0:
            world.report("a")
        if number == 2500:
            asked_at_half = world.asked
        world.admissions = world.admissions[-100:]  # the outside view is not what is looked at here
    assert world.asked - asked_at_half < 10, f"{world.asked - asked_at_half} asks in 5 s"
    assert world.asked < 40
