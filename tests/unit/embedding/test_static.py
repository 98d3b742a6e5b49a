"""The packaged embedding: meaning in, near vectors out; offline, whatever the text."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from logos.embedding.glossary import Glossary, is_german, read_glosses
from logos.embedding.kinds import Kinds, read_groups
from logos.embedding.static import DIMENSIONS, GLOSSES, KINDS_OF_WORK, StaticEmbedding


@pytest.fixture(scope="module")
def embedding() -> StaticEmbedding:
    return StaticEmbedding()


def nearest(embedding: StaticEmbedding, prompt: str, texts: list[str]) -> str:
    vectors = embedding.embed_now([prompt, *texts])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return texts[int((vectors[1:] @ vectors[0]).argmax())]


DESCRIPTIONS = ["program code and debugging", "mathematics, equations and proofs", "translation between languages"]


@pytest.mark.parametrize(
    ("prompt", "number"),
    [
        ("my loop never ends, what is wrong with this function", 0),
        ("what is the integral of cos(x)", 1),
        ("how do you say good night in Portuguese", 2),
        ("Warum stürzt mein Programm beim Start ab?", 0),
        ("Meine Schleife hört nie auf, wo ist der Fehler?", 0),
        ("Wie groß ist die Wahrscheinlichkeit für zwei Sechsen beim Würfeln?", 1),
        ("Löse die Gleichung 4x + 2 = 10", 1),
        ("Was heißt Schmetterling auf Französisch?", 2),
    ],
)
def test_a_prompt_is_nearest_to_what_it_is_about(embedding: StaticEmbedding, prompt: str, number: int) -> None:
    assert nearest(embedding, prompt, DESCRIPTIONS) == DESCRIPTIONS[number]


async def test_every_text_has_a_row_of_one_length(embedding: StaticEmbedding) -> None:
    texts = ["hello", "", "\ud800 broken", "漢字", "x" * 10_000, "\0"]
    vectors = await embedding.embed(texts)
    assert vectors.shape[0] == len(texts)
    assert vectors.shape[1] > DIMENSIONS
    assert np.isfinite(vectors).all()
    assert not vectors[1].any()
    assert (await embedding.embed([])).shape[0] == 0


async def test_a_text_has_the_same_vector_alone_and_among_others(embedding: StaticEmbedding) -> None:
    together = await embedding.embed(["a", "a much longer text than the first one"])
    alone = await embedding.embed(["a"])
    assert np.allclose(together[0], alone[0], atol=1e-6)


def test_loading_leaves_logging_as_it_was() -> None:
    before = logging.getLogger().level, logging.getLogger().handlers[:]
    StaticEmbedding()
    assert (logging.getLogger().level, logging.getLogger().handlers[:]) == before


def test_the_name_changes_with_the_data_that_the_vectors_are_made_from(
    embedding: StaticEmbedding, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from pathlib import Path

    from logos.embedding import static

    other = Path(str(tmp_path)) / "kinds.txt"
    other.write_text(KINDS_OF_WORK.read_text() + "one more wording\n")
    monkeypatch.setattr(static, "KINDS_OF_WORK", other)
    assert StaticEmbedding().name != embedding.name


# The glossary


def glossary(known: tuple[str, ...] = ()) -> Glossary:
    return Glossary({"gedicht": "poem", "schreib": "write", "kurz": "short", "mond": "moon"}, known.__contains__)


def test_german_becomes_glosses_and_english_stays() -> None:
    assert glossary().in_english("Schreibe ein Gedicht über den Mond").split() == ["write", "poem", "moon"]
    assert glossary().in_english("Write a poem about the moon") == "Write a poem about the moon"


def test_compounds_are_found_by_their_beginning_or_by_a_long_stem_inside() -> None:
    found = glossary().in_english("Bitte schreib ein Liebesgedicht und ein Kurzgedicht für mich").split()
    assert found == ["write", "poem", "short"]


def test_words_that_the_embedding_knows_stay_and_others_go() -> None:
    assert glossary(("SQL",)).in_english("Wie schreibe ich das in SQL mit Xyzzyq").split() == ["write", "SQL"]


def test_a_text_of_which_nothing_would_be_left_stays() -> None:
    assert glossary().in_english("Wo ist denn der?") == "Wo ist denn der?"
    assert glossary().in_english("") == ""


def test_german_is_told_by_its_small_words_and_umlauts() -> None:
    assert is_german("Übersetze: good morning")
    assert is_german("Was ist die Hauptstadt von Peru?")
    assert not is_german("Please translate the following sentence into English for me")
    assert not is_german("for (int i = 0; i < n; i++) { sum += a[i]; }")
    assert not is_german("")


def test_every_gloss_is_one_stem_and_what_it_means() -> None:
    glosses = read_glosses(GLOSSES)
    assert len(glosses) > 300
    assert all(stem == stem.strip() and gloss.strip() and stem.isalpha() for stem, gloss in glosses.items())


# Kinds of work


def test_a_text_resembles_the_group_with_the_nearest_wording() -> None:
    wordings = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    kinds = Kinds(wordings, [2, 1])
    features = kinds.features(np.array([[0.8, 0.6], [0, 1], [0, 0]], dtype=np.float32))
    assert features.shape == (3, 2)
    assert features[0, 0] > 0.9 > features[0, 1]
    assert features[1, 1] > features[1, 0]
    assert not features[2].any()
    assert np.linalg.norm(features[:2], axis=1) == pytest.approx([1.0, 1.0])


def test_every_group_has_wordings() -> None:
    groups = read_groups(KINDS_OF_WORK)
    assert len(groups) > 10
    assert all(len(group) >= 3 for group in groups)
