"""What a disk holds after a power cut, from a trace of what was asked of it.

A trace of a process, made by strace, becomes a list of steps. For each number of them a disk can
hold: what was synced in any case, and of what wasn't whatever it likes. What was written to a
file is safe once that file was synced, the name of a file once its directory was. A disk may
keep later writes and lose earlier ones, and half of a write; the names in one directory change
in the order in which they were changed.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["KEEPING", "Disk", "Step", "trace"]

_CALLS = (
    "openat,open,creat,close,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,"
    "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "dup,dup2,dup3,symlink,symlinkat,sendfile,copy_file_range"
)

_LINE = re.compile(rb"\d+ +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(rb"(\d+) +(\w+\(.*) <unfinished \.\.\.>")
_ENDED = re.compile(rb"(\d+) +<\.\.\. \w+ resumed>(.*)")
_WORD = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?|([^,\s"][^,"]*)')


@dataclass(frozen=True)
class Step:
    """One thing that was asked of the disk.

    ``write`` (to `inode`, `at`, `data`), ``truncate`` (to the length `at`), ``sync``, ``name``
    (in the directory `inode`, `name` is `other` from now on; None: it is gone), ``mkdir`` (the
    same, of a new directory), ``say`` (`data` went to whoever listens).
    """

    verb: str
    inode: int = 0
    at: int = 0
    data: bytes = b""
    name: str = ""
    other: int | None = None

    @property
    def names(self) -> bool:
        """Whether it changes a directory."""
        return self.verb in ("name", "mkdir")


def trace(command: Sequence[str], base: Path, said: Path, **environment: str) -> list[Step]:
    """Run a command until it kills itself; return what it asked of the disk below a directory.

    Parameters
    ----------
    base
        The directory, which is on the disk already, and empty.
    said
        A file elsewhere; what is written to it becomes the steps that `say`.
    """
    out = base.parent / "trace"
    done = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-qq", "-xx", "-s", "67108864", "-o", str(out),
         "-e", f"trace={_CALLS}", "-e", "signal=none", *command],
        env={**os.environ, **environment}, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{command} wasn't traced to its end: {done.returncode}")
    steps = list(_Reader(base, said).steps(out.read_bytes().splitlines()))
    out.unlink()
    return steps


class _Reader:
    """Follows descriptors and names through a trace."""

    def __init__(self, base: Path, said: Path) -> None:
        self._base = str(base)
        self._said = str(said)
        self._names: dict[str, int] = {self._base: 0}
        self._next = 1
        self._open: dict[int, int | str] = {}
        self._at: dict[int, int] = {}
        self._sizes: dict[int, int] = {}

    def steps(self, lines: Iterable[bytes]) -> Iterator[Step]:
        begun: dict[bytes, bytes] = {}
        meanwhile: dict[bytes, set[int]] = {}
        for line in lines:
            if found := _BEGUN.fullmatch(line):
                begun[found[1]], meanwhile[found[1]] = found[2], set()
                continue
            written: set[int] = set()
            if found := _ENDED.fullmatch(line):
                line = found[1] + b" " + begun.pop(found[1]) + found[2]
                written = meanwhile.pop(found[1])
            if (found := _LINE.fullmatch(line)) is None or int(found[3]) < 0:
                continue
            for step in self._step(found[1].decode(), _words(found[2]), int(found[3])):
                if step.verb == "sync" and step.inode in written:
                    raise ValueError("a file is written while it is synced")
                for each in meanwhile.values():
                    each.add(step.inode)
                yield step

    def _step(self, verb: str, words: list[bytes], result: int) -> Iterator[Step]:
        match verb.removesuffix("64"):
            case "openat":
                yield from self._opened(_path(words[1]), words[2], result)
            case "open" | "creat":
                yield from self._opened(_path(words[0]), words[1], result)
            case "close":
                self._open.pop(int(words[0]), None)
            case "dup" | "dup2" | "dup3":
                if int(words[0]) in self._open:
                    raise ValueError("a file of the store is open twice by dup")
            case "write" | "pwrite":
                yield from self._written(int(words[0]), words, result)
            case "ftruncate":
                if type(inode := self._open.get(int(words[0]))) is int:
                    self._sizes[inode] = int(words[1])
                    yield Step("truncate", inode, int(words[1]))
            case "fsync" | "fdatasync":
                if type(inode := self._open.get(int(words[0]))) is int:
                    yield Step("sync", inode)
            case "rename":
                yield from self._moved(_path(words[0]), _path(words[1]))
            case "renameat" | "renameat2":
                yield from self._moved(_path(words[1]), _path(words[3]))
            case "unlink" | "rmdir":
                yield from self._gone(_path(words[0]))
            case "unlinkat":
                yield from self._gone(_path(words[1]))
            case "mkdir":
                yield from self._made(_path(words[0]), "mkdir")
            case "mkdirat":
                yield from self._made(_path(words[1]), "mkdir")
            case _:
                named = [_path(word) for word in words if word.startswith(b"/")]
                known = [word for word in words[:1] if word.isdigit() and int(word) in self._open]
                if known or any(self._inside(name) for name in named):
                    raise ValueError(f"a call that isn't understood: {verb}")

    def _inside(self, path: str) -> bool:
        return path.startswith(self._base + "/")

    def _opened(self, path: str, flags: bytes, descriptor: int) -> Iterator[Step]:
        if path == self._said:
            self._open[descriptor] = "said"
        if path != self._base and not self._inside(path):
            return
        if path not in self._names:
            if b"O_CREAT" not in flags:
                raise ValueError(f"{path} is opened, and nobody has made it")
            yield from self._made(path)
        inode = self._names[path]
        self._open[descriptor], self._at[descriptor] = inode, 0
        if b"O_TRUNC" in flags:
            self._sizes[inode] = 0
            yield Step("truncate", inode, 0)

    def _made(self, path: str, verb: str = "name") -> Iterator[Step]:
        if self._inside(path):
            self._names[path] = self._next
            self._next += 1
            yield replace(self._named(path, self._names[path]), verb=verb)

    def _named(self, path: str, inode: int | None) -> Step:
        parent, name = os.path.split(path)
        return Step("name", self._names[parent], name=name, other=inode)

    def _written(self, descriptor: int, words: list[bytes], result: int) -> Iterator[Step]:
        inode = self._open.get(descriptor)
        if inode is None:
            return
        data = words[1][:result]
        if inode == "said":
            yield Step("say", data=data)
            return
        assert isinstance(inode, int)
        at = int(words[3]) if len(words) == 4 else self._at[descriptor]
        if len(words) == 3:
            self._at[descriptor] += result
        yield Step("write", inode, at, data)

    def _moved(self, old: str, new: str) -> Iterator[Step]:
        if not self._inside(old):
            return
        inode = self._names.pop(old)
        self._names[new] = inode
        yield self._named(new, inode)
        yield self._named(old, None)

    def _gone(self, path: str) -> Iterator[Step]:
        if self._inside(path):
            yield self._named(path, None)
            del self._names[path]


def _words(rest: bytes) -> list[bytes]:
    words = []
    for found in _WORD.finditer(rest):
        if found[2]:
            raise ValueError("the trace has been cut short")
        if found[3] is not None:
            words.append(found[3].strip())
        else:
            words.append(bytes.fromhex(found[1].replace(b"\\x", b"").decode()))
    return words


def _path(word: bytes) -> str:
    return os.path.abspath(os.fsdecode(word))


# -- what is there after a cut -----------------------------------------------------------

Keeps = Callable[[random.Random, Step], str]
"""Decides of a step that isn't synced: "keep", "drop", "half", or "size" (its length alone)."""

KEEPING: dict[str, Keeps] = {
    "nothing": lambda chance, step: "drop",
    "everything": lambda chance, step: "keep",
    "data": lambda chance, step: "drop" if step.names else "keep",
    "names": lambda chance, step: "keep" if step.names else "drop",
    "lengths": lambda chance, step: "keep" if step.names else "size",
    "halves": lambda chance, step: "keep" if step.names else "half",
    "anything": lambda chance, step: chance.choice(("keep", "keep", "drop", "half", "size")),
}
"""What a disk may keep of what wasn't synced."""


class Disk:
    """A disk that lost its power.

    Parameters
    ----------
    steps
        What was asked of it.
    keeps
        A name in `KEEPING`.
    seed
        Of its whims.
    """

    def __init__(self, steps: Sequence[Step], keeps: str, seed: int = 0) -> None:
        self.said = b"".join(step.data for step in steps if step.verb == "say")
        """What was said by then."""
        self._files: dict[int, bytearray] = {}
        self._directories: dict[int, dict[str, int]] = {0: {}}
        synced = {step.inode: number for number, step in enumerate(steps) if step.verb == "sync"}
        chance, whim = random.Random(seed), KEEPING[keeps]
        stopped: set[int] = set()
        for number, step in enumerate(steps):
            if step.verb in ("say", "sync"):
                continue
            how = "keep" if number < synced.get(step.inode, 0) else whim(chance, step)
            if not step.names:
                self._change(step, how)
                continue
            if step.verb == "mkdir" and step.other is not None:
                self._directories[step.other] = {}
            if how != "keep":
                stopped.add(step.inode)  # what came later in this directory didn't come either
            if step.inode not in stopped:
                self._name(step)

    def _name(self, step: Step) -> None:
        entries = self._directories[step.inode]
        if step.other is None:
            entries.pop(step.name, None)
        else:
            entries[step.name] = step.other

    def _change(self, step: Step, how: str) -> None:
        if how == "drop":
            return
        file = self._files.setdefault(step.inode, bytearray())
        if step.verb == "truncate":
            del file[step.at :]
            file.extend(bytes(step.at - len(file)))
            return
        data = step.data[: len(step.data) // 2] if how == "half" else step.data
        end = step.at + len(data)
        file.extend(bytes(max(0, end - len(file))))
        if how != "size":
            file[step.at : end] = data

    def write_to(self, place: Path, inode: int = 0) -> None:
        """Make in an empty directory what is on the disk, where no shared memory is."""
        for name, other in self._directories[inode].items():
            if other in self._directories:
                (place / name).mkdir(mode=0o700)
                self.write_to(place / name, other)
            elif not name.endswith("-shm"):
                (place / name).touch(mode=0o600)
                (place / name).write_bytes(self._files.get(other, b""))
