"""Are the bytes that are here what they were? Every one of them is read and compared.

Beside readers and pushes of others: what is wrong is looked up again, so that nothing is called
lost which somebody has just replaced. `mountcache.local.doctor` looks at the directory as well, and
mends a database; this is about the bytes of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal

from mountcache.errors import AuthorizationError, StoreError, StoreUnavailableError
from mountcache.local import undo
from mountcache.local.records import Copy, Row
from mountcache.local.view import matcher
from mountcache.sync.look import look
from mountcache.sync.mount import Mount, Mounted
from mountcache.sync.prefetch import fetch_keys
from mountcache.sync.residence import matching

__all__ = ["Flaw", "VerifyReport", "verify"]

_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Flaw:
    """A key whose bytes aren't what they were, or aren't what upstream has."""

    key: str
    where: Literal["staged", "push", "cached", "undo", "upstream"]
    """upstream: the copy is whole, and upstream has something else."""
    what: str
    """A clause about the bytes, such as "is gone"."""
    mended: str = ""
    """What was done about it; "" if nothing was."""


@dataclass(slots=True)
class VerifyReport:
    """What was compared."""

    values: int = 0
    """Byte strings that were read here."""
    bytes: int = 0
    compared: int = 0
    """Copies that were compared with upstream."""
    unsure: int = 0
    """Copies of which upstream tells neither version nor digest."""
    unreachable: str = ""
    """Why upstream couldn't be asked, if it couldn't."""
    flaws: list[Flaw] = field(default_factory=list)


def verify(
    store: Mounted,
    pattern: str = "*",
    *,
    repair: bool = False,
    remote: bool = False,
    workers: int = 8,
    progress: Callable[[int, int, str], object] | None = None,
) -> VerifyReport:
    """Compare the bytes that are here with their digests.

    Parameters
    ----------
    store
        A mounted store.
    pattern
        A shell pattern of keys; ``*`` crosses "/".
    repair
        Drop damaged copies, so that they are fetched again, and let go of damaged undo entries.
        What is staged stays in any case: nobody else has it.
    remote
        Ask upstream after each clean copy as well, and compare versions and digests. No data is
        asked for.
    workers
        How many questions to upstream are on their way at once.
    progress
        Called as ``progress(done, -1, key)`` for each value.
    """
    mount = store.mount
    mount.staging.refuse_in_transaction("verify")
    if repair:
        mount.refuse_frozen("verify with repair")
    report = VerifyReport()
    told = progress if progress is not None else _nobody
    _verify_staged(mount, pattern, report, told)
    _verify_undo(mount, pattern, report, told, repair=repair)
    _verify_copies(mount, pattern, report, told, repair=repair)
    if remote:
        _compare(mount, pattern, report, workers, told)
    return report


def _nobody(done: int, total: int, key: str) -> None:
    """Take a step that nobody watches."""


def _wrong(mount: Mount, report: VerifyReport, content: str, sha: str | None, size: int) -> str:
    report.values += 1
    report.bytes += size
    return mount.catalog.wrong_with(content, sha, size)


def _verify_staged(
    mount: Mount, pattern: str, report: VerifyReport, told: Callable[[int, int, str], object]
) -> None:
    for row, _ in matching(mount, "staged", pattern):
        for where, has in (("staged", row.edit), ("push", row.op)):
            if has is None or has.content is None:
                continue
            if row.edit is not None and where == "push" and has.content == row.edit.content:
                continue
            wrong = _wrong(mount, report, has.content, has.sha256, has.size or 0)
            if wrong and _still(mount.catalog.row(row.key), has.content):
                what = f"{wrong}; it isn't sent: stage it again, or revert it"
                flaw = Flaw(mount.full(row.key), "push" if where == "push" else "staged", what)
                report.flaws.append(flaw)
            told(report.values, -1, mount.full(row.key))


def _still(row: Row, content: str) -> bool:
    return any(each is not None and each.content == content for each in (row.edit, row.op))


def _verify_undo(
    mount: Mount,
    pattern: str,
    report: VerifyReport,
    told: Callable[[int, int, str], object],
    *,
    repair: bool,
) -> None:
    matches = matcher({}, pattern)
    catalog = mount.catalog
    for taken in undo.pages(catalog.content):
        key = mount.full(taken.key)
        if taken.content is None or not matches(key, {}):
            continue
        wrong = _wrong(mount, report, taken.content, taken.sha256, taken.size or 0)
        if wrong and undo.is_kept(catalog.content.connection(), taken):
            if repair:
                with catalog.content.write() as con:
                    if undo.is_kept(con, taken):
                        undo.forget(con, catalog.content, taken.seq)
            mended = "it is let go" if repair else ""
            report.flaws.append(Flaw(key, "undo", wrong, mended))
        told(report.values, -1, key)


def _verify_copies(
    mount: Mount,
    pattern: str,
    report: VerifyReport,
    told: Callable[[int, int, str], object],
    *,
    repair: bool,
) -> None:
    catalog = mount.catalog
    sound: list[Copy] = []
    for row, pinned in matching(mount, "cached", pattern):
        copy = row.copy
        if copy is None:
            continue
        key = mount.full(row.key)
        wrong = _wrong(mount, report, copy.content, copy.sha256, copy.size)
        if not wrong:
            if copy.boot != catalog.content.boot and not catalog.content.readonly:
                sound.append(copy)
        elif (now := catalog.row(row.key).copy) is not None and now.content == copy.content:
            mended = _mend(mount, copy, pinned=pinned) if repair else ""
            report.flaws.append(Flaw(key, "cached", wrong, mended))
        if len(sound) == _BATCH:
            catalog.note_sound(*sound)
            sound.clear()
        told(report.values, -1, key)
    if sound:
        catalog.note_sound(*sound)


def _mend(mount: Mount, copy: Copy, *, pinned: bool) -> str:
    mount.catalog.drop_copy(copy.key, content=copy.content)
    if not pinned:
        return "it is dropped, and fetched again at the next read"
    try:
        failed = fetch_keys(mount, [copy.key], pin=True).failed
        why = next(iter(failed.values()), "")
    except StoreError as error:
        why = str(error)
    return f"it is dropped, and couldn't be fetched: {why}; pin it again" if why else (
        "it is fetched again, and stays pinned"
    )  # fmt: skip


# -- beside upstream ---------------------------------------------------------------------------


def _compare(
    mount: Mount,
    pattern: str,
    report: VerifyReport,
    workers: int,
    told: Callable[[int, int, str], object],
) -> None:
    with ThreadPoolExecutor(workers, "mountcache-verify") as pool:
        for copies in _batches(mount, pattern):
            try:
                found = list(pool.map(lambda copy: _against(mount, copy), copies))
            except (StoreUnavailableError, AuthorizationError) as error:
                report.unreachable = str(error)
                return
            for copy, what in zip(copies, found, strict=True):
                report.compared += 1
                if what is None:
                    report.unsure += 1
                elif what:
                    report.flaws.append(Flaw(mount.full(copy.key), "upstream", what))
                told(report.values + report.compared, -1, mount.full(copy.key))


def _batches(mount: Mount, pattern: str) -> Iterator[Sequence[Copy]]:
    copies = (
        row.copy
        for row, _ in matching(mount, "cached", pattern)
        if row.copy is not None and row.edit is None
    )
    while batch := list(islice(copies, _BATCH)):
        yield batch


def _against(mount: Mount, copy: Copy) -> str | None:
    """Return in what upstream differs from a copy, "" if in nothing, None if nobody can tell."""
    try:
        theirs = look(mount, copy.key)
    except (StoreUnavailableError, AuthorizationError):
        raise
    except StoreError as error:
        return f"can't be compared: {error}"
    if not theirs.present:
        return "is gone upstream"
    if theirs.sha256 is not None and theirs.sha256 != copy.sha256:
        return "has other bytes upstream"
    if theirs.version is not None and copy.version is not None:
        return "" if theirs.version == copy.version else "has another version upstream"
    return "" if theirs.sha256 is not None else None
