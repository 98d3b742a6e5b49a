from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logos.classification.passages import (
    EXCERPT_CHARACTERS_MAX,
    SENTENCES_MAX,
    description_passages,
    excerpt,
    prompt_passages,
)
from logos.domain.nouns import Model


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    long = "Summarise this: " + "x" * 10_000 + " In two sentences, please."
    kept = excerpt(long, 100)
    assert len(kept) == 100
    assert kept.startswith("Summarise this: ")
    assert kept.endswith(" In two sentences, please.")


@given(st.text(max_size=300), st.integers(10, 200))
def test_an_excerpt_is_never_longer_than_it_may_be(text: str, most: int) -> None:
    kept = excerpt(text, most)
    assert len(kept) <= most
    assert kept == text or len(text) > most


def test_first_and_last_sentence_of_a_prompt_count_apart() -> None:
    passages = prompt_passages("Translate this. It was a long day. Into French, please")
    assert [each.text for each in passages[1:]] == ["Translate this", "Into French, please"]
    assert passages[0].weight >= passages[1].weight > passages[2].weight > 0


def test_one_sentence_is_one_passage_and_nothing_is_none() -> None:
    assert [each.text for each in prompt_passages("  Hello there  ")] == ["Hello there"]
    assert prompt_passages(" \n ") == ()
    assert [each.text for each in prompt_passages("?!")] == ["?!"]


def test_work_is_bounded_however_long_a_prompt_is() -> None:
    passages = prompt_passages("word. " * 1_000_000)
    assert sum(len(each.text) for each in passages) <= 3 * EXCERPT_CHARACTERS_MAX


def test_a_description_counts_as_a_whole_and_by_its_sentences() -> None:
    passages = description_passages(Model(1, "m", description="Writes code. Finds bugs."))
    assert [(each.text, each.weight) for each in passages] == [
        ("Writes code. Finds bugs.", 1.0),
        ("Writes code", 0.5),
        ("Finds bugs", 0.5),
    ]
    assert len(description_passages(Model(1, "m", description="One. " * 1000))) == 1 + SENTENCES_MAX


def test_tags_stand_in_for_a_description_and_without_both_there_is_nothing() -> None:
    assert [each.text for each in description_passages(Model(1, "m", tags=("code", "chat")))] == ["code chat"]
    assert description_passages(Model(1, "m")) == ()
