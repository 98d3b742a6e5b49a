"""The classifier deployment: one replica that answers what a prompt means, and its handle as the gateways' port.

One replica, because it remembers prompts for votes to come; it answers thousands of prompts a second. While it is away
policy and tags decide. No rule: those are in `actors.classifier`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.remotes import AccountsRemote
from logos.classification.meaning import Meaning
from logos.config import ClassifierSettings
from logos.embedding import sentence
from logos.telemetry.logs import configure

if TYPE_CHECKING:
    from logos.actors.classifier import EmbeddingPort

APP_NAME = "logos"
DEPLOYMENT_NAME = "Classifier"


def open_embedding(settings: ClassifierSettings) -> EmbeddingPort:
    """The adapter that the settings name. May take seconds."""
    if settings.embedding == "sentence-transformers":
        return sentence.SentenceTransformersEmbedding(settings.model or "")
    if settings.embedding == "openai":
        from logos.embedding.openai import OpenAIEmbedding

        key = None if settings.api_key is None else settings.api_key.get_secret_value()
        return OpenAIEmbedding(settings.base_url or "", settings.model or "", api_key=key, timeout_s=settings.timeout_s)
    from logos.embedding.static import StaticEmbedding

    return StaticEmbedding()


@serve.deployment(name=DEPLOYMENT_NAME, num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0})
class Classifier:
    """gateway.ports.ClassifierPort as a Serve deployment."""

    async def __init__(self, settings: ClassifierSettings, database_url: str) -> None:  # type: ignore[misc]  # Serve awaits it
        from logos.actors.classifier import Classifier as Rules
        from logos.storage.feedback_store import FeedbackStore

        configure()
        name = serve.get_replica_context().replica_id.to_full_id_str()
        self._rules = Rules(name, AccountsRemote(), open_embedding(settings), FeedbackStore(database_url))
        await self._rules.start()

    async def meaning(self, prompt: str, model_ids: tuple[int, ...], request_id: str) -> Meaning:
        return await self._rules.meaning(prompt, model_ids, request_id)

    async def vote(
        self, request_id: str, key_id: int, model_id: int, good: bool | None, prompt: str | None
    ) -> Mapping[str, Any]:
        return await self._rules.vote(request_id, key_id, model_id, good, prompt)

    async def status(self) -> Mapping[str, Any]:
        return await self._rules.status()

    async def check_health(self) -> None:
        """Serve replaces a replica that does not follow the catalogue any more."""
        self._rules.check_health()


class ClassifierRemote:
    """gateway.ports.ClassifierPort over Serve's handle. Errors of Ray and Serve become ConnectionError."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def meaning(self, prompt: str, model_ids: tuple[int, ...], request_id: str = "") -> Meaning:
        found: Meaning = await self._call("meaning", prompt, model_ids, request_id)
        return found

    async def vote(
        self, request_id: str, key_id: int, model_id: int, good: bool | None, prompt: str | None = None
    ) -> Mapping[str, Any]:
        told: Mapping[str, Any] = await self._call("vote", request_id, key_id, model_id, good, prompt)
        return told

    async def status(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self._call("status")
        return found

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except (RayError, RayServeException) as error:
            raise ConnectionError(f"the classifier is away: {type(error).__name__}") from None
