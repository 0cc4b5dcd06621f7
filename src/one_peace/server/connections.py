"""Connections, of which there are only so many: one that asks for nothing gives way, one that reads nothing ends."""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

UNREAD = 60.0  # seconds that an answer waits for its reader: players that paused ask for the rest by Range


class YieldingConnection(H11Protocol):
    """A connection that is closed when there are too many and it is the one that was silent for longest, or when its
    answer is not read.

    Otherwise a stranger who opens them, and sends nothing or a byte now and then, would keep everybody else out: the
    limits on requests begin with a request, and a key is asked for in one. A connection whose request is being worked
    on never gives way; of those there are fewer than connections. So one that does not read its answer is ended, or
    some readers of large files would keep everybody else out in their turn.
    """

    _heard = 0.0  # when it was opened or last sent something, by the loop's clock
    _end: asyncio.TimerHandle | None = None  # while the other side does not read

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # as the base class narrows it
        self._heard = self.loop.time()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            others = [one for one in self.connections if isinstance(one, YieldingConnection) and one is not self]
            if idle := [one for one in others if one._idle]:
                oldest = min(idle, key=lambda one: one._heard)
                self.connections.discard(oldest)  # now, for the next request to be counted right
                oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        self._keep()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        super().connection_lost(exc)

    def _keep(self) -> None:
        if self._end is not None:
            self._end.cancel()

    @property
    def _idle(self) -> bool:
        """Whether no request of it is being worked on."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()


def most_connections(wanted: int) -> int:
    """How many connections there may be: `wanted`, or half of the files that this process may open, since it has others
    to open."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if open_files == resource.RLIM_INFINITY else min(wanted, open_files // 2)
