"""Whether what is sent to a server stays on this machine.

Rules: a name is not resolved. What is not surely this machine is another one.
"""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["is_this_machine"]


def is_this_machine(name: str) -> bool:
    """Tell whether a host's name or address is this machine's own."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
