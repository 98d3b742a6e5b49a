"""Texts for generated workloads: short tasks, system prompts and filler, all drawn from a seeded generator.

Written for this project. Only text is made here; when it is sent, and to which model, is for `generate` to say.
"""

from __future__ import annotations

from random import Random

CHARACTERS_PER_TOKEN = 4.5

TASKS = (
    "Explain {topic} to {reader} in a few sentences.",
    "Write a Python function that checks {topic}, with one example of its use.",
    "Find the weak point of this plan for {topic} and propose a better one.",
    "Summarise what {reader} should know about {topic}.",
    "Translate into German: we talked about {topic}, and {reader} agreed.",
    "Erkläre {reader} kurz, warum {topic} wichtig ist.",
    "Draft a friendly message to {reader} about {topic}.",
    "Prove or refute: {topic} gets cheaper when the load doubles.",
    "List three questions that {reader} would ask about {topic}.",
    "Write a short story in which {topic} saves the day for {reader}.",
)
TOPICS = (
    "a cache that forgets",
    "the tide tables of a small harbour",
    "a queue with two priorities",
    "bread that does not rise",
    "the change of a database schema",
    "a bicycle brake",
    "rounding in invoices",
    "an index that nobody uses",
    "the flight of swifts",
    "time zones in a calendar",
    "a leaking roof",
    "the proof that there are infinitely many primes",
    "a chess opening",
    "retries after a timeout",
    "the budget of a choir",
    "train delays in winter",
)
READERS = (
    "a new colleague",
    "my grandmother",
    "the night shift",
    "a class of ten-year-olds",
    "our auditor",
    "a tired engineer",
    "the town council",
    "a curious neighbour",
)
SYSTEMS = (
    "You answer for the help desk of a small university.",
    "You review code and say what matters first.",
    "You write for people who have two minutes.",
    "You are a patient tutor who never gives the answer away.",
    "Du antwortest auf Deutsch, sachlich und kurz.",
    "You turn notes into lists.",
)
SENTENCES = (
    "Keep to the facts that were given.",
    "Name the place where each figure comes from.",
    "If something is missing, ask one question.",
    "Prefer plain words to learned ones.",
    "Numbers below thirteen are written as words.",
    "A table needs a heading and units.",
    "Never repeat the question.",
    "Say what you are not sure about.",
    "Dates are written with the month as a word.",
    "Examples come before rules.",
    "End when everything is said.",
    "Names of people are not translated.",
)


def task(random: Random, tokens: int) -> str:
    """A task of about so many tokens, at least one sentence."""
    sentence = random.choice(TASKS).format(topic=random.choice(TOPICS), reader=random.choice(READERS))
    return lengthened(sentence, random, tokens)


def system(number: int, tokens: int) -> str:
    """The system prompt of this number, always the same text, of about so many tokens."""
    opening = f"{SYSTEMS[number % len(SYSTEMS)]} (Edition {number + 1}.)"
    return lengthened(opening, Random(number), tokens)


def answer(random: Random, tokens: int) -> str:
    """What an assistant may have said in an earlier turn."""
    return lengthened(random.choice(SENTENCES), random, tokens)


def lengthened(text: str, random: Random, tokens: int) -> str:
    """`text`, with sentences added until it has about so many tokens."""
    parts, length = [text], len(text)
    while length < tokens * CHARACTERS_PER_TOKEN:
        sentence = random.choice(SENTENCES)
        parts.append(sentence)
        length += len(sentence) + 1
    return " ".join(parts)
