"""Sets of IP networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network


class Networks:
    """A set of IP networks, asked with the numeric host of a peer: `"192.0.2.1" in networks`."""

    __slots__ = ("_networks", "_ranges")

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """Raises ValueError on text that is no network; host bits are allowed (192.0.2.1/24)."""
        self._networks = tuple(ip_network(text, strict=False) for text in networks)
        self._ranges = [
            (network.version, int(network.network_address), int(network.broadcast_address))
            for network in self._networks
        ]

    def __contains__(self, host: str) -> bool:
        if (address := numeric(host)) is not None:
            version, number = address
            for of, first, last in self._ranges:
                if version == of and first <= number <= last:
                    return True
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and other._networks == self._networks

    def __hash__(self) -> int:
        return hash(self._networks)

    def __iter__(self) -> Iterator[IPv4Network | IPv6Network]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    def __repr__(self) -> str:
        return f"Networks({[str(network) for network in self._networks]})"


@lru_cache(maxsize=4096)
def numeric(host: str) -> tuple[int, int] | None:
    """The address that a text is: IP version and number; None: it is none."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return address.version, int(address)
