"""The accounts actor as a plain object, with holders that behave like gateways, on a real Postgres."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from logos.actors.accounts import Accounts
from logos.config import Settings
from logos.domain.directory import DirectoryUpdate
from logos.domain.errors import DatabaseUnavailable, InvalidDeclaration
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse
from logos.domain.nouns import Key


class Holder:
    """What a gateway does with its watch: keeps everything, acknowledges by asking on, hands recalled slices back."""

    def __init__(self, name: str, accounts: Accounts) -> None:
        self.name = name
        self.keys: dict[int, Key] = {}
        self.updates: list[DirectoryUpdate] = []
        self.obedient = True
        self._accounts = accounts
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        epoch, version = 0, -1
        while True:
            try:
                update = await self._accounts.watch(self.name, epoch, version, wait_s=1.0)
            except ConnectionError:
                await asyncio.sleep(0.02)
                continue
            epoch, version = update.epoch, update.version
            if update.full:
                self.keys.clear()
            self.keys |= {key.id: key for key in update.keys}
            for key_id in update.removed_key_ids:
                self.keys.pop(key_id, None)
            self.updates.append(update)
            if update.recalls and self.obedient:
                uses = tuple(QuotaUse(slice_id, 0, 0, 0, final=True) for slice_id in update.recalls)
                await self._accounts.quota(self.name, (), uses)

    @property
    def key_names(self) -> set[str]:
        return {key.name for key in self.keys.values()}

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


async def until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def accounts(database_url: str) -> AsyncIterator[Accounts]:
    made = Accounts(database_url)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def join(accounts: Accounts) -> AsyncIterator[Callable[[str], Awaitable[Holder]]]:
    """Starts a holder and waits until it has the directory."""
    holders: list[Holder] = []

    async def start(name: str) -> Holder:
        holder = Holder(name, accounts)
        holders.append(holder)
        await until(lambda: holder.updates)
        return holder

    yield start
    for holder in holders:
        await holder.stop()


async def test_a_change_reaches_every_holder_and_is_counted(accounts: Accounts, join: Any) -> None:
    first, second = await join("g1"), await join("g2")
    done = await accounts.administer("key.create", {"name": "ci"})
    assert (done["acknowledged"], done["holders"]) == (2, 2)
    assert first.key_names == second.key_names == {"ci"}
    assert [update.full for update in first.updates] == [True, False]


async def test_a_revocation_is_confirmed_by_every_gateway_within_a_second(accounts: Accounts, join: Any) -> None:
    holders = [await join(f"g{number}") for number in range(4)]
    await accounts.administer("key.create", {"name": "ci"})
    loop = asyncio.get_running_loop()
    began = loop.time()
    done = await accounts.administer("key.revoke", {"key": "ci"})
    assert loop.time() - began < 1.0
    assert done["acknowledged"] == done["holders"] == 4
    assert all(holder.key_names == set() for holder in holders)


async def test_after_a_restart_a_change_waits_until_all_holders_may_have_come_back(database_url: str) -> None:
    accounts = Accounts(database_url, settle_s=1.0)
    await accounts.start()
    holders = [Holder("g1", accounts)]
    try:
        await until(lambda: holders[0].updates)
        change = asyncio.create_task(accounts.administer("key.create", {"name": "ci"}))
        await until(lambda: holders[0].key_names)
        holders.append(Holder("g2", accounts))  # it had not noticed yet that the actor was away
        done = await change
        assert (done["acknowledged"], done["holders"]) == (2, 2)
        assert holders[1].key_names == {"ci"}
    finally:
        for holder in holders:
            await holder.stop()
        await accounts.close()


async def test_a_holder_that_does_not_answer_is_told_of_and_not_waited_for_long(accounts: Accounts, join: Any) -> None:
    await join("g1")
    silent = await join("g2")
    await silent.stop()
    loop = asyncio.get_running_loop()
    began = loop.time()
    done = await accounts.administer("key.create", {"name": "ci"})
    assert (done["acknowledged"], done["holders"]) == (1, 2)
    assert 0.9 < loop.time() - began < 3.0


async def test_a_difference_tells_the_new_key_only(accounts: Accounts, join: Any) -> None:
    await accounts.administer("bootstrap", {"world": Settings.default_world().declaration.revealed()})
    holder = await join("g1")
    await accounts.administer("key.create", {"name": "ci"})
    update = holder.updates[-1]
    assert [key.name for key in update.keys] == ["ci"]
    assert (update.full, update.catalogue, update.access) == (False, None, None)


async def test_a_watch_without_news_ends_after_its_time(accounts: Accounts, join: Any) -> None:
    await join("other")
    epoch, version = accounts.epoch, 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    update = await accounts.watch("g1", epoch, version, wait_s=0.2)
    assert 0.15 < loop.time() - began < 2.0
    assert (update.version, update.full, update.keys) == (version, False, ())


async def test_a_change_made_by_somebody_else_is_noticed(accounts: Accounts, database_url: str, join: Any) -> None:
    holder = await join("g1")
    other = Accounts(database_url)
    await other.administer("key.create", {"name": "elsewhere"})
    await other.close()
    await until(lambda: holder.key_names == {"elsewhere"})


async def test_a_failed_write_changes_nothing_for_anybody(accounts: Accounts, join: Any) -> None:
    holder = await join("g1")
    with pytest.raises(InvalidDeclaration):
        await accounts.administer("apply", {"keys": [{"name": "ci", "models": ["gone"]}]})
    await accounts.administer("key.create", {"name": "ci"})
    assert [update.version for update in holder.updates] == [0, 1]


async def test_a_caller_that_leaves_does_not_leave_a_change_untold(accounts: Accounts, join: Any) -> None:
    holder = await join("g1")
    task = asyncio.create_task(accounts.administer("key.create", {"name": "ci"}))
    await asyncio.sleep(0)
    task.cancel()
    await until(lambda: holder.key_names == {"ci"}, timeout_s=1.5)


async def test_while_postgres_is_away_at_the_start_watchers_are_told_to_live_on_what_they_have() -> None:
    accounts = Accounts("postgresql://u:pass-secret@127.0.0.1:1/logosdb")
    await accounts.start()
    with pytest.raises(ConnectionError, match="the directory is not read yet"):
        await accounts.watch("g1", 0, -1, wait_s=5.0)
    with pytest.raises(ConnectionError):
        await accounts.quota("g1", (QuotaNeed(1, 0),), ())
    with pytest.raises(DatabaseUnavailable, match="so nothing can be changed at the moment"):
        await accounts.administer("key.create", {"name": "ci"})
    await accounts.close()


async def test_what_is_known_is_still_told_while_postgres_is_away(postgres_server: Any) -> None:
    with postgres_server.fresh_database() as url:
        accounts = Accounts(url)
        await accounts.start()
        holder = Holder("g1", accounts)
        await until(lambda: holder.updates)
        await accounts.administer("key.create", {"name": "ci"})
    # The database is dropped under it.
    with pytest.raises(DatabaseUnavailable):
        await accounts.administer("key.create", {"name": "two"})
    late = await accounts.watch("g2", 0, -1, wait_s=0.0)
    assert [key.name for key in late.keys] == ["ci"]
    await holder.stop()
    await accounts.close()


async def test_a_restarted_actor_tells_everything_under_a_higher_epoch(
    accounts: Accounts, database_url: str, join: Any
) -> None:
    holder = await join("g1")
    await accounts.administer("key.create", {"name": "ci"})
    heir = Accounts(database_url)
    await heir.start()
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(ConnectionError):
                update = await heir.watch("g1", accounts.epoch, holder.updates[-1].version, wait_s=0.0)
                break
            await asyncio.sleep(0.01)
    assert update.full
    assert update.epoch > accounts.epoch
    await heir.close()


# Quota


async def limited_key(accounts: Accounts, **limits: int) -> int:
    done = await accounts.administer("key.create", {"name": "limited", "limits": limits})
    key_id: int = done["changes"][0]["id"]
    return key_id


async def take(accounts: Accounts, gateway: str, need: QuotaNeed, uses: Any = ()) -> QuotaSlice | QuotaRefusal:
    (answer,) = await accounts.quota(gateway, (need,), uses)
    return answer


async def test_a_stranded_slice_is_recalled_before_anything_is_refused(accounts: Accounts, join: Any) -> None:
    await join("g1")
    await join("g2")
    key_id = await limited_key(accounts, requests_per_minute=4)
    greedy = [await take(accounts, "g1", QuotaNeed(key_id, 0, wanted_requests=4)) for _ in range(4)]
    assert all(isinstance(each, QuotaSlice) for each in greedy)
    granted = await take(accounts, "g2", QuotaNeed(key_id, 0))
    assert isinstance(granted, QuotaSlice)
    assert granted.requests == 1


async def test_what_was_used_is_not_given_twice(accounts: Accounts, join: Any) -> None:
    await join("g1")
    key_id = await limited_key(accounts, requests_per_minute=2)
    for number in range(2):
        slice_ = await take(accounts, "g1", QuotaNeed(key_id, 0))
        assert isinstance(slice_, QuotaSlice), number
        await accounts.quota("g1", (), (QuotaUse(slice_.slice_id, 1, 0, 0, final=True),))
    refused = await take(accounts, "g2", QuotaNeed(key_id, 0))
    assert isinstance(refused, QuotaRefusal)
    assert (refused.limit, refused.limit_value) == ("requests_per_minute", 2)
    assert 50 < refused.retry_after_s <= 61


async def test_a_holder_that_ignores_recalls_is_not_waited_for_long(accounts: Accounts, join: Any) -> None:
    holder = await join("g1")
    holder.obedient = False
    key_id = await limited_key(accounts, concurrent=1)
    assert isinstance(await take(accounts, "g1", QuotaNeed(key_id, 0)), QuotaSlice)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert isinstance(await take(accounts, "g2", QuotaNeed(key_id, 0)), QuotaRefusal)
    assert 0.25 < loop.time() - began < 1.5


async def test_two_gateways_that_wait_for_each_others_slices_both_get_on(accounts: Accounts, join: Any) -> None:
    await join("g1")
    await join("g2")
    key_id = await limited_key(accounts, concurrent=2)
    for gateway in ("g1", "g2"):
        assert isinstance(await take(accounts, gateway, QuotaNeed(key_id, 0)), QuotaSlice)
    answers = await asyncio.gather(
        take(accounts, "g1", QuotaNeed(key_id, 0)), take(accounts, "g2", QuotaNeed(key_id, 0))
    )
    assert [type(answer) for answer in answers] == [QuotaSlice, QuotaSlice]


async def test_the_slices_of_a_revoked_key_are_recalled(accounts: Accounts, join: Any) -> None:
    holder = await join("g1")
    key_id = await limited_key(accounts, requests_per_minute=100)
    slice_ = await take(accounts, "g1", QuotaNeed(key_id, 0, wanted_requests=10))
    assert isinstance(slice_, QuotaSlice)
    await accounts.administer("key.revoke", {"key": "limited"})
    await until(lambda: any(slice_.slice_id in update.recalls for update in holder.updates))
    assert isinstance(await take(accounts, "g1", QuotaNeed(key_id, 0)), QuotaRefusal)


async def test_the_slices_of_a_gateway_that_is_gone_come_back(database_url: str) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()
    asked: list[str] = []
    alive = True

    async def lives(gateway_id: str) -> bool:
        asked.append(gateway_id)
        return alive

    accounts = Accounts(database_url, clock=clock, gateway_lives=lives)
    await accounts.start()
    await until(lambda: accounts.is_ready)
    key_id = await limited_key(accounts, concurrent=1)
    slice_ = await take(accounts, "g1", QuotaNeed(key_id, 0))
    assert isinstance(slice_, QuotaSlice)
    await accounts.quota("g1", (), (QuotaUse(slice_.slice_id, 1, 0, 1, final=True),))
    assert isinstance(await take(accounts, "g2", QuotaNeed(key_id, 0)), QuotaRefusal)
    clock.now += 6.0
    await until(lambda: asked)
    assert isinstance(await take(accounts, "g2", QuotaNeed(key_id, 0)), QuotaRefusal)
    alive = False
    asked.clear()
    await until(lambda: asked)
    await asyncio.sleep(0)
    assert isinstance(await take(accounts, "g2", QuotaNeed(key_id, 0)), QuotaSlice)
    await accounts.close()


async def test_after_a_restart_nothing_is_granted_until_gateways_have_told_what_they_hold(database_url: str) -> None:
    accounts = Accounts(database_url, settle_s=0.6)
    await accounts.start()
    await until(lambda: accounts.is_ready)
    key_id = await limited_key(accounts, concurrent=1)
    waiting = asyncio.create_task(take(accounts, "g2", QuotaNeed(key_id, 0)))
    await accounts.quota("g1", (), (QuotaUse("q1-1", 1, 0, 1, final=True, key_id=key_id),))
    refused = await waiting
    assert isinstance(refused, QuotaRefusal)
    assert refused.limit == "concurrent"
    await accounts.close()


# The initial provider


@contextlib.asynccontextmanager
async def upstream(answer: Any, status: int = 200) -> AsyncIterator[tuple[str, list[str | None]]]:
    """A provider's /v1/models, and the keys that it was called with."""
    from fastapi import Request
    from fastapi.responses import JSONResponse

    app, seen = FastAPI(), []

    @app.get("/v1/models")
    async def models(request: Request) -> JSONResponse:
        seen.append(request.headers.get("authorization"))
        return JSONResponse(answer, status)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1", seen
    server.should_exit = True
    await task


async def bootstrap_with(accounts: Accounts, base_url: str) -> dict[str, Any]:
    provider = {"name": "acme", "base_url": base_url, "api_key": "acme-secret-1", "privacy": "LOCAL"}
    return await accounts.administer("bootstrap", {"provider": provider})


async def test_the_initial_provider_comes_with_its_models(accounts: Accounts, join: Any) -> None:
    await accounts.administer("apply", {"models": [{"name": "known", "description": "kept"}]})
    names = ["known", "meta/llama-3", "known", "auto", "name with blanks"]
    answer = {"object": "list", "data": [*({"id": name} for name in names), {"bad": 1}]}
    async with upstream(answer) as (base_url, seen):
        done = await bootstrap_with(accounts, base_url)
        again = await bootstrap_with(accounts, base_url)
    assert done["notes"] == ["2 models of acme have names that cannot be used here; declare them with others"]
    assert seen == ["Bearer acme-secret-1"]
    assert again["changes"] == []
    update = await accounts.watch("g1", 0, -1, wait_s=0.0)
    catalogue = update.catalogue
    assert catalogue is not None
    assert catalogue.model_named["known"].description == "kept"
    assert {endpoint.upstream_model for endpoint in catalogue.endpoints} == {"known", "meta/llama-3"}
    assert update.access is not None
    assert update.access[0].api_key == "acme-secret-1"
    assert await accounts.administer("provider.ids", {}) == {"acme": catalogue.providers[0].id}


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        ({"error": "acme-secret-1"}, 401, "HTTP 401"),
        (["gpt"], 200, "not a list of models"),
        ({"data": {}}, 200, "not a list of models"),
    ],
)
async def test_an_initial_provider_that_fails_is_one_line_and_is_tried_again(
    accounts: Accounts, answer: Any, status: int, why: str
) -> None:
    async with upstream(answer, status) as (base_url, _):
        done = await bootstrap_with(accounts, base_url)
    (note,) = done["notes"]
    assert why in note
    assert "acme-secret-1" not in note
    assert done["keys"]["root"]
    async with upstream({"data": [{"id": "gpt"}]}) as (base_url, _):
        assert (await bootstrap_with(accounts, base_url))["notes"] == []


async def test_no_secret_is_logged(accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    done = await bootstrap_with(accounts, "http://127.0.0.1:1/v1")
    created = await accounts.administer("key.create", {"name": "ci"})
    with pytest.raises(InvalidDeclaration):
        await accounts.administer("apply", {"keys": [{"name": "x", "key": "chosen-secret-7", "team": "gone"}]})
    for secret in (done["keys"]["root"], created["keys"]["ci"], "acme-secret-1", "chosen-secret-7"):
        assert secret not in caplog.text
    update = await accounts.watch("g1", 0, -1, wait_s=0.0)
    assert "secret" not in repr(update)
