"""How pictures are fetched from the web: how politely, with which headers, and from which addresses."""

import hashlib
import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork

# A header for all hosts, or for one and those below it.
HEADER = re.compile(r"(?:([^\s:]+) +)?([!#$%&'*+.^_`|~0-9A-Za-z-]+): *([\t -~]*)")
SECRET = frozenset({"cookie", "authorization", "proxy-authorization"})
OWN = frozenset({"host", "connection", "accept-encoding", "content-length", "transfer-encoding", "range", "upgrade", "te"})
# IPv6 addresses that are given out, and the prefix behind which a gateway (NAT64) has those of IPv4.
GIVEN_OUT, NAT64 = ip_network("2000::/3"), ip_network("64:ff9b::/96")


def check_header(text: str) -> str:
    """Return the text of a header; raises ValueError for one that can't be sent, or that would tell all hosts a secret."""
    found = HEADER.fullmatch(text)
    if found is None:
        raise ValueError("expected 'NAME: VALUE' or 'HOST NAME: VALUE', as in 'sinaimg.cn Referer: https://weibo.com/'")
    if found[2].lower() in OWN:
        raise ValueError(f"{found[2]} is not yours to set")
    if found[2].lower() in SECRET and found[1] is None:
        raise ValueError(f"posts name the hosts, and all would be told: give the one it is for, 'HOST {found[2]}: VALUE'")
    return text


Header = Annotated[str, AfterValidator(check_header)]


class WebSettings(BaseModel):
    """How pictures are fetched.

    `per_host` requests to a host at once, each `delay` seconds after the last; `seconds` for a picture, redirections
    included; `tries` where another may help, after at most `patience` seconds where the host says how long to wait.
    `headers` as `check_header` has them, a later one before an earlier; `allow_network` those that are reached although they
    are not public.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_host: int = Field(default=4, ge=1, le=64)
    delay: float = Field(default=0.2, ge=0, le=3600)
    seconds: float = Field(default=60, gt=0)
    tries: int = Field(default=3, ge=1, le=10)
    patience: float = Field(default=60, ge=0)
    headers: tuple[Header, ...] = ("sinaimg.cn Referer: https://weibo.com/",)
    allow_network: tuple[IPvAnyNetwork, ...] = ()

    def headers_for(self, host: str) -> dict[str, str]:
        """Return the headers for a host, names in lower case."""
        rules = [found.groups() for found in map(HEADER.fullmatch, self.headers) if found]
        return {name.lower(): value for own, name, value in rules if own is None or f".{host}".endswith(f".{own.lower()}")}

    def may_reach(self, address: str) -> bool:
        """Tell whether an IP address is public, or in a network that is allowed."""
        found = ip_address(address)
        own = (found, embedded(found))
        return is_public(found) or any(one in network for network in self.allow_network for one in own if one is not None)

    def mark(self, *others: object) -> str:
        """Return what tells these settings from those under which an address may be refused otherwise."""
        return hashlib.sha256(repr((self.headers, self.allow_network, others)).encode()).hexdigest()[:12]


def embedded(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for: mapped, 6to4 or NAT64; None for any other."""
    if isinstance(address, IPv4Address):
        return None
    return address.ipv4_mapped or address.sixtofour or (IPv4Address(int(address) % 2**32) if address in NAT64 else None)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether anybody may reach an address: none that is private, shared, local, reserved, or of many hosts."""
    inner = embedded(address)
    if inner is not None:
        return is_public(inner)
    return address.is_global and (not address.is_multicast if isinstance(address, IPv4Address) else address in GIVEN_OUT)
