"""Connections that send the head of a request too slowly are closed: uvicorn itself waits for it for ever."""
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 10.0  # seconds from a connection, or the first byte of a further request, to the end of its head


class PatientH11(H11Protocol):
    """H11Protocol with a bound on the time that a head takes."""

    _timer = None

    def connection_made(self, transport):
        """A client has come: its head is expected."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data):
        """Some bytes of a head or body."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop()
        elif self.cycle is None or self.cycle.response_complete:
            self._expect()

    def connection_lost(self, exc):
        """The client has gone."""
        self._stop()
        super().connection_lost(exc)

    def _expect(self):
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD, self._end)

    def _stop(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self):
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()
