from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.actors.broadcast import ALIVE_S, Broadcast
from logos.domain.catalogue import Catalogue
from logos.domain.directory import DirectoryUpdate, ProviderAccess
from logos.domain.nouns import Key, Model

EPOCH = 1_000
CATALOGUE = Catalogue(1, models=(Model(1, "m"),))
ACCESS = (ProviderAccess(1, "https://h/v1", "provider-secret"),)


def key(key_id: int, name: str = "") -> Key:
    return Key(key_id, name or f"key-{key_id}", f"lg-{key_id:012x}", bytes(32))


@pytest.fixture
def broadcast() -> Broadcast:
    made = Broadcast(EPOCH)
    made.publish(7, CATALOGUE, ACCESS, (key(1), key(2)))
    return made


def told(broadcast: Broadcast, version: int, epoch: int = EPOCH, holder: str = "g1") -> DirectoryUpdate:
    turn = broadcast.hear(holder, epoch, version, now=0.0)
    update = broadcast.update_for(holder, epoch, version, turn)
    broadcast.leave(holder, now=0.0)
    return update


def test_a_newcomer_is_told_everything(broadcast: Broadcast) -> None:
    update = told(broadcast, -1, epoch=0)
    assert update.full
    assert (update.epoch, update.version) == (EPOCH, 7)
    assert update.catalogue == CATALOGUE
    assert update.access == ACCESS
    assert [each.id for each in update.keys] == [1, 2]


def test_whoever_is_up_to_date_is_told_nothing(broadcast: Broadcast) -> None:
    assert told(broadcast, 7) == DirectoryUpdate(EPOCH, 7)
    turn = broadcast.hear("g1", EPOCH, 7, now=0.0)
    assert not broadcast.has_news("g1", EPOCH, 7, turn)


def test_only_what_changed_is_told(broadcast: Broadcast) -> None:
    broadcast.publish_keys(8, (key(2, "renamed"), key(3)), frozenset({2, 3}))
    update = told(broadcast, 7)
    assert not update.full
    assert [(each.id, each.name) for each in update.keys] == [(2, "renamed"), (3, "key-3")]
    assert (update.catalogue, update.access, update.removed_key_ids) == (None, None, ())


def test_a_removed_key_is_told_to_everybody_behind(broadcast: Broadcast) -> None:
    broadcast.publish_keys(8, (), frozenset({1}))
    broadcast.publish_keys(9, (key(3),), frozenset({3}))
    assert told(broadcast, 7).removed_key_ids == (1,)
    assert told(broadcast, 8).removed_key_ids == ()


def test_a_key_that_comes_back_is_no_longer_removed(broadcast: Broadcast) -> None:
    broadcast.publish_keys(8, (), frozenset({1}))
    broadcast.publish_keys(9, (key(1),), frozenset({1}))
    update = told(broadcast, 7)
    assert [each.id for each in update.keys] == [1]
    assert update.removed_key_ids == ()


def test_a_new_catalogue_is_told_without_the_keys(broadcast: Broadcast) -> None:
    changed = replace(CATALOGUE, version=8, models=())
    broadcast.publish(8, changed, ACCESS, (key(1), key(2)))
    assert told(broadcast, 7) == DirectoryUpdate(EPOCH, 8, catalogue=changed)


def test_another_epoch_is_told_everything(broadcast: Broadcast) -> None:
    assert told(broadcast, 7, epoch=EPOCH - 1).full


def test_a_version_from_the_future_is_told_everything(broadcast: Broadcast) -> None:
    assert told(broadcast, 8).full


def test_an_older_database_starts_a_new_epoch(broadcast: Broadcast) -> None:
    broadcast.publish(3, CATALOGUE, ACCESS, (key(1),))
    update = told(broadcast, 7)
    assert update.full
    assert update.epoch > EPOCH


def test_asking_with_a_version_acknowledges_it(broadcast: Broadcast) -> None:
    told(broadcast, 7, holder="g1")
    told(broadcast, 6, holder="g2")
    assert broadcast.acknowledged(7, now=0.0) == (1, 2)
    told(broadcast, 7, holder="g2")
    assert broadcast.acknowledged(7, now=0.0) == (2, 2)


def test_a_version_of_another_epoch_acknowledges_nothing(broadcast: Broadcast) -> None:
    told(broadcast, 9, epoch=EPOCH - 1)
    assert broadcast.acknowledged(7, now=0.0) == (0, 1)


def test_a_holder_lives_while_it_watches_and_a_while_longer(broadcast: Broadcast) -> None:
    turn = broadcast.hear("g1", EPOCH, 7, now=0.0)
    assert broadcast.living(now=100.0) == ("g1",)
    broadcast.update_for("g1", EPOCH, 7, turn)
    broadcast.leave("g1", now=100.0)
    assert broadcast.living(now=100.0 + ALIVE_S) == ("g1",)
    assert broadcast.forget_the_gone(now=100.1 + ALIVE_S) == ("g1",)
    assert broadcast.acknowledged(7, now=100.1 + ALIVE_S) == (0, 0)


def test_recalls_are_told_once_to_the_newest_call(broadcast: Broadcast) -> None:
    older = broadcast.hear("g1", EPOCH, 7, now=0.0)
    newer = broadcast.hear("g1", EPOCH, 7, now=0.0)
    assert broadcast.recall("g1", frozenset({"q1-2", "q1-1"}))
    assert broadcast.has_news("g1", EPOCH, 7, older)
    assert broadcast.update_for("g1", EPOCH, 7, older).recalls == ()
    assert broadcast.update_for("g1", EPOCH, 7, newer).recalls == ("q1-1", "q1-2")
    assert broadcast.update_for("g1", EPOCH, 7, newer).recalls == ()


def test_nobody_recalls_from_a_stranger(broadcast: Broadcast) -> None:
    assert not broadcast.recall("g9", frozenset({"q1-1"}))


@given(st.lists(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["", "a", "b"])), max_size=4), max_size=12))
def test_differences_always_add_up_to_the_whole(steps: list[list[tuple[int, str]]]) -> None:
    """Holders that listen at different moments end with the same keys as somebody who is told everything."""
    broadcast = Broadcast(EPOCH)
    broadcast.publish(0, CATALOGUE, ACCESS, ())
    held: dict[int, dict[int, Key]] = {1: {}, 2: {}, 3: {}}
    versions = dict.fromkeys(held, 0)
    for number, step in enumerate([*steps, []], start=1):
        touched = dict(step)
        good = tuple(key(key_id, name) for key_id, name in touched.items() if name)
        broadcast.publish_keys(number, good, frozenset(touched))
        for stride, keys in held.items():
            if number % stride == 0 or number == len(steps) + 1:
                update = told(broadcast, versions[stride], holder=f"g{stride}")
                assert not update.full
                keys.update({each.id: each for each in update.keys})
                for key_id in update.removed_key_ids:
                    del_or_absent = keys.pop(key_id, None)
                    assert del_or_absent is None or del_or_absent.id == key_id
                versions[stride] = update.version
    whole = {each.id: each for each in told(broadcast, -1, epoch=0).keys}
    assert all(keys == whole for keys in held.values())
