"""Rules by pattern: what goes for some keys alone, as tables ``[[rule]]`` of mountcache.toml say.

Of the rules whose pattern matches a key, the last that says something of a thing counts, for each
thing by itself, as in git's .gitignore and .gitattributes.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, cast

from mountcache.errors import ConfigurationError, PinnedError
from mountcache.local.pinning import set_pinned
from mountcache.local.remembered import recall, remember
from mountcache.local.view import PAGE, literal_prefix
from mountcache.sync.mount import Mount

__all__ = ["Rule", "Rules", "apply_rules", "rules_of"]

_APPLIED: Final = "rules"


@dataclass(frozen=True, slots=True)
class Rule:
    """What goes for the keys that match a pattern. None: nothing is said of that."""

    pattern: str
    """A shell pattern of whole keys, with the mount point; ``*`` crosses "/"."""
    push: Literal["never", "allow"] | None = None
    """"never": what is staged stays staged, whoever pushes."""
    pin: bool | None = None
    """Whether what is kept is pinned."""
    max_age: float | None = None
    """Seconds for which a copy is used without asking; counts more than the mount's."""
    store: Literal["always", "never", "auto"] | None = None
    """"never": what is read passes through; "always": it is kept also where upstream says
    no-store; "auto": as upstream says."""


_NAMES: Final = tuple(field.name for field in fields(Rule))
_CHOICES: Final = {"push": ("never", "allow"), "store": ("always", "never", "auto")}


class Rules:
    """Rules in force, in their order.

    Parameters
    ----------
    rules
        The rules, the first first.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        match = [(re.compile(fnmatch.translate(rule.pattern)).match, rule) for rule in self.rules]
        self._by_thing = {
            name: tuple(
                (like, rule) for like, rule in reversed(match) if getattr(rule, name) is not None
            )
            for name in _NAMES
        }

    def __reduce__(self) -> tuple[object, ...]:
        return Rules, (self.rules,)

    def rule_for(self, thing: str, key: str) -> Rule | None:
        """Return the rule that decides a thing, named as a field of `Rule`, for a key."""
        for like, rule in self._by_thing[thing]:
            if like(key) is not None:
                return rule
        return None

    def max_age(self, key: str) -> float | None:
        """Return the seconds for which a copy is used; None if no rule says."""
        rule = self.rule_for("max_age", key)
        return None if rule is None else rule.max_age

    def store(self, key: str) -> Literal["always", "never", "auto"]:
        """Return whether what is read is kept."""
        rule = self.rule_for("store", key)
        return "auto" if rule is None or rule.store is None else rule.store

    def pins(self, key: str) -> bool:
        """Return whether what is kept is pinned."""
        rule = self.rule_for("pin", key)
        return rule is not None and bool(rule.pin)

    def why_unpushed(self, key: str) -> str | None:
        """Return why a key is never pushed, naming the rule; None if it may be."""
        rule = self.rule_for("push", key)
        if rule is None or rule.push != "never":
            return None
        return f'a rule says so (pattern = "{rule.pattern}", push = "never")'

    def digest(self) -> str:
        """Return what differs if anything in the rules does."""
        return hashlib.sha256(repr([asdict(rule) for rule in self.rules]).encode()).hexdigest()


def rules_of(value: object, where: str, mount_point: str = "") -> tuple[Rule, ...]:
    """Return rules of what mountcache.toml, or a program, says.

    Parameters
    ----------
    value
        An array of tables, or of rules.
    where
        What the user calls it.
    mount_point
        That of the mount: a pattern that no key under it can match is a mistake.

    Raises
    ------
    ConfigurationError
        If there is a mistake in one.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{where}: rules are an array of tables; write [[rule]]")
    found = []
    for number, each in enumerate(value, 1):
        rule = each if isinstance(each, Rule) else _rule(each, f"{where}: rule {number}")
        begin = literal_prefix(rule.pattern)
        if not (begin.startswith(mount_point) or mount_point.startswith(begin)):
            raise ConfigurationError(
                f"{where}: rule {number}: {rule.pattern!r} matches nothing under the mount point "
                f"{mount_point!r}; patterns are of whole keys"
            )
        found.append(rule)
    return tuple(found)


def _rule(table: object, where: str) -> Rule:
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{where} is a table; write [[rule]]")
    for name in table:
        if name not in _NAMES:
            near = difflib.get_close_matches(str(name).lower(), _NAMES, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(_NAMES)}"
            raise ConfigurationError(f"{where}: unknown key {name!r}; {hint}")
    pattern, age, pin = table.get("pattern"), table.get("max_age"), table.get("pin")
    if not isinstance(pattern, str) or not pattern:
        raise ConfigurationError(f'{where}: needs a pattern, such as pattern = "raw/*"')
    if len(table) == 1:
        raise ConfigurationError(f"{where}: says nothing of {pattern!r}; add push, pin, ...")
    for name, choices in _CHOICES.items():
        if name in table and table[name] not in choices:
            near = difflib.get_close_matches(str(table[name]).lower(), choices, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(
                f"{where}: {name} is one of {', '.join(choices)}, not {table[name]!r}{hint}"
            )
    if pin is not None and not isinstance(pin, bool):
        raise ConfigurationError(f"{where}: pin is true or false, not {pin!r}")
    number = isinstance(age, (int, float)) and not isinstance(age, bool)
    if "max_age" in table and not (number and cast("float", age) >= 0):
        raise ConfigurationError(f"{where}: max_age is a number of seconds from 0 up, not {age!r}")
    if pin and table.get("store") == "never":
        raise ConfigurationError(f"{where}: what is never stored can't be pinned; leave one out")
    given: dict[str, Any] = dict(table)
    if age is not None:
        given["max_age"] = float(cast("float", age))
    return Rule(**given)


def apply_rules(mount: Mount) -> None:
    """Pin, and drop, what was kept before the rules of a mount were as they are now.

    It looks at all copies, but only once after the rules were changed. Nothing is unpinned: who
    pinned what isn't known.
    """
    rules, catalog = mount.rules, mount.catalog
    if catalog.content.readonly:
        return
    if rules is None:
        if recall(catalog, _APPLIED) is not None:
            remember(catalog, _APPLIED, None)
        return
    digest = rules.digest()
    if recall(catalog, _APPLIED) == digest:
        return
    pins: list[str] = []
    for key in catalog.copies():
        full = mount.full(key)
        if rules.store(full) == "never":
            try:
                catalog.drop_copy(key)
            except PinnedError:
                continue  # somebody wants it here, by name
        elif rules.pins(full):
            pins.append(key)
            if len(pins) == PAGE:
                set_pinned(catalog, pins, True)
                pins.clear()
    set_pinned(catalog, pins, True)
    remember(catalog, _APPLIED, digest)
