"""The HTTP routes of the simulated engine: requests become sequences, their tokens become vLLM's answers.

A request whose connection closes is cancelled by aiohttp, which aborts its sequences at once. What is answered is
decided in `script`, when in `live`, and how it looks in `wire`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from logos.simulation.engine import EnginePace
from logos.simulation.server import requests, tokens, vectors, wire
from logos.simulation.server.figures import Metrics
from logos.simulation.server.live import HELD_S_MAX, LiveEngine, Sequence, Unavailable
from logos.simulation.server.reply import Reply
from logos.simulation.server.requests import Generation, Prompt, Refused
from logos.simulation.server.script import Author, Limits, Script
from logos.simulation.server.settings import ServerSettings

VERSION = "0.32.0+logos.simulated"
_BODY_BYTES_MAX = 256 * 2**20
_JSON = "application/json"
_SLEEP_MODES = ("abort", "wait", "keep")

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The routes of one engine. `app` is ready to be served."""

    def __init__(self, settings: ServerSettings, engine: LiveEngine) -> None:
        self._settings = settings
        self._engine = engine
        self._served = requests.Served(settings.model, settings.context_tokens, settings.embedding_dimensions)
        self._author = Author(settings.seed, settings.output_shares)
        self._metrics = Metrics(engine, settings.model)
        self._load = 0  # generations and embeddings in flight, as vLLM's /load
        self._started_s = int(time.time())
        self._id_prefix = os.urandom(8).hex()
        self._ids = 0
        self._transitions: set[asyncio.Task[object]] = set()
        self._table: dict[str, tuple[str, Route]] = {
            "/health": ("GET", self._health),
            "/ping": ("GET", self._health),
            "/version": ("GET", self._version),
            "/load": ("GET", self._server_load),
            "/metrics": ("GET", self._metrics_text),
            "/is_sleeping": ("GET", self._is_sleeping),
            "/v1/models": ("GET", self._models),
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._completion),
            "/v1/embeddings": ("POST", self._embedding),
            "/tokenize": ("POST", self._tokenize),
            "/detokenize": ("POST", self._detokenize),
            "/sleep": ("POST", self._sleep),
            "/wake_up": ("POST", self._wake_up),
            "/reset_prefix_cache": ("POST", self._reset_prefix_cache),
            "/collective_rpc": ("POST", self._collective_rpc),
        }
        self.app = web.Application(client_max_size=_BODY_BYTES_MAX)
        for path, (method, route) in self._table.items():
            self.app.router.add_route(method, path, _with_errors(route))
        self.app.router.add_route("*", "/{anything:.*}", self._nothing_here)

    # --- generations ----------------------------------------------------------------------------------------

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        return await self._generate(http, requests.chat(await _body(http), self._served))

    async def _completion(self, http: web.Request) -> web.StreamResponse:
        return await self._generate(http, requests.completion(await _body(http), self._served))

    async def _generate(self, http: web.Request, asked: Generation) -> web.StreamResponse:
        news = asyncio.Event()
        scripts = [
            self._script(asked, prompt, limits, nth)
            for prompt, limits in zip(asked.prompts, asked.limits, strict=True)
            for nth in range(asked.n)
        ]
        sequences = [
            Sequence(
                prompt.tokens,
                len(script.pieces),
                news,
                streamed=asked.stream,
                prefix=tokens.blocks(prompt.text, self._pace.prefix_block_tokens),
                finish_reason=script.finish_reason,
            )
            for prompt, script in zip(asked.prompt_of_choices(), scripts, strict=True)
        ]
        reply = Reply(self._reply_id(http, asked), self._settings, asked, scripts, sequences)
        with self._in_engine(sequences):
            if asked.stream:
                return await self._stream(http, reply, news)
            while not all(sequence.done for sequence in sequences):
                await self._news(news)
        return web.Response(body=reply.body(), content_type=_JSON)

    async def _stream(self, http: web.Request, reply: Reply, news: asyncio.Event) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        try:
            await answer.prepare(http)
            while not reply.ended:
                await self._news(news)
                if events := reply.new_events():
                    await answer.write(events)
        except Unavailable as error:  # too late for a status
            await answer.write(b"data: " + wire.error_body(_unavailable(error)) + b"\n\n" + wire.DONE)
        except ConnectionError:  # the client left between two tokens; its cancellation is on the way
            return answer
        await answer.write_eof()
        return answer

    def _script(self, asked: Generation, prompt: Prompt, limits: Limits, nth: int) -> Script:
        if asked.call is not None:
            return self._author.tool_arguments(prompt.text, asked.call.parameters, limits.tokens_max)
        return self._author.answer(prompt.text, asked.seed + nth, limits)

    async def _embedding(self, http: web.Request) -> web.Response:
        asked = requests.embedding(await _body(http), self._served)
        news = asyncio.Event()
        # One output token stands for the pooled vector, which comes out of the last prefill step.
        sequences = [Sequence(prompt.tokens, 1, news, finish_reason="stop") for prompt in asked.prompts]
        with self._in_engine(sequences):
            while not all(sequence.done for sequence in sequences):
                await self._news(news)
        if any(sequence.aborted for sequence in sequences):
            raise Refused("The engine went to sleep.", status=503, kind="ServiceUnavailableError")
        data = []
        for index, prompt in enumerate(asked.prompts):
            vector = vectors.unit_vector(prompt.text, self._settings.seed, asked.dimensions)
            written = vectors.as_base64(vector) if asked.base64 else vector.tolist()
            data.append({"index": index, "object": "embedding", "embedding": written})
        used = wire.usage(sum(prompt.tokens for prompt in asked.prompts), 0, None)
        return _json(
            {
                "id": f"embd-{self._next_id()}",
                "object": "list",
                "created": int(time.time()),
                "model": self._settings.model,
                "data": data,
                "usage": used,
            }
        )

    @property
    def _pace(self) -> EnginePace:
        return self._settings.live.pace

    @contextmanager
    def _in_engine(self, sequences: list[Sequence]) -> Iterator[None]:
        """Submit the sequences of a request; none of them stays behind when the block is left, however it is."""
        self._load += 1
        try:
            for sequence in sequences:
                self._engine.submit(sequence)
            yield
        except Unavailable as error:
            raise _unavailable(error) from None
        finally:
            self._load -= 1
            for sequence in sequences:
                self._engine.abort(sequence)

    async def _news(self, news: asyncio.Event) -> None:
        """Wait for tokens: as long as it takes while the engine is awake, bounded while it sleeps."""
        if not self._engine.is_sleeping:
            await news.wait()
        else:
            try:
                await asyncio.wait_for(news.wait(), HELD_S_MAX)
            except TimeoutError:
                raise Unavailable("the engine is asleep") from None
        news.clear()

    def _reply_id(self, http: web.Request, asked: Generation) -> str:
        name = http.headers.get("X-Request-Id") or self._next_id()
        return f"chatcmpl-{name}" if asked.chat else f"cmpl-{name}"

    def _next_id(self) -> str:
        self._ids += 1
        return f"{self._id_prefix}{self._ids:016x}"

    # --- texts ----------------------------------------------------------------------------------------------

    async def _tokenize(self, http: web.Request) -> web.Response:
        asked = requests.tokenize(await _body(http), self._served)
        ids = tokens.encode(asked.prompt.text)
        strings = None
        if asked.with_strings:
            strings = [piece.decode(errors="replace") for piece in tokens.pieces(asked.prompt.text)]
        return _json(
            {
                "count": len(ids),
                "max_model_len": self._settings.context_tokens,
                "tokens": ids,
                "token_strs": strings,
            }
        )

    async def _detokenize(self, http: web.Request) -> web.Response:
        ids = requests.detokenize(await _body(http), self._served)
        return _json({"prompt": tokens.decode(ids).decode(errors="replace")})

    # --- the engine itself ----------------------------------------------------------------------------------

    async def _sleep(self, http: web.Request) -> web.Response:
        level, mode = http.query.get("level", "1"), http.query.get("mode", "abort")
        if level not in ("0", "1", "2"):
            raise Refused("Input should be 0, 1 or 2", kind="Bad Request", param="query.level")
        if mode not in _SLEEP_MODES:
            raise Refused(f"Input should be one of {_SLEEP_MODES}", kind="Bad Request", param="query.mode")
        await self._to_its_end(self._engine.sleep(int(level), mode))
        return _json({"status": "sleeping", "level": int(level)})

    async def _wake_up(self, http: web.Request) -> web.Response:
        tags = http.query.getall("tags", None)
        awake = await self._to_its_end(self._engine.wake(tags))
        return _json({"status": "awake" if awake else "sleeping", "tags": tags})

    async def _to_its_end(self, transition: Awaitable[object]) -> object:
        """A transition goes on when its client leaves, as it does in vLLM."""
        task: asyncio.Task[object] = asyncio.ensure_future(transition)
        self._transitions.add(task)
        task.add_done_callback(self._transitions.discard)
        try:
            return await asyncio.shield(task)
        except Unavailable as error:
            raise _unavailable(error) from None

    async def _is_sleeping(self, _: web.Request) -> web.Response:
        return _json({"is_sleeping": self._engine.is_sleeping})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._engine.loaded else 503)

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": VERSION})

    async def _server_load(self, _: web.Request) -> web.Response:
        return _json({"server_load": self._load})

    async def _metrics_text(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"}
        )

    async def _models(self, _: web.Request) -> web.Response:
        card = {
            "id": self._settings.model,
            "object": "model",
            "created": self._started_s,
            "owned_by": "vllm",
            "root": self._settings.model,
            "parent": None,
            "max_model_len": self._settings.context_tokens,
            "permission": [_permission(self._started_s)],
        }
        return _json({"object": "list", "data": [card]})

    async def _reset_prefix_cache(self, _: web.Request) -> web.Response:
        self._engine.forget_prefixes()
        return _json({"success": True})

    async def _collective_rpc(self, http: web.Request) -> web.Response:
        """Accepted for the order in which a level 2 sleep is ended (reload_weights); there is nothing to reload."""
        await http.read()
        return web.Response(status=200)

    async def _nothing_here(self, http: web.Request) -> web.Response:
        known = self._table.get(http.path)
        if known is None:
            return web.Response(status=404, body=b'{"detail":"Not Found"}', content_type=_JSON)
        return web.Response(
            status=405,
            body=b'{"detail":"Method Not Allowed"}',
            headers={"Allow": known[0], "Content-Type": _JSON},
        )


def _permission(created: int) -> dict[str, object]:
    return {
        "id": "modelperm-simulated",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }


def _with_errors(route: Route) -> Route:
    async def answered(http: web.Request) -> web.StreamResponse:
        try:
            return await route(http)
        except Refused as refused:
            return _refusal(refused)

    return answered


def _unavailable(error: Unavailable) -> Refused:
    return Refused(f"{error}", status=503, kind="ServiceUnavailableError")


async def _body(http: web.Request) -> bytes:
    if http.content_type != _JSON:
        raise Refused(
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", kind="Bad Request"
        )
    try:
        return await http.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refused("The request body is too large.", status=413, kind="Request Entity Too Large") from None


def _json(value: object) -> web.Response:
    return web.Response(body=wire.encode(value), content_type=_JSON)


def _refusal(refused: Refused) -> web.Response:
    return web.Response(status=refused.status, body=wire.error_body(refused), content_type=_JSON)
