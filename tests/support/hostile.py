"""Values that somebody might put into a JSON file that is read here, and the places for them."""

from collections.abc import Iterator
from typing import Any

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**48, 2**63, 2**64, 10**400, -(2**63), 0.5, -0.0, 1e308, -1e308, 5e-324),
    *("", " ", "NaN", "x" * 200, "\x1b[31m", "0:0", "3:5 3:6", "9:1 2:1", "0:99999999999999999999", "-1:4", "0x1p+999"),
    *("-0x1p+2", "0x1p+1023 0x1p+1023 0x1p+1023 0x1p+1023", "0x0p+0", "0x2p+0", "1e999", "\ud800"),
    *([], {}, [[]], {"sha256": 1}, [1, 2, 3], [None] * 40, {"a": {"a": {}}}),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value: its container, and its name or number there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from places(item)
