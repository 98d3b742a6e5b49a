"""How a model is chosen, over HTTP: POST /admin/classify explains it, POST /admin/feedback and /me/feedback teach it.

Nothing is sent to a model and nothing is charged here. What a vote does is for the classifier to know
(`classification.meaning`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from logos.classification.passages import excerpt
from logos.classification.prompts import read_prompt
from logos.declarations import Declared
from logos.domain.catalogue import Catalogue
from logos.domain.errors import BadRequest, EmbeddingUnavailable, LogosError, NotFound
from logos.domain.nouns import Key
from logos.domain.text import storable_text
from logos.gateway.admin_shapes import Shown
from logos.gateway.asgi import CAPABILITIES
from logos.gateway.http import headers_of
from logos.gateway.parsing import ParsedRequest, parse, read_body
from logos.gateway.resolution import Resolved
from logos.gateway.rest import AdminContext, Caller, Context, Route, RowId, read_item, require_admin

ROW_WAIT_S = 2.0  # a record is in the log a moment after its answer
ROW_RETRY_S = 0.25
VOTE_WAIT_S = 10.0
SHOWN_CHARACTERS_MAX = 500

admin_router = APIRouter(prefix="/admin", tags=["admin"], route_class=Route, dependencies=[Depends(require_admin)])
me_router = APIRouter(prefix="/me", tags=["me"], route_class=Route)


class FeedbackGiven(Declared):
    """What was thought of one answer. A vote replaces the one that the same key gave on the same request before."""

    request_id: Annotated[str, Field(min_length=1, max_length=200, description="x-request-id of the answer")]
    vote: Annotated[Literal["good", "bad", "none"], Field(description="none takes the vote back")]


class FeedbackTaken(Shown):
    request_id: str
    model: str = Field(description="that served the request")
    vote: str | None
    before: str | None = Field(description="this key's vote on this request until now")
    learns_meaning: bool = Field(description="false: the prompt is not known any more, the vote is about quality alone")


class CandidateShown(Shown):
    endpoint_id: int
    model: str
    provider: str
    privacy: str
    weight: float


class ExcludedShown(Shown):
    model: str
    reason: str
    endpoint_id: int | None = Field(default=None, description="where other endpoints of the model may serve")


class Explained(Shown):
    """What would become of a request, best candidate first."""

    mode: Literal["direct", "classification"]
    policy: str
    privacy: str
    thresholds: dict[str, int]
    priority: int
    system_prompt: str = Field(description="its beginning and end: what tags are looked for in")
    user_prompt: str = Field(description="beginning and end of the last user prompt: what meaning is made from")
    prompt_tokens: int
    candidates: list[CandidateShown]
    excluded: list[ExcludedShown]
    classification_statistics: dict[str, Any] | None = Field(description="as in the log; null: direct mode")


@admin_router.post("/classify", response_model=Explained)
async def classify(
    request: Request,
    context: Context,
    caller: Caller,
    capability: Annotated[Literal["chat", "completions", "embeddings"], Query()] = "chat",
    key_id: RowId = None,
) -> Any:
    """Explains which models and endpoints a body would be given to, and why; nothing is sent. Body and headers are
    those of /v1/chat/completions (or what `capability` says); `key_id` looks at it as another key would be."""
    headers = headers_of(request.scope)
    raw = await read_body(request.receive, headers, context.body_bytes_max)
    parsed = parse(capability, raw, headers)
    key = caller if key_id is None else context.directory.keys.get(key_id)
    if key is None:
        raise NotFound("there is no key of this id")
    catalogue = context.directory.catalogue
    return explained(catalogue, key, parsed, await context.resolution.resolve(catalogue, key, parsed))


def explained(catalogue: Catalogue, key: Key, parsed: ParsedRequest, resolved: Resolved) -> Explained:
    policy = resolved.policy
    prompt = read_prompt(parsed.capability, parsed.body)
    return Explained(
        mode="direct" if resolved.statistics is None else "classification",
        policy=policy.name,
        privacy=policy.privacy.name,
        thresholds={name: getattr(policy, name) for name in ("latency", "accuracy", "cost", "quality")},
        priority=int(resolved.priority),
        system_prompt=excerpt(prompt.system, SHOWN_CHARACTERS_MAX),
        user_prompt=excerpt(prompt.user, SHOWN_CHARACTERS_MAX),
        prompt_tokens=resolved.prompt_tokens,
        candidates=_candidates(catalogue, resolved),
        excluded=_excluded(catalogue, resolved),
        classification_statistics=None if resolved.statistics is None else dict(resolved.statistics),
    )


def _candidates(catalogue: Catalogue, resolved: Resolved) -> list[CandidateShown]:
    shown = []
    for candidate in resolved.candidates:
        endpoint = catalogue.endpoint[candidate.endpoint_id]
        shown.append(
            CandidateShown(
                endpoint_id=endpoint.id,
                model=catalogue.model[endpoint.model_id].name,
                provider=catalogue.provider[endpoint.provider_id].name,
                privacy=endpoint.privacy.name,
                weight=round(candidate.weight, 6),
            )
        )
    return shown


def _excluded(catalogue: Catalogue, resolved: Resolved) -> list[ExcludedShown]:
    """Models that are out, and the endpoints of the others that the policy forbids."""
    statistics = resolved.statistics or {}
    models: Mapping[str, str] = statistics.get("excluded", {})
    endpoints: Mapping[str, str] = statistics.get("endpoints_excluded", {})
    shown = [ExcludedShown(model=catalogue.model[int(each)].name, reason=reason) for each, reason in models.items()]
    for each, reason in endpoints.items():
        endpoint = catalogue.endpoint[int(each)]
        name = catalogue.model[endpoint.model_id].name
        shown.append(ExcludedShown(model=name, reason=reason, endpoint_id=endpoint.id))
    return shown


@admin_router.post("/feedback", response_model=FeedbackTaken)
async def give_feedback(request: Request, context: Context, caller: Caller) -> Any:
    """Good or bad, about any request. Choosing by meaning learns from it."""
    return await _take(request, context, caller, any_key=True)


@me_router.post("/feedback", response_model=FeedbackTaken)
async def give_my_feedback(request: Request, context: Context, caller: Caller) -> Any:
    """Good or bad, about one of this key's own requests. Choosing by meaning learns from it."""
    return await _take(request, context, caller, any_key=False)


async def _take(request: Request, context: AdminContext, caller: Key, *, any_key: bool) -> FeedbackTaken:
    given = FeedbackGiven.model_validate(await read_item(request, FeedbackGiven, context.body_bytes_max))
    request_id = storable_text(given.request_id)
    row = await _row(context, request_id, None if any_key else caller.id)
    model_id = row["model_id"]
    if model_id is None:
        raise BadRequest("No model served this request, so there is nothing to say about one.", param="request_id")
    if context.classifier is None:
        raise EmbeddingUnavailable
    good = {"good": True, "bad": False, "none": None}[given.vote]
    try:
        async with asyncio.timeout(VOTE_WAIT_S):
            told = await context.classifier.vote(request_id, caller.id, model_id, good, _prompt_of(row))
    except (ConnectionError, TimeoutError):
        raise EmbeddingUnavailable("The classifier is restarting; vote again in a moment.") from None
    model = context.directory.catalogue.model.get(model_id)
    return FeedbackTaken(request_id=request_id, model=row["model"] or (model.name if model else ""), **told)


async def _row(context: AdminContext, request_id: str, key_id: int | None) -> Mapping[str, Any]:
    """The request's log row. Raises NotFound, also where it is another key's."""
    try:
        async with asyncio.timeout(ROW_WAIT_S):
            while True:
                row = await context.queries.request(request_id, key_id=key_id)
                if row is not None:
                    return row
                await asyncio.sleep(ROW_RETRY_S)
    except TimeoutError:
        whose = "there is no request of this id in the log" if key_id is None else "this key has made no such request"
        raise NotFound(whose) from None


def _prompt_of(row: Mapping[str, Any]) -> str | None:
    """The last user prompt of a classified request whose key logs FULL; None where it is not on record."""
    payload, capability = row["input_payload"], CAPABILITIES.get(_path(row["route"]))
    if payload is None or capability is None or row["classification_statistics"] is None:
        return None
    try:
        body = msgspec.json.decode(payload)
        return read_prompt(capability, body).user if isinstance(body, dict) else None
    except (msgspec.DecodeError, LogosError):
        return None


def _path(route: str | None) -> str:
    return (route or "").removeprefix("/openai").removeprefix("/v1")
