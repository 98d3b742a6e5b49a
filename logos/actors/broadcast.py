"""The directory as it is told to its holders: versions, differences, who has acknowledged what, who is alive.

A holder is whoever watches: gateways, the scheduler, the classifier. Asking with a version acknowledges everything up
to it. Time is an argument and nothing waits here; `accounts` waits and wakes. No database, no decision about keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from logos.domain.catalogue import Catalogue
from logos.domain.directory import DirectoryUpdate, ProviderAccess
from logos.domain.nouns import Key

ALIVE_S = 5.0  # a holder that was not heard for so long is gone
REMOVALS_MAX = 10_000  # remembered; whoever is further behind is told everything


@dataclass(slots=True)
class _Holder:
    heard_at: float
    watching: int = 0  # calls waiting for news at this moment
    turn: int = 0  # number of the newest call; older ones have lost their listener
    version: int = -1
    recalls: set[str] = field(default_factory=set)


class Broadcast:
    """What everybody shall know, and what each holder does know."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.version = -1  # nothing known yet
        self._catalogue = Catalogue()
        self._access: tuple[ProviderAccess, ...] = ()
        self._salt = ""
        self._keys: dict[int, Key] = {}
        self._catalogue_since = 0  # the version at which each part became what it is
        self._access_since = 0
        self._key_since: dict[int, int] = {}
        self._removed_since: dict[int, int] = {}
        self._complete_from = 0  # differences are known from this version on
        self._holders: dict[str, _Holder] = {}

    @property
    def is_ready(self) -> bool:
        return self.version >= 0

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(self._keys.values())

    def publish(
        self,
        version: int,
        catalogue: Catalogue,
        access: tuple[ProviderAccess, ...],
        keys: tuple[Key, ...],
        salt: str = "",
    ) -> None:
        """The whole directory at `version`; what is equal to before does not count as changed."""
        if version < self.version:
            # An older database was put back: nobody's version means what it meant.
            self.epoch += 1
        if not self.is_ready or version < self.version or salt != self._salt:
            self._complete_from = version
        self._salt = salt
        if catalogue != self._catalogue:
            self._catalogue, self._catalogue_since = catalogue, version
        if access != self._access:
            self._access, self._access_since = access, version
        gone = self._keys.keys() - {key.id for key in keys}
        self._put_keys(version, keys, gone)

    def publish_keys(self, version: int, keys: tuple[Key, ...], asked: frozenset[int]) -> None:
        """Only the keys `asked` may have changed; those of them that are not in `keys` are gone."""
        self._put_keys(version, keys, asked - {key.id for key in keys})

    def _put_keys(self, version: int, keys: tuple[Key, ...], gone: set[int] | frozenset[int]) -> None:
        for key in keys:
            if self._keys.get(key.id) != key:
                self._keys[key.id] = key
                self._key_since[key.id] = version
                self._removed_since.pop(key.id, None)
        for key_id in gone:
            if self._keys.pop(key_id, None) is not None:
                self._key_since.pop(key_id, None)
                self._removed_since[key_id] = version
        if len(self._removed_since) > REMOVALS_MAX:
            self._removed_since.clear()
            self._complete_from = version
        self.version = version

    # Holders

    def hear(self, holder: str, epoch: int, version: int, now: float) -> int:
        """Notes a call of a holder and what it acknowledges by it; answers the call's turn."""
        known = self._holders.setdefault(holder, _Holder(now))
        known.heard_at = now
        known.watching += 1
        known.turn += 1
        known.version = version if epoch == self.epoch else -1
        return known.turn

    def leave(self, holder: str, now: float) -> None:
        """A call of the holder ends, answered or not."""
        known = self._holders.get(holder)
        if known is not None:
            known.watching -= 1
            known.heard_at = now

    def has_news(self, holder: str, epoch: int, version: int, turn: int) -> bool:
        """Whether a call shall be answered at once; one that a newer call has overtaken shall end, too."""
        known = self._holders.get(holder)
        overtaken = known is None or known.turn != turn
        recalled = known is not None and bool(known.recalls)
        return overtaken or recalled or epoch != self.epoch or version != self.version

    def update_for(self, holder: str, epoch: int, version: int, turn: int) -> DirectoryUpdate:
        """What this holder does not know yet. Its recalls are told once, to its newest call."""
        known = self._holders.get(holder)
        recalls: tuple[str, ...] = ()
        if known is not None and known.turn == turn:
            recalls = tuple(sorted(known.recalls))
            known.recalls.clear()
        if epoch != self.epoch or not self._complete_from <= version <= self.version:
            return DirectoryUpdate(
                epoch=self.epoch,
                version=self.version,
                full=True,
                catalogue=self._catalogue,
                keys=tuple(self._keys.values()),
                access=self._access,
                recalls=recalls,
                salt=self._salt,
            )
        # In order of id: a secret that is replaced goes on under a younger id, which must come last.
        changed = sorted(key_id for key_id, since in self._key_since.items() if since > version)
        return DirectoryUpdate(
            epoch=self.epoch,
            version=self.version,
            catalogue=self._catalogue if self._catalogue_since > version else None,
            keys=tuple(self._keys[key_id] for key_id in changed),
            removed_key_ids=tuple(sorted(key_id for key_id, since in self._removed_since.items() if since > version)),
            access=self._access if self._access_since > version else None,
            recalls=recalls,
        )

    def recall(self, holder: str, slice_ids: frozenset[str]) -> bool:
        """Asks a holder for slices back. False: it is not there to be asked."""
        known = self._holders.get(holder)
        if known is None:
            return False
        known.recalls |= slice_ids
        return True

    def acknowledged(self, version: int, now: float) -> tuple[int, int]:
        """How many of the living holders have acknowledged `version`, and how many there are."""
        living = [each for each in self._holders.values() if self._lives(each, now)]
        return sum(each.version >= version for each in living), len(living)

    def forget_the_gone(self, now: float) -> tuple[str, ...]:
        """Names of holders that went; they are unknown from now on."""
        gone = tuple(name for name, each in self._holders.items() if not self._lives(each, now))
        for name in gone:
            del self._holders[name]
        return gone

    def living(self, now: float) -> tuple[str, ...]:
        return tuple(sorted(name for name, each in self._holders.items() if self._lives(each, now)))

    @staticmethod
    def _lives(holder: _Holder, now: float) -> bool:
        return holder.watching > 0 or now - holder.heard_at <= ALIVE_S
