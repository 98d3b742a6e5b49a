"""Any embedding of the sentence-transformers package, by its name or folder. The package is not installed by default.

Encoding blocks for milliseconds, so it happens in one thread of its own, one batch after the other.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from logos.domain.errors import InvalidDeclaration

PACKAGE = "sentence_transformers"


def check_installed() -> None:
    """Raises InvalidDeclaration where the package is not there."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise InvalidDeclaration(
            "classifier.embedding is sentence-transformers, which is not installed: "
            "`pip install sentence-transformers`, or set classifier.embedding to static"
        )


class SentenceTransformersEmbedding:
    """Loads the model when it is made, which may take seconds. Raises InvalidDeclaration if it cannot be loaded."""

    def __init__(self, model: str) -> None:
        check_installed()
        package = importlib.import_module(PACKAGE)
        self.name = f"sentence-transformers/{model}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")
        try:
            self._model: Any = package.SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise InvalidDeclaration(
                f"classifier.model: {model} could not be loaded ({type(error).__name__}); name a model or a folder "
                "that sentence-transformers can load here"
            ) from None

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, list(texts))

    def _encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        return np.asarray(self._model.encode(texts, show_progress_bar=False), dtype=np.float32)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
