"""What gateways and the scheduler actor say to each other: batches of events one way, commands the other.

A reply repeats every command whose sequence number the gateway has not acknowledged, and a report is sent again
under its number until it is answered, so a lost message loses nothing and a repeated one changes nothing. A restarted
actor has a higher epoch: it refuses messages of another one (StaleEpoch), and the gateway introduces itself anew
(GatewaySeen, in a report of epoch 0). Values only.
"""

from __future__ import annotations

from dataclasses import dataclass

from logos.scheduling.commands import Dispatch, GrantLease, Reject, RevokeLease
from logos.scheduling.events import Event

GatewayCommand = Dispatch | Reject | GrantLease | RevokeLease


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """One batched call of a gateway: what happened since the last one, in order.

    `epoch` 0: an introduction, whose first event is GatewaySeen. `number` rises by one from report to report.
    """

    gateway_id: str
    epoch: int
    number: int
    acknowledged: int  # sequence number of the last command taken in
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class SchedulerReply:
    """Commands in order, the first of them numbered `first`. `addresses` maps engine ids to base URLs."""

    epoch: int
    first: int
    commands: tuple[GatewayCommand, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
