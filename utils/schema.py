"""What a value from a file must be, said once: ``check`` names the file, the key and the wanted type.

A kind is a callable (value, place) that returns nothing where the value fits, and raises ``Unfit`` where it does not.

    MANIFEST = table({"bits": whole(1, 1024), "image": table({"input": each(whole(1), 1, 3)})})
    check(parse_json(text), MANIFEST, path)
    # InputError: PATH: image.input[0] is 'a', expected a whole number of at least 1
"""
import math
import re
import reprlib

from utils.errors import InputError


class Unfit(Exception):
    """A value that does not fit: ``place`` in the file, the value, and what was expected there, in words."""

    def __init__(self, place, value, expected):
        super().__init__(place, value, expected)
        self.place, self.value, self.expected = place, value, expected


def check(value, kind, where, advice=""):
    """Raise InputError unless ``value`` is of its kind.

    Args:
        value: plain values.
        kind: see the module.
        where: file that it was read from.
        advice: what to do, behind a semicolon.
    """
    try:
        kind(value, "")
    except Unfit as fault:
        place = f"{fault.place} is " if fault.place else "it holds "
        raise InputError(f"{where}: {place}{_shown(fault.value)}, expected {fault.expected}"
                         + (f"; {advice}" if advice else "")) from None


def _shown(value):
    return f"a table of {len(value)} keys" if type(value) is dict else f"a list of {len(value)}" \
        if type(value) is list else reprlib.repr(value)


def _kind(expected, fits):
    def kind(value, place):
        if not fits(value):
            raise Unfit(place, value, expected)
    return kind


def _range(low, high):
    if low is None:
        return "" if high is None else f" of at most {high:g}"
    return f" of at least {low:g}" if high is None else f" from {low:g} to {high:g}"


def _within(value, low, high):
    return (low is None or value >= low) and (high is None or value <= high)


def whole(low=None, high=None):
    """A whole number within bounds, both allowed."""
    return _kind("a whole number" + _range(low, high), lambda value: type(value) is int and _within(value, low, high))


def number(low=None, high=None):
    """A finite number within bounds, both allowed."""
    return _kind("a finite number" + _range(low, high),
                 lambda value: type(value) in (int, float) and math.isfinite(value) and _within(value, low, high))


def text(pattern=None, words=None):
    """A text; one that matches a regular expression as a whole, ``words`` say what that is."""
    return _kind(words or "a text", lambda value: type(value) is str and (not pattern or re.fullmatch(pattern, value)))


def one_of(*choices):
    """One of some texts."""
    return _kind("one of " + ", ".join(choices), lambda value: type(value) is str and value in choices)


truth = _kind("true or false", lambda value: type(value) is bool)
anything = _kind("anything", lambda value: True)
scalar = _kind("a text, a number, true, false or nothing",
               lambda value: value is None or type(value) in (str, int, float, bool))
plain_table = _kind("a table of `key: value`", lambda value: type(value) is dict)


def either(kind, *, nothing="null"):
    """Nothing (None), or a value of a kind."""
    def maybe(value, place):
        if value is not None:
            try:
                kind(value, place)
            except Unfit as fault:
                same = fault.place == place
                raise Unfit(fault.place, fault.value, fault.expected + (f" or {nothing}" if same else "")) from None
    return maybe


def each(kind, least=0, most=None):
    """A list of values of one kind."""
    expected = "a list" + (f" of {least}" if least == most else _range(least or None, most))
    fits = _kind(expected, lambda value: type(value) is list and _within(len(value), least, most))

    def items(value, place):
        fits(value, place)
        for i, item in enumerate(value):
            kind(item, f"{place}[{i}]")
    return items


def row(*kinds):
    """A list with one value of each kind, in this order."""
    fits = _kind(f"a list of {len(kinds)}", lambda value: type(value) is list and len(value) == len(kinds))

    def items(value, place):
        fits(value, place)
        for i, (item, kind) in enumerate(zip(value, kinds)):
            kind(item, f"{place}[{i}]")
    return items


def mapping(kind, key=None, least=0):
    """A table of values of one kind under any texts, or under those that fit the kind ``key``."""
    fits = _kind("a table" + (f" of at least {least}" if least else ""),
                 lambda value: type(value) is dict and len(value) >= least)

    def entries(value, place):
        fits(value, place)
        for name, item in value.items():
            (key or text())(name, f"a key of {place}" if place else "a key")
            kind(item, f"{place}.{name}" if place else name)
    return entries


def table(needed, optional=None, others=None):
    """A table with known keys.

    Args:
        needed, optional: dict key -> kind.
        others: kind of the values under unknown keys; None = there may be no such keys.
    """
    optional = optional or {}
    kinds = {**needed, **optional}

    def known(value, place):
        plain_table(value, place)
        for key in needed:
            if key not in value:
                raise Unfit(place, value, f"a table with {key}")
        for key, item in value.items():
            if key in kinds:
                kinds[key](item, f"{place}.{key}" if place else key)
            elif others is None:
                raise Unfit(place, value, f"a table without {str(key)[:40]!r}, which is unknown")
            else:
                others(item, f"{place}.{key}" if place else str(key))
    return known
