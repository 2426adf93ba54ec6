"""Which requests start now: as many as may run, by themselves or as one call with lists; or one at a time."""

import logging
from collections.abc import Callable, Mapping

from interlace.engine.lists.lists import Lists
from interlace.engine.pipeline.tenancy import Tenancy
from interlace.engine.ticket import Ticket
from interlace.engine.tickets.lobby import Lobby

logger = logging.getLogger("interlace.engine")
LOOK_S = 0.05  # between looks at requests that wait for something other than a forward


class TicketAdmission:
    """For one engine, in its thread. `may_join()`: whether requests may run as one call."""

    def __init__(self, tenancy: Tenancy, lobby: Lobby, lists: Lists, may_join: Callable[[], bool]) -> None:
        self._tenancy, self._lobby, self._lists, self._may_join = tenancy, lobby, lists, may_join
        self._told_exclusive = ""

    def groups(self, running: Mapping[str, Ticket]) -> tuple[list[list[Ticket]], float]:
        """Those that start, and in how many seconds to ask again. More than one in a group run as one call."""
        if not self._lobby:
            return [], 0.0
        if not running:
            self._tenancy.refresh()
        exclusive = self._exclusive()
        self._tenancy.wanting = bool(exclusive and self._tenancy.commons.reserved and not running)
        if self._tenancy.wanting or (exclusive and running):
            return [], LOOK_S
        num_running = len(running) - len(self._lists.running)
        starting, wait = self._lobby.admit(num_running, 1 if exclusive else None)
        return (self._lists.groups(starting) if self._may_join() else [[ticket] for ticket in starting]), wait

    def _exclusive(self) -> str:
        """Why requests run one at a time, said once for each reason."""
        reason = self._tenancy.exclusive
        if reason and reason != self._told_exclusive:
            self._told_exclusive = reason
            logger.warning("requests run one at a time: %s", reason)
        return reason or ""
