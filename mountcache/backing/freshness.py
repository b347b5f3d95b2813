"""RFC 9110 and 9111 as pure functions: dates, lifetimes, validators.

Dates are parsed strictly, since an invalid one means stale; the parsers of the standard library
are too lenient for a cache.
"""

from __future__ import annotations

import calendar
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mountcache.abc import Facts
from mountcache.backing.wire import digest_of, is_ours

__all__ = [
    "MONTHS",
    "Validators",
    "conditions",
    "facts_from",
    "facts_of_304",
    "lifetime",
    "parse_date",
    "storable",
    "strong_version",
    "validators_from",
]

_DAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_LONG_DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONTH = "|".join(MONTHS)
_TIME = r"(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"
_FORMATS = [
    re.compile(rf"(?:{_DAYS}), (?P<d>\d\d) (?P<mon>{_MONTH}) (?P<y>\d{{4}}) {_TIME} GMT", re.A),
    re.compile(rf"(?:{_LONG_DAYS}), (?P<d>\d\d)-(?P<mon>{_MONTH})-(?P<y>\d\d) {_TIME} GMT", re.A),
    re.compile(rf"(?:{_DAYS}) (?P<mon>{_MONTH}) (?P<d>[ \d]\d) {_TIME} (?P<y>\d{{4}})", re.A),
]
_DAY = 86400.0
_RACY = 2.0
_ETAG = re.compile(r'(?P<weak>W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_DIRECTIVE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^,\s]*))?')
_DELTA = re.compile(r"\d+", re.A)
_LENGTH = re.compile(r"\d{1,18}", re.A)
"""No value is as long as 10**18 bytes, and no file could be."""


def parse_date(text: str | None, *, year_now: int = 2026) -> float | None:
    """Return an HTTP date in seconds since 1970, None if it isn't one (RFC 9110 5.6.7).

    IMF-fixdate, RFC 850 and asctime are dates; nothing else is.
    """
    if text is None:
        return None
    for pattern in _FORMATS:
        found = pattern.fullmatch(text)
        if found is None:
            continue
        year = int(found["y"])
        if year < 100:
            year += 1900 if year + 2000 > year_now + 50 else 2000
        day, month = int(found["d"]), MONTHS.index(found["mon"]) + 1
        hour, minute, second = int(found["h"]), int(found["m"]), int(found["s"])
        in_month = calendar.monthrange(year, month)[1] if year >= 1 else 0
        if not (1 <= day <= in_month and hour < 24 and minute < 60 and second <= 60):
            return None
        return float(calendar.timegm((year, month, day, hour, minute, min(second, 59), 0, 0, 0)))
    return None


def _directives(headers: Mapping[str, str]) -> dict[str, str | None]:
    """Return the directives of Cache-Control, their names in lower case (RFC 9111 5.2)."""
    found: dict[str, str | None] = {}
    for name, value in _DIRECTIVE.findall(headers.get("Cache-Control", "")):
        found.setdefault(name.lower(), value.strip('"') or None)
    return found


def storable(headers: Mapping[str, str]) -> bool:
    """Return whether a copy may be kept: no no-store, and no Vary that names all (RFC 9111 3)."""
    names = [name.strip() for name in headers.get("Vary", "").split(",")]
    return "no-store" not in _directives(headers) and "*" not in names


def lifetime(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return for how many seconds from now an answer stays fresh (RFC 9111 4.2).

    max-age, else Expires, else a tenth of the age since Last-Modified, at most a day (4.2.2);
    upstream's Age is counted. None if it has to be revalidated each time.
    """
    said = _directives(headers)
    if "no-cache" in said or "no-store" in said:
        return None
    date = parse_date(headers.get("Date"))
    span: float | None = None
    if "max-age" in said:
        text = said["max-age"] or ""
        span = float(text) if _DELTA.fullmatch(text) else 0.0
    elif "Expires" in headers:
        expires = parse_date(headers["Expires"])
        span = 0.0 if expires is None else expires - (now if date is None else date)
    else:
        modified = parse_date(headers.get("Last-Modified"))
        if modified is not None:
            span = min(max(0.0, (now if date is None else date) - modified) / 10, _DAY)
    if span is None:
        return None
    age_text = headers.get("Age", "0").strip()
    age = float(age_text) if _DELTA.fullmatch(age_text) else 0.0
    apparent = 0.0 if date is None else max(0.0, now - date)
    left = min(span, 2**31) - max(age, apparent)
    return left if left > 0 else None


@dataclass(frozen=True, slots=True)
class Validators:
    """What names a representation, as an answer told it."""

    etag: str | None = None
    modified: str | None = None
    strong: bool = False
    """The ETag names the bytes beyond doubt."""
    racy: bool = False
    """Too young to be trusted: the next question is asked without a condition."""

    def dump(self) -> str:
        """Return them as text, "" if there are none."""
        if self.etag is None and self.modified is None:
            return ""
        return json.dumps([self.etag, self.modified, self.strong, self.racy])

    @classmethod
    def load(cls, text: str | None) -> Validators:
        """Return what `dump` wrote; none of what it didn't."""
        try:
            etag, modified, strong, racy = json.loads(text or "[null, null, false, false]")
        except (TypeError, ValueError, RecursionError):
            return cls()
        return cls(etag, modified, strong, racy)


def validators_from(headers: Mapping[str, str]) -> Validators:
    """Return the validators of an answer, graded.

    A strong ETag is *strong* if the answer has no Last-Modified, or a Date at least 2 s past
    it: two writes within a second get the same ETag from servers that make it of time and
    size. Every other is weak; one without such a Date is racy as well. Those of our own server
    are hashes of the content: strong, whatever its dates.
    """
    etag = headers.get("ETag")
    found = None if etag is None else _ETAG.fullmatch(etag.strip())
    modified_text = headers.get("Last-Modified")
    modified, date = parse_date(modified_text), parse_date(headers.get("Date"))
    if modified is None:
        modified_text = None
    settled = modified is None or (date is not None and date - modified >= _RACY)
    settled = settled or is_ours(headers)
    if found is None:
        return Validators(None, modified_text, False, not settled)
    return Validators(found.group(), modified_text, found["weak"] is None and settled, not settled)


def strong_version(headers: Mapping[str, str]) -> str | None:
    """Return the opaque part of a strong ETag, None if there is none."""
    found = validators_from(headers)
    return found.etag.strip('"') if found.strong and found.etag is not None else None


def conditions(validators: Validators) -> dict[str, str]:
    """Return the headers that ask whether a representation still holds (RFC 9110 13.1)."""
    if validators.racy:
        return {}
    if validators.etag is not None:
        return {"If-None-Match": validators.etag}
    if validators.modified is not None:
        return {"If-Modified-Since": validators.modified}
    return {}


def facts_from(headers: Mapping[str, str], *, now: float, whole: bool = True) -> Facts:
    """Return what the headers of an answer to GET or HEAD say of the data.

    Parameters
    ----------
    whole
        The answer is of the whole representation, so that Content-Length is its size.
    """
    encoded = headers.get("Content-Encoding", "identity").lower() != "identity"
    validators = Validators() if encoded else validators_from(headers)
    length = headers.get("Content-Length", "")
    measured = whole and not encoded and "Transfer-Encoding" not in headers
    size = int(length) if measured and _LENGTH.fullmatch(length) else None
    return Facts(
        version=validators.etag.strip('"') if validators.strong and validators.etag else None,
        validators=validators.dump(),
        size=size,
        sha256=None if encoded else digest_of(headers),
        lifetime=lifetime(headers, now=now),
        storable=storable(headers),
        modified=parse_date(headers.get("Last-Modified")),
        mimetype=headers.get("Content-Type", "application/octet-stream").split(";")[0].strip(),
    )


def facts_of_304(headers: Mapping[str, str], *, now: float) -> Facts:
    """Return what an answer adds to the copy that it confirms (RFC 9111 4.3.4).

    That is no version: a weak tag or a date that still holds doesn't say that the bytes are the
    very ones which a strong tag names now.
    """
    facts = replace(facts_from(headers, now=now, whole=False), version=None)
    return facts if "ETag" in headers else replace(facts, validators="")
