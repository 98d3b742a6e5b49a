"""The events and commands are a contract with gateways, nodes, journals and simulations: a change fails here first.

If one of these tests fails on purpose: raise CONTRACT_VERSION, write an entry in docs/design.md, then update CONTRACT.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import get_args

import pytest

from logos.domain.leases import SlotLease
from logos.domain.nouns import Node, Place
from logos.scheduling import commands, events

# Version and fingerprint belong together.
CONTRACT = (5, "db44d4e99e9b61d9")

EVENTS = get_args(events.Event)
COMMANDS = get_args(commands.Command)
VALUES = (events.Candidate, events.Request, events.Met, events.Ended, events.EngineSeen, SlotLease, Node)


def shape(kind: type) -> str:
    """Name, fields in order with their declared types, and which of them have a default."""
    fields = [f"{each.name}: {each.type}{'' if _is_required(each) else ' ='}" for each in dataclasses.fields(kind)]
    return f"{kind.__name__}({', '.join(fields)})"


def _is_required(each: dataclasses.Field[object]) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING


def contract() -> str:
    place = f"Place({', '.join(Place._fields)})"
    return "\n".join([*map(shape, (*EVENTS, *COMMANDS, *VALUES)), place])


def test_the_contract_is_the_one_of_its_version() -> None:
    fingerprint = hashlib.sha256(contract().encode()).hexdigest()[:16]
    assert (events.CONTRACT_VERSION, fingerprint) == CONTRACT, f"the contract has changed:\n{contract()}"


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_event_is_a_frozen_value_that_begins_with_its_time(kind: type) -> None:
    first = dataclasses.fields(kind)[0]
    assert (first.name, first.type) == ("at", "float")
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_every_command_says_which_events_answer_it(kind: type) -> None:
    assert kind.__dataclass_params__.frozen
    assert kind in commands.ANSWERED_BY
    assert set(commands.ANSWERED_BY[kind]) <= set(EVENTS)


def test_nothing_else_is_said_to_be_answered() -> None:
    assert set(commands.ANSWERED_BY) == set(COMMANDS)
