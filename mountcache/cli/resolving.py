"""The command that resolves conflicts before the next push: resolve."""

from __future__ import annotations

import difflib
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mountcache.cli.codes import NoSuchKeyError, one_line
from mountcache.cli.session import config_option, json_option, note, opened, show, tell

if TYPE_CHECKING:
    from mountcache.mounted import MountedStore
    from mountcache.sync import Resolved

__all__ = ["merged_text", "resolve"]

_MINE: Final = "<<<<<<< mine"
_MIDDLE: Final = "======="
_UPSTREAM: Final = ">>>>>>> upstream"
_LARGEST: Final = 1048576
"""Bytes of each side that are given to an editor."""


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option(
    "--mine",
    "policy",
    flag_value="ours",
    help="Mine stays staged; the next push replaces what upstream has now.",
)
@click.option(
    "--upstream",
    "policy",
    flag_value="theirs",
    help="Upstream's stays; mine is discarded (`mountcache undo` has it back).",
)
@click.option(
    "--keep-both", "policy", flag_value="keep-both", help="Mine is staged under a new name."
)
@click.option(
    "--merge-metadata",
    "policy",
    flag_value="merge-metadata",
    help="Both sides' changes of metadata, where the bytes agree.",
)
@click.option("--edit", "policy", flag_value="edit", help="Merge the text of both in an editor.")
@click.option("--ours", "policy", flag_value="ours", hidden=True)
@click.option("--theirs", "policy", flag_value="theirs", hidden=True)
@click.option("--permissions", is_flag=True, help="The conflict of permissions, not of values.")
@config_option
@json_option  # fmt: skip
def resolve(keys: tuple[str, ...], policy: str | None, permissions: bool, as_json: bool) -> None:
    """Resolve the conflicts of KEYs; nothing is sent before the next push.

    `mountcache diff --upstream KEY` shows both sides first.
    """
    if policy is None:
        raise click.UsageError(
            "say how: --mine, --upstream, --keep-both, --merge-metadata or --edit"
        )
    if permissions and policy in ("edit", "keep-both"):
        raise click.UsageError(
            "permissions are resolved by --mine, --upstream or --merge-metadata, name by name"
        )
    from mountcache.sync import resolve as settle

    left = False
    with opened() as store:
        for key in keys:
            try:
                if policy == "edit":
                    done = _edited(store, key)
                else:
                    done = settle(store, key, policy, permissions=permissions)
            except KeyError as error:
                if error.args != (key,):
                    raise
                raise NoSuchKeyError(
                    f"nothing is staged for {key!r}; `mountcache status` lists what is"
                ) from None
            left = left or done.staged is not None
            if as_json:
                show({"key": key, "staged": done.staged, "message": done.message})
            else:
                tell(one_line(f"resolved: {key}: {done.message}"))
    if not as_json and left:
        note("next: `mountcache push --permissions`" if permissions else "next: `mountcache push`")
    elif not as_json:
        note("`mountcache undo KEY` has mine back, for 14 days")


def _edited(store: MountedStore, key: str) -> Resolved:
    """Let somebody merge the text of both sides, and stage what they made of it."""
    from mountcache.errors import StoreError
    from mountcache.sync import in_conflict, side
    from mountcache.sync import resolve as settle

    conflict = in_conflict(store, key)
    if conflict is None:
        raise StoreError(f"{key!r} isn't in conflict with upstream: push it, or revert it")
    texts = [_text(side(store, key, which), key) for which in ("mine", "upstream")]
    folder = Path(tempfile.mkdtemp(prefix="mountcache-"))
    file = folder / (Path(key).name or "text")
    try:
        file.write_text(merged_text(*texts), encoding="utf-8")
        click.edit(filename=os.fspath(file))
        merged = file.read_text(encoding="utf-8")
    finally:
        file.unlink(missing_ok=True)
        folder.rmdir()
    if any(line in (_MINE, _MIDDLE, _UPSTREAM) for line in merged.splitlines()):
        raise StoreError(f"{key!r} still has places that weren't decided on; nothing was changed")
    both, metadata = conflict.merged_metadata, conflict.mine.metadata
    if both is not None:
        metadata = both
    elif conflict.upstream.present and conflict.upstream.metadata != metadata:
        note(one_line(f"{key}: the metadata stay mine; upstream's are other ones"))
    store.set(key, (io.BytesIO(merged.encode()), metadata))
    return settle(store, key, "ours", seen=conflict)


def _text(shown: object, key: str) -> str:
    from mountcache.errors import StoreError
    from mountcache.sync import Shown

    assert isinstance(shown, Shown)
    if shown.open is None:
        raise StoreError(f"{key!r} has no text on both sides; choose --mine or --upstream")
    with shown.open() as stream:
        data = stream.read(_LARGEST + 1)
    try:
        if len(data) <= _LARGEST and b"\0" not in data:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise StoreError(
        f"{key!r} isn't text of at most {_LARGEST:,} bytes; choose --mine, --upstream or "
        "--keep-both"
    )


def merged_text(mine: str, upstream: str) -> str:
    """Return both texts as one: what differs stands one above the other, between marks."""
    ours, theirs = mine.splitlines(), upstream.splitlines()
    out: list[str] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, ours, theirs, False).get_opcodes():
        if tag == "equal":
            out += ours[i:j]
        else:
            out += [_MINE, *ours[i:j], _MIDDLE, *theirs[k:m], _UPSTREAM]
    return "".join(f"{line}\n" for line in out)
