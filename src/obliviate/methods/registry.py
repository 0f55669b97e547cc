"""The methods there are: ours, and those of other packages that announce them.

A package adds a method by an entry point of the group `obliviate.methods`:

    [project.entry-points."obliviate.methods"]
    halfway = "their_package.halfway:Halfway"

or, for the process at hand alone, by `register`. It is imported when somebody asks for it. One that
cannot be used is named then, and whenever a method is not found; nothing else is kept from working.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from obliviate.errors import PUT_BACK, InvalidOption, RequestError, RunDamaged, UnknownMethod
from obliviate.methods.method import Method
from obliviate.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_Kind = TypeVar("_Kind", bound=Method)
GROUP = "obliviate.methods"
_HOW = (
    "a method is a frozen dataclass that inherits from obliviate.methods.method.Method; "
    "obliviate.testing.MethodContract tests one"
)
_OURS = {
    "exact": ("exact", "Exact"),
    "deepobliviate": ("deepobliviate", "DeepObliviate"),
    "calibrated": ("calibrated", "Calibrated"),
}
_registered: dict[str, type[Method]] = {}
_WORDS = {"true": True, "false": False, "none": None}


@cache
def _announced() -> tuple[dict[str, EntryPoint], dict[str, str]]:
    """The methods of other packages, and why some of them cannot be used."""
    usable: dict[str, EntryPoint] = {}
    faults: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        owner = point.dist.name if point.dist else "a package"
        if point.name in _OURS or point.name in usable:
            faults[point.name] = f"{owner} announces a method {point.name!r}; that name is taken"
        else:
            usable[point.name] = point
    return usable, faults


def register(kind: type[_Kind]) -> type[_Kind]:
    """Let a class be found as a method in this process, as in a notebook; a decorator.

    A run that was asked to forget by it can be worked on only where it is registered, too.

    Raises:
        InvalidOption: It is no method, or its name is taken.
    """
    name = str(getattr(kind, "name", None))
    known = _registered.get(name)
    is_same = known is None or known.__qualname__ == kind.__qualname__
    if name in _OURS or name in _announced()[0] or not is_same:
        raise InvalidOption(f"the method name {name!r} is taken", hint="give it another name")
    if fault := _fault_of(name, kind):
        raise InvalidOption(f"the method {name!r} {fault}", hint=_HOW)
    _registered[name] = kind
    method_class.cache_clear()
    return kind


def names() -> list[str]:
    """The names of all methods that are announced."""
    return [*_OURS, *_announced()[0], *_registered]


def faults() -> dict[str, str]:
    """What is wrong with methods of other packages, by their names. They are imported for it."""
    usable, found = _announced()
    for name in usable:
        try:
            method_class(name)
        except UnknownMethod as error:
            found = {**found, name: error.message}
    return found


@cache
def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UnknownMethod: There is none of that name, or it cannot be used.
    """
    if name in _OURS:
        module, attribute = _OURS[name]
        found: type[Method] = getattr(import_module(f"obliviate.methods.{module}"), attribute)
        return found
    if name in _registered:
        return _registered[name]
    usable, taken = _announced()
    if name not in usable:
        more = "".join(f"; {fault}" for fault in taken.values())
        raise UnknownMethod(
            f"there is no method {shown(name)}{more}",
            hint=f"choose one of {', '.join(map(repr, names()))}, such as "
            "'deepobliviate:epsilon=0.01', or an object such as ob.DeepObliviate(epsilon=0.01)",
        )
    owner = usable[name].value
    try:
        kind = usable[name].load()
    except Exception as error:
        raise UnknownMethod(
            f"the method {name!r} ({owner}) cannot be imported: {type(error).__name__}: {error}",
            hint="mend or remove the package that announces it; all other methods work",
        ) from error
    if fault := _fault_of(name, kind):
        raise UnknownMethod(
            f"the method {name!r} ({owner}) {fault}",
            hint=_HOW,
        )
    return kind  # type: ignore[no-any-return]


def _fault_of(name: str, kind: Any) -> str:
    """What keeps a class from being a method."""
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        return f"is {shown(kind)}, no Method"
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        return "is no frozen dataclass"
    lacking: frozenset[str] = getattr(kind, "__abstractmethods__", frozenset())
    if lacking:
        return f"lacks {', '.join(sorted(lacking))}"
    if getattr(kind, "name", None) != name:
        return f"calls itself {shown(getattr(kind, 'name', None))}"
    if kind.is_exact:
        return 'says that it is exact, which only "exact" may'
    return ""


def method_of(method: str | Method, **options: object) -> Method:
    """A method from its name; one that is an object already is returned as it is.

    Args:
        method: Such as "deepobliviate", or with options "deepobliviate:epsilon=0.01,blocks=4".
        options: More options, by name.

    Raises:
        UnknownMethod: It is neither.
        InvalidOption: It has no such option, or not of that value.
    """
    if isinstance(method, Method):
        if method_class(method.name) is not type(method):  # it could not be found again
            raise UnknownMethod(
                f"another class than {type(method).__name__} is the method {method.name!r}",
                hint="announce it by an entry point of the group obliviate.methods, or register it",
            )
        return method
    name, _, given = str(method).partition(":")
    kind, options = method_class(name), {**_options_in(given, method), **options}
    allowed = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in allowed:
            raise InvalidOption(
                f"the method {name} takes no {option!r}",
                hint=f"options of {name}: {', '.join(allowed) or 'none'}; such as "
                "deepobliviate:epsilon=0.01",
            )
    return kind(**options)


def _options_in(text: str, whole: str) -> dict[str, object]:
    options: dict[str, object] = {}
    for each in filter(None, text.split(",")):
        option, _, value = each.partition("=")
        options[option.strip()] = _value(value.strip(), whole)
    return options


def _value(text: str, whole: str) -> object:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InvalidOption(
        f"{text!r} in the method {whole!r} is no number, true or false",
        hint="write it as in deepobliviate:epsilon=0.01,blocks=4",
    )


def label_of(method: Method) -> str:
    """A method as `method_of` takes it, with the options that are not their default."""
    given = [
        f"{each.name}={value}"
        for each in fields(method)  # type: ignore[arg-type]
        if (value := getattr(method, each.name)) != each.default
    ]
    return f"{method.name}:{','.join(given)}" if given else method.name


def options_of(method: Method) -> dict[str, object]:
    """A method as the ledger keeps it: its name, and its options but for those that are not set."""
    given = {each.name: getattr(method, each.name) for each in fields(method)}  # type: ignore[arg-type]
    unset = {
        each.name
        for each in fields(method)  # type: ignore[arg-type]
        if given[each.name] is each.default and (each.default is None or each.default is False)
    }
    kept = {name: value for name, value in given.items() if name not in unset}
    return {"name": method.name} | kept


def method_from(options: Mapping[str, object]) -> Method:
    """The method that the ledger keeps.

    Raises:
        RunDamaged: There is none of that name, or it has no such options.
    """
    try:
        rest = dict(options)
        return method_of(str(rest.pop("name")), **rest)
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise RunDamaged(
            f"the ledger keeps a method that cannot be: {shown(options)} ({error})",
            hint="if another package brought it, install that again; else " + PUT_BACK,
        ) from error
