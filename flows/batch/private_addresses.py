"""Which addresses belong to a machine of the public internet, and which do not."""

import ipaddress

NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_private(address: str) -> bool:
    """Whether an address is anything but a machine of the public internet."""
    ip: Address = ipaddress.ip_address(address.partition("%")[0])
    wrapped: list[Address | None] = []
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip in NAT64:  # an IPv4 machine by another spelling
            return is_private(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        wrapped = [ip.sixtofour, *(ip.teredo or ())]
        if ip.is_site_local:
            return True
    if any(one is not None and is_private(str(one)) for one in wrapped):
        return True
    kinds = (ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_multicast, ip.is_reserved, ip.is_unspecified)
    return any(kinds) or not ip.is_global
