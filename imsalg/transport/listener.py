"""An address of ours and what is served on it."""

from __future__ import annotations

from dataclasses import dataclass

from imsalg.sip.hop import Transport
from imsalg.sip.values import Address
from imsalg.transport.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Listener:
    """transports: UDP, and one of those on TCP, at most. tls: for TLS and WSS. path: of WS and WSS.

    opens_tls: TLS connections may be opened from here; elsewhere peers are reached over their own only.
    reserve: a tenth of all connections is for addresses with one only.
    """

    address: Address
    transports: tuple[Transport, ...] = (Transport.UDP, Transport.TCP)
    tls: TlsFiles | None = None
    path: str = "/"
    opens_tls: bool = False
    reserve: bool = False

    @property
    def stream(self) -> Transport | None:
        """What is served on its TCP port."""
        return next((transport for transport in self.transports if transport.reliable), None)

    def opens(self, transport: Transport) -> bool:
        """Whether a connection is opened when something is to be sent over none. That of a WebSocket is the
        client's business (RFC 7118 section 5.2.4)."""
        match transport:
            case Transport.TCP:
                return transport in self.transports
            case Transport.TLS:
                return self.opens_tls and transport in self.transports
        return False
