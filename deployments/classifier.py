"""The classifier deployment: how near a prompt is to each model's description, by an embedding.

Without an embedding it answers with nothing, and policy and tags decide; so they do when this deployment is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

APP_NAME = "logos"
DEPLOYMENT_NAME = "Classifier"


@serve.deployment(name=DEPLOYMENT_NAME, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0})
class Classifier:
    """gateway.ports.ClassifierPort as a Serve deployment."""

    async def similarities(self, prompt: str, model_ids: tuple[int, ...]) -> Mapping[int, float]:
        """Cosine similarity by model id; a model that is left out has none."""
        return {}


class ClassifierRemote:
    """gateway.ports.ClassifierPort over Serve's handle."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def similarities(self, prompt: str, model_ids: tuple[int, ...]) -> Mapping[int, float]:
        found: Mapping[int, float] = await self._handle.similarities.remote(prompt, model_ids)
        return found
