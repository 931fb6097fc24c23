"""The parameters of rr.

Runs in: master. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.api import Param

MAX_CALLS: Final = 16384  # 8 MiB
FEWEST_CALLS: Final = 64  # of one receiver


def _check_calls(value: object) -> str:
    return "" if isinstance(value, int) and FEWEST_CALLS <= value <= 1 << 20 else f"must be {FEWEST_CALLS} to {1 << 20}"


def _check_ack(value: object) -> str:
    return "" if value in {"drop", "pass"} else "must be drop or pass"


def params() -> tuple[Param, ...]:
    """What ``modparam`` may set."""
    return (
        Param("append_fromtag", "int", 1, "put the From tag into Record-Route as ftag", attribute="append_fromtag"),
        Param(
            "enable_double_rr",
            "int",
            1,
            "two Record-Routes when the request leaves by another address than it came in by",
            attribute="enable_double_rr",
        ),
        Param("enable_full_lr", "int", 0, "write lr=on instead of lr", attribute="enable_full_lr"),
        Param("add_username", "int", 0, "put the user of the Request-URI into Record-Route", attribute="add_username"),
        Param(
            "cookie_filter",
            "str",
            "",
            "regular expression: attributes with other names are not taken out of a cookie",
            attribute="cookie_filter",
        ),
        Param(
            "cookie_secret",
            "str",
            "",
            "key of the cookies, the same on all members of a farm; empty: see cookie_secret_file",
            attribute="cookie_secret",
        ),
        Param(
            "cookie_secret_file",
            "str",
            "",
            "file with the key, made when missing; empty: rr.secret in the run directory",
            attribute="cookie_secret_file",
        ),
        Param("user_part_avp", "avp", "", "attribute with the user part of Record-Route", attribute="user_part_avp"),
        Param("next_route_avp", "avp", "", "attribute that gets the next Route URI", attribute="next_route_avp"),
        Param(
            "force_send_socket",
            "int",
            1,
            "leave by the address in the second half of a double Record-Route",
            attribute="force_send_socket",
        ),
        Param("dialogs", "int", 1, "remember calls, and let only requests that belong to one follow its Route set"),
        Param("max_calls", "int", MAX_CALLS, "calls remembered at once, 512 bytes each", check=_check_calls),
        Param(
            "source_check",
            "int",
            1,
            "a request in a dialog comes from a host that its side has used, or its sender is authenticated",
        ),
        Param(
            "stray_ack",
            "str",
            "drop",
            "an ACK that belongs to no call: drop it, or pass it to the script",
            check=_check_ack,
        ),
        Param(
            "gateway_avp",
            "avp",
            "$g.gw_ip",
            "attribute with the address of the gateway, in whose calls only its Contacts may be asked for",
        ),
    )
