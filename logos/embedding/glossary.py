"""Word by word into English, for an embedding that has read mostly English: a glossary of stems, no grammar.

Enough to tell a request for a poem from one for a proof. Only German so far; a text in another language stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

FUNCTION_WORDS = frozenset(
    """aber alle als am an auch auf aus bei bin bis bist bitte da dann das dass dein dem den der des die diese diesem
    diesen dieser dieses dir doch du durch ein eine einem einen einer er es für gib haben hat ich ihr im in ins ist ja
    kann kannst man mein meine mich mir mit nach nicht noch nur oder ohne pro schon sein sich sie sind so soll über um
    und uns unser unter vom von vor war was wenn werden wie wir wird wo zu zum zur""".split()
)
GERMAN_SHARE_MIN = 0.12  # of a text's words that are function words or have umlauts
LOOKED_AT_CHARACTERS = 400
STEM_INSIDE_MIN = 5  # letters that a stem must have to be found inside of a compound
REMEMBERED_WORDS_MAX = 50_000
WORD_CHARACTERS_MAX = 40  # longer ones are no words

_WORD = re.compile(r"[^\W\d_]+")


def read_glosses(path: Path) -> dict[str, str]:
    """Stem -> gloss, from lines `stem gloss ...`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    return {stem.casefold(): gloss for stem, gloss in pairs}


class Glossary:
    """`is_known` says whether the embedding has a vector for a word as it stands, so that code and names of things
    stay; the rest of a German text is left out, as its fragments would only add noise."""

    def __init__(self, glosses: Mapping[str, str], is_known: Callable[[str], bool]) -> None:
        self._glosses = glosses
        self._longest = max(map(len, glosses), default=0)
        self._is_known = is_known
        self._word = lru_cache(REMEMBERED_WORDS_MAX)(self._word_in_english)

    def in_english(self, text: str) -> str:
        """A German text by its glosses; any other as it is, and so one of which nothing would be left."""
        if not is_german(text):
            return text
        glossed = _WORD.sub(lambda found: self._word(found[0]), text)
        return glossed if _WORD.search(glossed) else text

    def _word_in_english(self, word: str) -> str:
        folded = word.casefold()
        gloss = self._gloss(folded)
        if gloss is not None:
            return gloss
        return word if folded not in FUNCTION_WORDS and self._is_known(word) else ""

    def _gloss(self, word: str) -> str | None:
        """Of the longest stem that the word begins with, else of the first one inside of it."""
        if len(word) > WORD_CHARACTERS_MAX:
            return None
        for start in range(max(1, len(word) - STEM_INSIDE_MIN + 1)):
            shortest = STEM_INSIDE_MIN if start else 3
            for length in range(min(self._longest, len(word) - start), shortest - 1, -1):
                gloss = self._glosses.get(word[start : start + length])
                if gloss is not None:
                    return gloss
        return None


def is_german(text: str) -> bool:
    """By function words and umlauts at its beginning."""
    words = [word.casefold() for word in _WORD.findall(text[:LOOKED_AT_CHARACTERS])]
    signs = sum((word in FUNCTION_WORDS) + (not word.isascii() and any(c in "äöüß" for c in word)) for word in words)
    return signs >= max(1.0, GERMAN_SHARE_MIN * len(words))
