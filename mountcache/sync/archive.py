"""The file in which edits or copies travel: a zip archive that any tool can open.

``content/SHA256`` are the byte strings, each once and uncompressed; ``manifest.json``, written
last, says what they are. The comment of the archive has the digest of the manifest, and that of
each byte string is its name: a file that is cut or damaged anywhere shows it. Nothing is ever
extracted under a name that the archive gives. Next door: `bundle` (what is done with it).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal

from mountcache.abc import Readable, chunks
from mountcache.errors import IntegrityError, StoreError, StoreFullError
from mountcache.jsonform import METADATA_LIMIT, spelling
from mountcache.local.content import full

__all__ = ["Archive", "Fields", "Kind", "Writer", "opened", "written"]

Kind = Literal["staged", "cached"]

FORMAT: Final = "mountcache bundle"
VERSION: Final = 1
LONGEST_MANIFEST: Final = 256 * 1048576
"""Bytes of a manifest, which is read as a whole."""

_MANIFEST: Final = "manifest.json"
_CONTENT: Final = "content/"
_COMMENT: Final = "mountcache bundle; manifest.json has sha256 "
_SHA256: Final = re.compile("[0-9a-f]{64}")
_PIECE: Final = 1048576
_LARGE: Final = 2**30
"""From this many bytes on a member gets the long form of its header."""

_BROKEN: Final = (
    zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, KeyError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip
"""What the zip module raises of an archive that isn't one."""


class Writer:
    """A bundle on its way out.

    Parameters
    ----------
    file
        Where it goes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._names: set[str] = set()

    def has(self, sha256: str) -> bool:
        """Whether a byte string is in it already."""
        return sha256 in self._names

    def add(self, sha256: str, size: int, stream: Readable) -> bool:
        """Add a byte string; False, and the archive is spoilt, if it isn't what its name says."""
        info = zipfile.ZipInfo(_CONTENT + sha256)
        found, length = hashlib.sha256(), 0
        with self._zip.open(info, "w", force_zip64=size >= _LARGE) as member:
            for chunk in chunks(stream, _PIECE):
                length += len(chunk)
                if length > size:
                    return False
                found.update(chunk)
                member.write(chunk)
        self._names.add(sha256)
        return length == size and found.hexdigest() == sha256

    def finish(self, manifest: bytes) -> None:
        """Write the manifest, and close."""
        if len(manifest) > LONGEST_MANIFEST:
            raise StoreError(
                f"what there is to say of so many keys takes {len(manifest):,} bytes, and a bundle "
                f"takes {LONGEST_MANIFEST:,}; make several, each of some of the keys"
            )
        self._zip.writestr(zipfile.ZipInfo(_MANIFEST), manifest)
        self._zip.comment = (_COMMENT + hashlib.sha256(manifest).hexdigest()).encode()
        self._zip.close()

    def close(self) -> None:
        """Let go of the archive, finished or not; harmless when repeated."""
        with suppress(OSError, ValueError):
            self._zip.close()


@contextmanager
def written(path: Path) -> Iterator[Writer]:
    """Write a bundle beside `path`; it gets that name when all of it is on the disk.

    Raises
    ------
    StoreFullError
        If there is no room for it.
    """
    aside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.unfinished")
    try:
        with open(aside, "xb") as file:
            writer = Writer(file)
            try:
                yield writer
            finally:
                writer.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        if full(error):
            raise StoreFullError(
                f"there is no room for {path}, or its file system takes no file so large; "
                "choose another place, or fewer keys"
            ) from error
        raise
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    with suppress(OSError):  # file systems of sticks needn't know how
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Fields:
    """The fields of one object of a manifest, each with the type that it has to have.

    Parameters
    ----------
    said
        The object.
    damaged
        Makes the error of one that hasn't.
    """

    def __init__(self, said: object, damaged: Callable[[str], Exception]) -> None:
        if not isinstance(said, dict):
            raise damaged("its manifest has something else where an object belongs")
        self._said: Mapping[str, Any] = said
        self._damaged = damaged

    def _wrong(self, name: str) -> Exception:
        return self._damaged(f"its manifest has no {name} that makes sense")

    def text(self, name: str) -> str:
        value = self._said.get(name)
        if not isinstance(value, str):
            raise self._wrong(name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._wrong(name) from None
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._said.get(name) is None else self.text(name)

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        if (value := self.text(name)) not in choices:
            raise self._wrong(name)
        return value

    def digest(self, name: str) -> str:
        if _SHA256.fullmatch(value := self.text(name)) is None:
            raise self._wrong(name)
        return value

    def whole(self, name: str) -> int:
        value = self._said.get(name)
        if type(value) is not int or not 0 <= value < 2**62:
            raise self._wrong(name)
        return value

    def time(self, name: str) -> float:
        value = self._said.get(name)
        # An integer may be larger than any float.
        if type(value) is int and abs(value) < 2**53:
            return float(value)
        if not isinstance(value, float) or not math.isfinite(value):
            raise self._wrong(name)
        return value

    def time_or_none(self, name: str) -> float | None:
        return None if self._said.get(name) is None else self.time(name)

    def metadata(self, name: str) -> str:
        """Return metadata as the JSON text that they were spelled as."""
        text = self.text(name)
        try:
            if len(text) > METADATA_LIMIT or not text.startswith("{"):
                raise ValueError
            spelling(json.loads(text))
        except (ValueError, RecursionError):
            raise self._wrong(name) from None
        return text

    def metadata_or_none(self, name: str) -> str | None:
        return None if self._said.get(name) is None else self.metadata(name)

    def fields(self, name: str) -> Fields:
        return Fields(self._said.get(name), self._damaged)

    def each(self, name: str) -> Iterator[Fields]:
        """Iterate over the objects of a list."""
        value = self._said.get(name)
        if not isinstance(value, list):
            raise self._wrong(name)
        return (Fields(each, self._damaged) for each in value)


class Archive:
    """A bundle that is being read.

    Parameters
    ----------
    path
        What it is called in errors.
    file
        The file.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        with self._whole():
            self._zip = zipfile.ZipFile(file)
            self._sizes = self._members(os.fstat(file.fileno()).st_size)
            self.manifest = Fields(self._read_manifest(), self.damaged)
        version = self.manifest.whole("version")
        if version > VERSION:
            raise StoreError(
                f"{path} is of format {version}, which a later mountcache wrote; this one reads "
                f"{VERSION}: bring it up to date"
            )

    def damaged(self, why: str) -> IntegrityError:
        """Return the error of a bundle that isn't whole."""
        return IntegrityError(
            f"{self._path} is cut, damaged or no bundle ({why}); nothing was imported: copy it "
            "again from where it was made"
        )

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise self.damaged("it points to before its beginning") from error
        except (*_BROKEN, RuntimeError) as error:
            raise self.damaged(str(error) or type(error).__name__) from error

    def _members(self, longest: int) -> dict[str, int]:
        """Return the lengths of the byte strings by name; what they claim has to be there."""
        sizes: dict[str, int] = {}
        for info in self._zip.infolist():
            plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            named = info.filename == _MANIFEST or (
                info.filename.startswith(_CONTENT)
                and _SHA256.fullmatch(info.filename.removeprefix(_CONTENT))
            )
            if not plain or not named or info.file_size != info.compress_size:
                raise self.damaged(f"it holds {info.filename[:80]!r}, which no bundle does")
            if info.filename in sizes:
                raise self.damaged(f"it holds {info.filename!r} twice")
            sizes[info.filename] = info.file_size
        if sum(sizes.values()) > longest:
            raise self.damaged("it holds less than it claims")
        return sizes

    def _read_manifest(self) -> object:
        if self._sizes.get(_MANIFEST, LONGEST_MANIFEST + 1) > LONGEST_MANIFEST:
            raise self.damaged("it has no manifest, or one without end")
        text = self._zip.read(_MANIFEST)
        if self._zip.comment != (_COMMENT + hashlib.sha256(text).hexdigest()).encode():
            raise self.damaged("its manifest isn't the one that was written")
        try:
            said = json.loads(text)
        except RecursionError:
            said = None
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise self.damaged("its manifest isn't that of a bundle")
        return said

    def check(self, wanted: Mapping[str, int], progress: Callable[[int, int], object]) -> None:
        """Read and compare all byte strings.

        Parameters
        ----------
        wanted
            The lengths that the manifest says, by sha256: these, and no others.
        progress
            Called as ``progress(done, total)``, in bytes.

        Raises
        ------
        IntegrityError
            If one is missing, too much, or not what its name says.
        """
        there = {
            name.removeprefix(_CONTENT): size
            for name, size in self._sizes.items()
            if name != _MANIFEST
        }
        if there != wanted:
            raise self.damaged("it doesn't hold what its manifest says")
        done, total = 0, sum(wanted.values())
        for sha256 in wanted:
            found = hashlib.sha256()
            for chunk in self.chunks(sha256):
                found.update(chunk)
                done += len(chunk)
                progress(done, total)
            if found.hexdigest() != sha256:
                raise self.damaged(f"the bytes of content/{sha256[:12]}... are others")

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """Iterate over a byte string."""
        with self._whole(), self._zip.open(_CONTENT + sha256) as member:
            yield from _pieces(member)


def _pieces(member: IO[bytes]) -> Iterator[bytes]:
    while piece := member.read(_PIECE):
        yield piece


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a bundle.

    Raises
    ------
    IntegrityError
        If it isn't whole.
    OSError
        If it can't be read.
    """
    # Without waiting: a pipe is no bundle.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StoreError(f"{path} is no file, so it is no bundle")
        yield Archive(path, file)
