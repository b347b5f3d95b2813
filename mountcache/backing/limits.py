"""What may be asked of an upstream at most, as people write it: rates, and timetables of them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mountcache.errors import ConfigurationError

__all__ = ["Limits", "Timetable", "limits_of", "parse_rate"]

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?B)?|B)?(?:/S)?", re.IGNORECASE)
_ENTRY: Final = re.compile(r"(?:([A-Za-z]{3})-)?(\d\d):(\d\d),(\S+)")


@dataclass(frozen=True, slots=True)
class Timetable:
    """Bytes a second, by the time of the week."""

    entries: tuple[tuple[int, float | None], ...]
    """(minute of the week from Monday 00:00 on, bytes a second from then on; None: any)."""

    def at(self, when: time.struct_time) -> float | None:
        """Return the rate at a local time."""
        minute = (when.tm_wday * 24 + when.tm_hour) * 60 + when.tm_min
        # Before the first entry of a week the last one of the week before holds.
        rate = self.entries[-1][1]
        for begins, this in self.entries:
            if begins > minute:
                break
            rate = this
        return rate


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process asks of an upstream at most. None: no limit."""

    requests: float | None = None
    """Requests a second."""
    bytes: Timetable | None = None
    """Bytes of bodies a second, sent and received together."""
    connections: int | None = None
    """Requests under way at once, their answers' bodies among them."""


def parse_rate(rate: str | float, name: str = "the rate") -> Timetable:
    """Return a rate, or a timetable of rates.

    Parameters
    ----------
    rate
        Bytes a second; or text: "512k", "10 MiB", "off"; or "08:00,512k 18:00,off", with or
        without a day of the week as in "Sat-00:00,off". As with rclone k, M and G are powers of
        1024; kB, MB and GB are powers of 1000.
    name
        What the user calls it.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    if isinstance(rate, str) and "," in rate:
        entries: dict[int, float | None] = {}
        for word in rate.split():
            found = _ENTRY.fullmatch(word)
            day = None if found is None or found[1] is None else found[1].lower()
            if found is None or (day or "mon") not in _DAYS or found[2] > "23" or found[3] > "59":
                raise ConfigurationError(
                    f'{name} is a timetable such as "08:00,512k 18:00,off"; {word!r} is no entry '
                    "of one"
                )
            minute = int(found[2]) * 60 + int(found[3])
            for number in range(7) if day is None else (_DAYS.index(day),):
                entries[number * 24 * 60 + minute] = _one(found[4], name)
        return Timetable(tuple(sorted(entries.items())))
    return Timetable(((0, _one(rate, name)),))


def _one(rate: str | float, name: str) -> float | None:
    if isinstance(rate, str):
        text = rate.strip()
        if text.lower() == "off":
            return None
        found = _RATE.fullmatch(text)
        number = math.nan
        if found is not None:
            thousand = (found[3] or "").upper() == "B"
            power = 1 + "KMGT".index(found[2].upper()) if found[2] else 0
            number = float(found[1]) * float(1000 if thousand else 1024) ** power
    else:
        number = math.nan if isinstance(rate, bool) else float(rate)
    if not 1 <= number < math.inf:
        raise ConfigurationError(
            f'{name} is at least 1 byte a second, or text such as "512k", "10M" or "off", not '
            f"{rate!r}"
        )
    return number


def limits_of(value: object, where: str) -> Limits:
    """Return the limits that a table of mountcache.toml comes to.

    Parameters
    ----------
    value
        The table; or the limits themselves.
    where
        What the user calls it.

    Raises
    ------
    ConfigurationError
        If it is none, or has what is no limit.
    """
    if isinstance(value, Limits):
        return value
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} is a table, not {value!r}")
    known = tuple(field.name for field in dataclasses.fields(Limits))
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name).lower(), known, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
            raise ConfigurationError(f"{where}: unknown key {name!r}; {hint}")
    requests, rate, connections = (value.get(name) for name in known)
    if requests is not None and not (_is_number(requests) and requests > 0):
        raise ConfigurationError(
            f"{where}: requests is a number of requests a second, more than 0, not {requests!r}"
        )
    if connections is not None and not (isinstance(connections, int) and connections >= 1):
        raise ConfigurationError(f"{where}: connections is a number from 1 up, not {connections!r}")
    if rate is not None and not (_is_number(rate) or isinstance(rate, str)):
        raise ConfigurationError(f'{where}: bytes is a rate such as "512k", not {rate!r}')
    return Limits(
        requests, None if rate is None else parse_rate(rate, f"{where}: bytes"), connections
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
