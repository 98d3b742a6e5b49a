"""The packaged static embedding (wordllama): weights and tokenizer come with the package, nothing is downloaded.

A vector has two parts of equal length: the average of 256 numbers per token, which costs microseconds, and how much the
text resembles each kind of work (`kinds`). German goes through a glossary first, as the package has read English. The
package is imported when an embedding is made, not before.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from logos.embedding.glossary import Glossary, read_glosses
from logos.embedding.kinds import Kinds, read_groups

DIMENSIONS = 256
HERE = Path(__file__).parent
GLOSSES = HERE / "glosses_de.txt"
KINDS_OF_WORK = HERE / "kinds_of_work.txt"
WORD_MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # how the tokenizer writes the space before a word

Matrix = npt.NDArray[np.float32]


class StaticEmbedding:
    """`name` says whose vectors these are: vectors of different names cannot be compared. The data files are in it."""

    def __init__(self) -> None:
        model = _load()
        self._tokens: Matrix = model.embedding
        self._encode = model.tokenizer.encode
        vocabulary = model.tokenizer.get_vocab()
        self._glossary = Glossary(read_glosses(GLOSSES), lambda word: WORD_MARK + word in vocabulary)
        groups = read_groups(KINDS_OF_WORK)
        wordings = self.averages([wording for group in groups for wording in group])
        self._kinds = Kinds(wordings, [len(group) for group in groups])
        data = hashlib.sha256(GLOSSES.read_bytes() + KINDS_OF_WORK.read_bytes()).hexdigest()
        self.name = f"wordllama/l2_supercat/{DIMENSIONS}/{data[:8]}"

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """A row per text. Lone surrogates, which JSON can smuggle in, are replaced."""
        return self.embed_now(texts)

    def embed_now(self, texts: Sequence[str]) -> Matrix:
        averages = self.averages([self._glossary.in_english(text) for text in texts])
        return np.hstack([averages, self._kinds.features(averages)])

    async def close(self) -> None:
        """Holds nothing."""

    def averages(self, texts: Sequence[str]) -> Matrix:
        """The first part alone, as unit vectors and without the glossary; null for a text without tokens."""
        averages = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            clean = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
            ids = self._encode(clean, add_special_tokens=False).ids
            if ids:
                total = self._tokens[ids].sum(axis=0)
                averages[row] = total / max(float(np.linalg.norm(total)), 1e-9)
        return averages


def _load() -> Any:
    """Importing the package configures logging for the whole process, which is undone."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    import wordllama

    root.level, root.handlers[:] = level, handlers
    logging.getLogger("wordllama").setLevel(logging.WARNING)
    model = wordllama.WordLlama.load(dim=DIMENSIONS, cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    model.tokenizer.no_padding()
    return model
