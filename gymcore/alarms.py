"""
Timers that hardly ever ring: setting one and taking it back costs a fifth of what the event loop's own do.

Every model call, rollout and clean-up has a bound, and almost none is met. Bounds of the same length end in the order
in which they began, so for each length one timer of the loop is enough, set for whichever is the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm", "Alarms"]

EARLY_S = 0.001
"""An alarm may ring so much too early, because the loop's own timers do."""


class Alarm:
    """A bound that runs; `cancel` takes it back."""

    __slots__ = ("_others", "due", "ring")

    def __init__(self, others: dict[Alarm, None], due: float, ring: Callable[[], None]) -> None:
        self._others = others
        self.due = due
        self.ring: Callable[[], None] | None = ring

    def cancel(self) -> None:
        """Do not ring; nothing happens where it has rung already, or was cancelled."""
        self._others.pop(self, None)
        self.ring = None  # it leads to whoever holds this alarm: cut, both are freed at once


class Alarms:
    """Sets alarms on the running event loop."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[float, _Row] = {}

    def after(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        """
        Call `ring` when some time has passed.

        Args:
            seconds: How long. There should be few different lengths: something is kept for each.
            ring: Called once, on the event loop, unless the alarm is cancelled before.
        """
        row = self._rows.get(seconds)
        if row is None:
            row = self._rows[seconds] = _Row(asyncio.get_running_loop())
        alarm = Alarm(row.alarms, row.loop.time() + seconds, ring)
        row.alarms[alarm] = None
        if not row.is_watched:
            row.watch(alarm.due)
        return alarm


class _Row:
    """Alarms of the same length, the first to ring at the head."""

    __slots__ = ("alarms", "is_watched", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.alarms: dict[Alarm, None] = {}
        self.is_watched = False

    def watch(self, due: float) -> None:
        """Have a look when an alarm is due; it may be cancelled by then, and the next one be the first."""
        self.is_watched = True
        self.loop.call_at(due, self._look)

    def _look(self) -> None:
        now = self.loop.time() + EARLY_S
        try:
            for alarm in list(self.alarms):
                if alarm.due > now:
                    break
                ring = alarm.ring  # None where another one that rang has cancelled it
                alarm.cancel()
                if ring is not None:
                    ring()
        finally:
            self.is_watched = False
            if self.alarms:
                self.watch(next(iter(self.alarms)).due)
