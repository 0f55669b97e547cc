"""Registries: kinds of things by name, ours, those of other packages, and those of this process.

What is in one is a frozen dataclass whose fields are its options, so that it can be written as
text: "name:option=1,other=0.5". A package adds to one by an entry point of its group, and is
imported when somebody asks for it. One that cannot be used is named then, and whenever a name is
not found; nothing else is kept from working.
"""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from obliviate.errors import InvalidOption, UnknownMethod
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Thing = TypeVar("_Thing")
_Kind = TypeVar("_Kind")
_WORDS = {"true": True, "false": False, "none": None}


class Registry(Generic[_Thing]):
    """The kinds of one thing, by their names.

    Attributes:
        group: The entry points of other packages.
    """

    def __init__(
        self,
        base: Any,
        *,
        noun: str,
        group: str,
        ours: Mapping[str, str],
        example: str,
        made: str,
        how: str,
        fault: Callable[[Any], str] = lambda _: "",
    ) -> None:
        """Import nothing yet.

        Args:
            base: The class that all of them inherit from.
            noun: What one is called in messages.
            group: The entry points of other packages.
            ours: Where our own are, as entry points say it.
            example: One with an option, as text.
            made: The same as an object.
            how: How one is written, for a hint.
            fault: What else is wrong with a class, in words.
        """
        self.group, self._base, self._noun, self._how = group, base, noun, how
        self._example, self._made, self._fault = example, made, fault
        self._ours = {name: EntryPoint(name, value, group) for name, value in ours.items()}
        self._registered: dict[str, type[_Thing]] = {}
        self._loaded: dict[str, type[_Thing]] = {}
        self._seen: tuple[dict[str, EntryPoint], dict[str, str]] | None = None

    def refresh(self) -> None:
        """Look anew for packages: one was installed, or removed, while this process runs."""
        self._loaded, self._seen = {}, None

    def names(self) -> list[str]:
        """The names of all that are announced or registered."""
        return [*self._ours, *self._announced()[0], *self._registered]

    def register(self, kind: type[_Kind]) -> type[_Kind]:
        """Let a class be found in this process, as in a notebook; a decorator.

        Raises:
            InvalidOption: It is none of the kind, or its name is taken.
        """
        name, added = str(getattr(kind, "name", None)), _any(kind)
        known = self._registered.get(name)
        is_same = known is None or known.__qualname__ == added.__qualname__
        if name in self._ours or name in self._announced()[0] or not is_same:
            raise InvalidOption(
                f"the {self._noun} name {name!r} is taken", hint="give it another name"
            )
        if fault := self._fault_of(name, added):
            raise InvalidOption(f"the {self._noun} {name!r} {fault}", hint=self._how)
        self._registered[name] = added
        return kind

    def faults(self) -> dict[str, str]:
        """What is wrong with those of other packages, by name. They are imported for it."""
        usable, found = self._announced()
        for name in usable:
            try:
                self.kind(name)
            except UnknownMethod as error:
                found = {**found, name: error.message}
        return found

    def kind(self, name: str) -> type[_Thing]:
        """The class of a name.

        Raises:
            UnknownMethod: There is none of that name, or it cannot be used.
        """
        if name in self._registered:
            return self._registered[name]
        if name not in self._loaded:
            ours = self._ours.get(name)
            self._loaded[name] = self._foreign(name) if ours is None else ours.load()
        return self._loaded[name]

    def of(self, thing: str | _Thing, **options: object) -> _Thing:
        """A thing from its name; one that is an object already is returned as it is.

        Args:
            thing: A name, or with options such as "name:option=1,other=0.5".
            options: More options, by name.

        Raises:
            UnknownMethod: It is neither.
            InvalidOption: It has no such option, or not of that value.
        """
        if isinstance(thing, self._base):
            return self._findable(_any(thing))
        if not isinstance(thing, str):
            raise self._unknown(thing)
        name, _, given = thing.partition(":")
        kind = self.kind(name)
        defaults = {each.name: each.default for each in fields(_any(kind))}
        words = {option for option, value in defaults.items() if isinstance(value, str)}
        options, allowed = {**self._options_in(given, thing, words), **options}, list(defaults)
        for option in options:
            if option not in allowed:
                raise InvalidOption(
                    f"the {self._noun} {name} takes no {shown(option)}",
                    hint=f"options of {name}: {', '.join(allowed) or 'none'}; such as "
                    f"{self._example}",
                )
        return kind(**options)

    def _announced(self) -> tuple[dict[str, EntryPoint], dict[str, str]]:
        """Those of other packages, and why some of them cannot be used."""
        if self._seen is None:
            usable: dict[str, EntryPoint] = {}
            faults: dict[str, str] = {}
            for point in entry_points(group=self.group):
                owner = point.dist.name if point.dist else "a package"
                if point.name in self._ours or point.name in usable:
                    faults[point.name] = (
                        f"{owner} announces a {self._noun} {point.name!r}; that name is taken"
                    )
                else:
                    usable[point.name] = point
            self._seen = usable, faults
        return self._seen

    def _foreign(self, name: str) -> type[_Thing]:
        usable, taken = self._announced()
        if name not in usable:
            raise self._unknown(name, "".join(f"; {fault}" for fault in taken.values()))
        owner = usable[name].value
        try:
            kind: Any = usable[name].load()
        except Exception as error:
            raise UnknownMethod(
                f"the {self._noun} {name!r} ({owner}) cannot be imported: "
                f"{type(error).__name__}: {error}",
                hint=f"mend or remove the package that announces it; every other {self._noun} "
                "works",
            ) from error
        if fault := self._fault_of(name, kind):
            raise UnknownMethod(f"the {self._noun} {name!r} ({owner}) {fault}", hint=self._how)
        found: type[_Thing] = kind
        return found

    def _fault_of(self, name: str, kind: Any) -> str:
        """What keeps a class from being of the kind."""
        if not (isinstance(kind, type) and issubclass(kind, self._base)):
            return f"is {shown(kind)}, no {self._base.__name__}"
        parameters = getattr(kind, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            return "is no frozen dataclass"
        lacking: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
        if lacking:
            return f"lacks {', '.join(sorted(lacking))}"
        if getattr(kind, "name", None) != name:
            return f"calls itself {shown(getattr(kind, 'name', None))}"
        return self._fault(kind)

    def _findable(self, thing: Any) -> _Thing:
        if self.kind(thing.name) is not type(thing):  # it could not be found again
            raise UnknownMethod(
                f"another class than {type(thing).__name__} is the {self._noun} {thing.name!r}",
                hint=f"announce it by an entry point of the group {self.group}, or register it",
            )
        found: _Thing = thing
        return found

    def _unknown(self, thing: object, more: str = "") -> UnknownMethod:
        return UnknownMethod(
            f"there is no {self._noun} {shown(thing)}{more}",
            hint=f"choose one of {', '.join(map(repr, self.names()))}, such as "
            f"{self._example!r}, or an object such as {self._made}",
        )

    def _options_in(self, given: str, whole: object, words: set[str]) -> dict[str, object]:
        """The options of a text; those that are words by default stay as they are written."""
        options: dict[str, object] = {}
        for each in filter(None, given.split(",")):
            option, value = (part.strip() for part in each.partition("=")[::2])
            options[option] = value if option in words else self._value(value, whole)
        return options

    def _value(self, text: str, whole: object) -> object:
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        raise InvalidOption(
            f"{shown(text)} in the {self._noun} {shown(whole)} is no number, true or false",
            hint=f"write it as in {self._example}",
        )


def _any(thing: object) -> Any:
    return thing


def label_of(thing: Any) -> str:
    """A thing as `Registry.of` takes it, with the options that are not their default."""
    given = [
        f"{each.name}={value}"
        for each in fields(thing)
        if (value := getattr(thing, each.name)) != each.default
    ]
    return f"{thing.name}:{','.join(given)}" if given else str(thing.name)


def options_of(thing: Any) -> dict[str, object]:
    """A thing as it is kept: its name, and its options but for those that are not set."""
    given = {each.name: getattr(thing, each.name) for each in fields(thing)}
    unset = {
        each.name
        for each in fields(thing)
        if given[each.name] is each.default and (each.default is None or each.default is False)
    }
    kept = {name: value for name, value in given.items() if name not in unset}
    return {"name": thing.name} | kept
