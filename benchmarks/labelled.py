"""The labelled prompts of benchmarks/data and the models they are chosen for: what `bench_meaning` measures with.

300 prompts written for this project: six kinds of work, English and German, short and long, with code, several turns
and system prompts. The tuning half is what may be looked at; the test half only measures.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logos.classification.prompts import Prompt, read_prompt
from logos.domain.catalogue import Catalogue
from logos.domain.nouns import Endpoint, Model, Privacy, Provider

PROMPTS = Path(__file__).parent / "data" / "labelled_prompts.csv"
KINDS = ("code", "maths", "translation", "summary", "writing", "extraction")
TAGS = {
    "code": ("code", "coding", "software"),
    "maths": ("maths", "mathematics", "mathelehrer"),
    "translation": ("translation", "translator", "übersetzer"),
    "summary": ("summary", "briefings", "zusammenfassungen"),
    "writing": ("creative", "fiction", "schriftsteller"),
    "extraction": ("extraction", "json", "informationsextraktion"),
}
# The same six models in other words: what is measured must not hang on one wording.
DESCRIPTIONS: dict[str, dict[str, str]] = {
    "in a line": {
        "code": "writing, completing, explaining and debugging program code, shell commands and SQL",
        "maths": "solving mathematical problems step by step: algebra, calculus, probability and proofs",
        "translation": "translating text between languages, with correct grammar and idiom",
        "summary": "summarising long documents, articles and conversations into their key points",
        "writing": "creative writing: stories, poems, speeches, dialogue and advertising copy",
        "extraction": "extracting structured data from documents: names, dates, amounts, JSON and tables",
    },
    "as a vendor would": {
        "code": "Specialist for software development. Generates functions in Python, Java, C++ and JavaScript, finds "
        "bugs, writes tests.",
        "maths": "Strong reasoning model for maths and physics questions, equations, statistics and exam problems.",
        "translation": "Multilingual model. Translates emails, websites and manuals between English, German, French, "
        "Spanish and other languages.",
        "summary": "Long-context model that condenses reports, meeting notes and papers to a short summary.",
        "writing": "A storyteller for fiction, poetry, song lyrics and marketing slogans.",
        "extraction": "Information extraction and classification. Reads invoices, contracts and medical reports and "
        "returns JSON fields, entities and labels.",
    },
    "in a word": {
        "code": "code",
        "maths": "maths",
        "translation": "translation",
        "summary": "summaries",
        "writing": "fiction and poetry",
        "extraction": "structured data extraction",
    },
    "in German": {
        "code": "Programmieren: Code schreiben, erklären und Fehler finden, SQL und Shell",
        "maths": "Mathematik: Gleichungen lösen, Ableitungen, Wahrscheinlichkeit, Beweise",
        "translation": "Übersetzen zwischen Sprachen",
        "summary": "Zusammenfassen von langen Texten, Artikeln und Protokollen",
        "writing": "Kreatives Schreiben: Geschichten, Gedichte, Reden",
        "extraction": "Daten aus Dokumenten auslesen: Namen, Beträge, Fristen, JSON",
    },
}


@dataclass(frozen=True, slots=True)
class Labelled:
    """One prompt and the kind of work that its author meant."""

    split: str  # tuning or test
    kind: str
    language: str
    prompt: Prompt


def read_labelled() -> list[Labelled]:
    with PROMPTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Labelled(row["split"], row["kind"], row["language"], _prompt(row["messages_json"])) for row in rows]


def _prompt(messages_json: str) -> Prompt:
    body: dict[str, Any] = {"messages": json.loads(messages_json)}
    return read_prompt("chat", body)


def models_of(descriptions: dict[str, str]) -> tuple[Model, ...]:
    """One model a kind, alike in all weights; ids from 1 in the order of KINDS."""
    return tuple(Model(number, kind, descriptions[kind], TAGS[kind]) for number, kind in enumerate(KINDS, 1))


def catalogue_of(models: tuple[Model, ...]) -> Catalogue:
    endpoints = tuple(Endpoint(model.id, model.id, 1, Privacy.LOCAL, model.name) for model in models)
    providers = (Provider(1, "p", "openai", Privacy.LOCAL),)
    return Catalogue(version=1, models=models, providers=providers, endpoints=endpoints)
