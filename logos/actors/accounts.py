"""The accounts actor: the catalogue and key directory with their versions, quota, and what administrators change.

A plain async class; `deployments` makes it a Ray actor. State is what Postgres says, read at the start and whenever its
version rises; the epoch is the wall clock at the start in milliseconds, so a restarted actor has a higher one. While
Postgres is away everything that is known is still told, and writes fail with DatabaseUnavailable. Never sees a prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from logos.actors.administration import Administration, Performed
from logos.actors.broadcast import ALIVE_S, Broadcast
from logos.actors.loops import keep_going
from logos.actors.quota_desk import QuotaDesk
from logos.billing.quota import QuotaBook
from logos.declarations import Declaration, ProviderDeclared, is_model_name
from logos.documents import parse
from logos.domain.directory import DirectoryUpdate
from logos.domain.errors import DatabaseUnavailable, LogosError
from logos.domain.leases import QuotaNeed, QuotaRefusal, QuotaSlice, QuotaUse

log = logging.getLogger(__name__)

T = TypeVar("T")

WATCH_WAIT_S_MAX = 10.0
ACKNOWLEDGE_WAIT_S = 1.0
FOLLOW_INTERVAL_S = 2.0  # how soon a change made by somebody else in the database is noticed
START_RETRY_S = 0.25
LIVENESS_INTERVAL_S = 1.0
SILENCE_S_MAX = 30.0  # of a gateway that holds quota; then it is gone, whatever Ray says
MODELS_TIMEOUT_S = 10.0
PROVIDER_MODELS_MAX = 1_000
DATABASE_THREADS = 4
READS = frozenset({"list", "key.get"})


class Accounts:
    """gateway.ports.AccountsPort. Call `start()` once on the event loop that it lives on, `close()` at the end."""

    def __init__(
        self,
        database_url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
        settle_s: float = 0.0,
        quota_ttl_s: float = 10.0,
        gateway_lives: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """`settle_s`: after a restart no quota is granted for so long, until gateways have told what they hold.
        `gateway_lives` is asked about one that was silent; without it silence means that it is gone."""
        self._administration = Administration(database_url, unix_clock)
        self._all_heard_at = clock() + min(settle_s, ALIVE_S)  # after a restart holders come back one by one
        self._threads = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="accounts")
        self._clock = clock
        self._gateway_lives = gateway_lives
        self._broadcast = Broadcast(epoch=int(unix_clock() * 1000))
        book = QuotaBook(self._broadcast.epoch, ttl_s=quota_ttl_s, ready_at=clock() + settle_s)
        self._desk = QuotaDesk(book, clock, self._recall)
        self._news = asyncio.Event()  # replaced each time something is told
        self._heard = asyncio.Event()  # replaced each time a holder acknowledges
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Begins to follow the database. Returns at once: until it was read, watchers get ConnectionError."""
        self._spawn(keep_going(self._follow))
        self._spawn(keep_going(self._look_after_quota))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A cancelled task leaves its statement running in a thread, and that its connection.
        await asyncio.to_thread(self._threads.shutdown)
        self._administration.close()

    @property
    def epoch(self) -> int:
        return self._broadcast.epoch

    @property
    def is_ready(self) -> bool:
        """Whether the directory has been read."""
        return self._broadcast.is_ready

    # The directory

    async def watch(self, holder: str, epoch: int, version: int, wait_s: float) -> DirectoryUpdate:
        """What changed since `version`, which is thereby acknowledged; waits up to `wait_s` for something to change.

        Raises ConnectionError while the directory has not been read yet: live on what you have.
        """
        if not self.is_ready:
            raise ConnectionError("the directory is not read yet: its database does not answer")
        turn = self._broadcast.hear(holder, epoch, version, self._clock())
        self._heard = _told(self._heard)
        try:
            deadline = self._clock() + min(max(wait_s, 0.0), WATCH_WAIT_S_MAX)
            while not self._broadcast.has_news(holder, epoch, version, turn):
                if not await _happens(self._news, deadline - self._clock()):
                    break
            return self._broadcast.update_for(holder, epoch, version, turn)
        finally:
            self._broadcast.leave(holder, self._clock())

    # Quota

    async def quota(
        self, gateway_id: str, needs: tuple[QuotaNeed, ...], uses: tuple[QuotaUse, ...]
    ) -> tuple[QuotaSlice | QuotaRefusal, ...]:
        """A slice or a refusal for each need, in order, within some 300 ms. A holder hands recalled slices back by a
        further call, even while one of its calls is under way."""
        if not self.is_ready:
            raise ConnectionError("the directory is not read yet: its database does not answer")
        return await self._desk.quota(gateway_id, needs, uses)

    def _recall(self, gateway_id: str, slice_ids: frozenset[str]) -> bool:
        asked = self._broadcast.recall(gateway_id, slice_ids)
        if asked:
            self._news = _told(self._news)
        return asked

    async def _look_after_quota(self) -> None:
        """Gateways that are gone lose their slices; what counts no longer is forgotten."""
        while True:
            await asyncio.sleep(LIVENESS_INTERVAL_S)
            now = self._clock()
            self._broadcast.forget_the_gone(now)
            living = set(self._broadcast.living(now))
            for gateway_id, heard_at in self._desk.holders().items():
                silent_s = now - heard_at
                if (
                    gateway_id not in living
                    and silent_s > ALIVE_S
                    and not await self._still_lives(gateway_id, silent_s)
                ):
                    log.info("gateway %s is gone, its quota returns", gateway_id)
                    self._desk.gateway_lost(gateway_id)
            self._desk.expire()

    async def _still_lives(self, gateway_id: str, silent_s: float) -> bool:
        if self._gateway_lives is None or silent_s > SILENCE_S_MAX:
            return False
        return await self._gateway_lives(gateway_id)

    # Administration

    async def administer(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One operation of `actors.administration`, or `bootstrap`. A write returns when every living holder has
        acknowledged it, at the latest after a second, but after a restart not before all should have been heard of;
        `acknowledged` and `holders` say how many did and are."""
        if operation == "provider.ids":
            return {provider.name: provider.id for provider in self._broadcast.catalogue.providers}
        if operation in READS:
            return (await self._in_thread(self._administration.perform, operation, arguments)).result
        # A caller that leaves must not leave a change behind of which nobody is told.
        return await asyncio.shield(self._spawn(self._write(operation, arguments)))

    async def _write(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        async with self._writing:
            if operation == "bootstrap":
                performed = await self._bootstrap(arguments)
            else:
                performed = await self._in_thread(self._administration.perform, operation, arguments)
            await self._publish(performed)
        acknowledged, holders = await self._wait_for_acknowledgement(int(performed.result["version"]))
        return {**performed.result, "acknowledged": acknowledged, "holders": holders}

    async def _bootstrap(self, arguments: Mapping[str, Any]) -> Performed:
        """`root_key`, `declaration` (of the config file), `world` (the built-in one) and `provider` (of the
        environment), each None or left out where there is none; the last three as plain values."""
        world = arguments.get("world")
        provider, models, warning = await self._initial_provider(arguments.get("provider"))
        performed = await self._in_thread(
            self._administration.bootstrap,
            root_key=arguments.get("root_key"),
            declaration=parse(Declaration, arguments.get("declaration") or {}, "the config file"),
            world=None if world is None else parse(Declaration, world, "the built-in world"),
            provider=provider,
            provider_models=models,
        )
        if warning:
            performed.result["notes"].append(warning)
        return performed

    async def _initial_provider(
        self, document: Mapping[str, Any] | None
    ) -> tuple[ProviderDeclared | None, tuple[str, ...], str]:
        """The provider of PROVIDER_NAME with its models, unless it was registered before; and a warning."""
        if document is None:
            return None, (), ""
        provider = parse(ProviderDeclared, dict(document), "the initial provider")
        if await self._in_thread(self._administration.knows_provider, provider.name):
            return None, (), ""
        try:
            found = await list_provider_models(provider)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            why = str(error) if isinstance(error, ValueError) else type(error).__name__
            warning = (
                f"provider {provider.name} is not registered, its list of models could not be read ({why}): "
                "check BASE_URL and PROVIDER_API_KEY and start again, or declare it with `logos apply`"
            )
            return None, (), warning
        usable = tuple(name for name in found if is_model_name(name))
        left_out = len(found) - len(usable)
        warning = f"{left_out} models of {provider.name} have names that cannot be used here; declare them with others"
        return provider, usable, warning if left_out else ""

    async def _wait_for_acknowledgement(self, version: int) -> tuple[int, int]:
        deadline = self._clock() + ACKNOWLEDGE_WAIT_S
        while True:
            now = self._clock()
            acknowledged, holders = self._broadcast.acknowledged(version, now)
            until = self._all_heard_at if acknowledged == holders else max(deadline, self._all_heard_at)
            if now >= until or not await _happens(self._heard, until - now):
                return acknowledged, holders

    # Following the database

    async def _publish(self, performed: Performed) -> None:
        """Tells everybody what an operation of ours changed. It is committed, so failing to read it back is not an
        error of the operation: following the database will tell it later."""
        if performed.version is None:
            return
        with contextlib.suppress(DatabaseUnavailable):
            next_in_line = performed.version == self._broadcast.version + 1
            if performed.key_ids is not None and next_in_line:
                keys = await self._in_thread(self._administration.load_keys, performed.key_ids)
                self._broadcast.publish_keys(performed.version, keys, performed.key_ids)
                self._tell()
            else:
                await self._reload()

    async def _reload(self) -> None:
        stored = await self._in_thread(self._administration.load)
        self._broadcast.publish(stored.version, stored.catalogue, stored.access, stored.keys, stored.salt)
        self._tell()

    def _tell(self) -> None:
        self._desk.apply_limits(self._broadcast.keys)
        self._news = _told(self._news)

    async def _follow(self) -> None:
        """Reads the directory as soon as Postgres answers, and again when somebody else has changed it."""
        away = False
        while True:
            try:
                async with self._writing:
                    version = await self._in_thread(self._administration.get_version)
                    if version != self._broadcast.version:
                        await self._reload()
                if away:
                    log.info("the database answers again")
                away = False
            except LogosError as error:
                if not away:
                    log.warning("the directory cannot be read: %s", error)
                away = True
            await asyncio.sleep(FOLLOW_INTERVAL_S if self._broadcast.is_ready else START_RETRY_S)

    async def _in_thread(self, blocking: Callable[..., T], *arguments: Any, **options: Any) -> T:
        call = functools.partial(blocking, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def list_provider_models(provider: ProviderDeclared) -> tuple[str, ...]:
    """Names from `{base_url}/models`. Raises httpx.HTTPError, or ValueError for an answer of another shape."""
    header, form = provider.auth
    key = None if provider.api_key is None else provider.api_key.get_secret_value()
    headers = {} if key is None else {header: form.replace("{key}", key)}
    async with httpx.AsyncClient(timeout=MODELS_TIMEOUT_S, follow_redirects=False) as client:
        answer = await client.get(f"{(provider.base_url or '').rstrip('/')}/models", headers=headers)
    if answer.status_code != 200:
        raise ValueError(f"HTTP {answer.status_code}")
    found = answer.json()
    listed = found.get("data") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("the answer is not a list of models")
    names = [entry["id"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return tuple(dict.fromkeys(names))[:PROVIDER_MODELS_MAX]


def _told(event: asyncio.Event) -> asyncio.Event:
    """Wakes everybody who waits, and gives the event that is waited for from now on."""
    event.set()
    return asyncio.Event()


async def _happens(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether the event comes in time."""
    if timeout_s <= 0:
        return False
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
