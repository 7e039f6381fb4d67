"""Which hosts images may come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from fnmatch import fnmatchcase

from segloop.errors import ImageForbidden

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class HostPolicy:
    """Which hosts and addresses may be connected to: the rules of `Settings.image_hosts`.

    A host listed by its full name is trusted whatever its address. A host that only a pattern matches, or
    any host while nothing is listed, must have a public address or one that is listed (10.1.2.3, 10.0.0.0/8,
    10.1.*). `trusted`, (host, port) of Label Studio, is always allowed.
    """

    def __init__(self, patterns: Iterable[str], trusted: tuple[str, int]) -> None:
        self._patterns = tuple(pattern.lower().strip("[]").rstrip(".") for pattern in patterns)
        self._trusted = trusted

    def check_host(self, host: str, port: int) -> None:
        """Refuse a host by its name alone, so that names that are not allowed are not even looked up.

        Raises:
            ImageForbidden: no address of this host could be allowed.
        """
        host = host.lower().rstrip(".")
        if (host, port) == self._trusted or not self._patterns or self._names(host):
            return
        if not any(_is_address_pattern(pattern) for pattern in self._patterns):
            raise ImageForbidden(f"images from {host} are not allowed: add it to SEGLOOP_IMAGE_HOSTS")

    def check_address(self, host: str, port: int, address: Address) -> None:
        """Refuse an address that a host has.

        Raises:
            ImageForbidden: the address is private and not listed, or the host is not listed.
        """
        host = host.lower().rstrip(".")
        address = _embedded(address)
        if (host, port) == self._trusted or host in self._patterns or self._lists(address):
            return
        if self._patterns and not self._names(host):
            raise ImageForbidden(f"images from {host} are not allowed: add it to SEGLOOP_IMAGE_HOSTS")
        if not address.is_global or address.is_multicast:
            raise ImageForbidden(
                f"{host} has the private address {address}: to allow it add {host} to SEGLOOP_IMAGE_HOSTS"
            )

    def _names(self, host: str) -> bool:
        return any(fnmatchcase(host, pattern) for pattern in self._patterns)

    def _lists(self, address: Address) -> bool:
        return any(_covers(pattern, address) for pattern in self._patterns)


def _is_address_pattern(pattern: str) -> bool:
    return pattern[:1].isdigit() or ":" in pattern


def _covers(pattern: str, address: Address) -> bool:
    if not _is_address_pattern(pattern):
        return False
    try:
        return address in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return fnmatchcase(str(address), pattern)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for (mapped, 6to4, NAT64), else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
