"""Which texts of a model and of a prompt are embedded, and what each counts for. No vector is made here.

An average over a whole text says what it is about, not what is asked: in "Summarise this: ..." the three words decide.
So the first and the last sentence of a prompt count apart, and long ones are cut in the middle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from logos.domain.nouns import Model

EXCERPT_CHARACTERS_MAX = 2_000  # of a prompt are embedded
SENTENCES_MAX = 12  # of a description
# By measurement on the tuning half of benchmarks/data/labelled_prompts.csv, where they are on a plateau.
FIRST_SENTENCE_WEIGHT = 1.0
LAST_SENTENCE_WEIGHT = 0.5
_SENTENCE = re.compile(r"[^.!?:\n]*\w[^.!?:\n]*")


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and what it counts for."""

    text: str
    weight: float


def excerpt(text: str, characters_max: int = EXCERPT_CHARACTERS_MAX) -> str:
    """The beginning and the end of a long text, where it says what is wanted: two thirds and one third."""
    if len(text) <= characters_max:
        return text
    head = characters_max * 2 // 3
    return f"{text[:head]}\n{text[-(characters_max - head - 1) :]}"


def prompt_passages(text: str) -> tuple[Passage, ...]:
    """What a prompt is embedded as; empty where there is nothing but spaces."""
    whole = excerpt(text.strip())
    sentences = _SENTENCE.findall(whole)
    if len(sentences) < 2:
        return (Passage(whole, 1.0),) if whole else ()
    return (
        Passage(whole, 1.0),
        Passage(sentences[0].strip(), FIRST_SENTENCE_WEIGHT),
        Passage(sentences[-1].strip(), LAST_SENTENCE_WEIGHT),
    )


def description_passages(model: Model) -> tuple[Passage, ...]:
    """What a model is embedded as: its description as a whole, and sentence by sentence, so that a long one does not
    drown a short remark. Its tags stand in where it has no description; what has neither is left out of the comparison
    by meaning."""
    whole = excerpt(model.description.strip() or " ".join(model.tags).strip())
    sentences = [each.strip() for each in _SENTENCE.findall(whole)][:SENTENCES_MAX]
    if len(sentences) < 2:
        return (Passage(whole, 1.0),) if whole else ()
    return (Passage(whole, 1.0), *(Passage(each, 1.0 / len(sentences)) for each in sentences))
