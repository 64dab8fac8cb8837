"""One setting, declared once: its default, its help, and which values it takes."""
import dataclasses
import difflib
import math
import os
from typing import Any, Callable, Mapping, Optional, Tuple


def nearest(name, names):
    """`` (did you mean X?)`` for the nearest valid name, or an empty string."""
    near = difflib.get_close_matches(str(name), list(names), 1, 0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def boolean(value):
    """``true``/``false`` in any case, also 1/0, yes/no, on/off. Raises ValueError for anything else."""
    text = str(value).lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


NOTHING = ("none", "null", "")  # how TIPC, YAML and Python write "not set"
ALL = {"-1": 0, "all": 0}  # how others write "no limit", which is 0 here


@dataclasses.dataclass(frozen=True)
class Setting:
    """A recipe key, a flag, or a hyperparameter of a method.

    Attributes:
        default: value where nothing is given; None = not set, and then ``kind`` says the type.
        help: one line for ``--help``.
        low, high: smallest and largest value of a number, both allowed; None = no bound.
        above: a number must be greater than this; None = no such bound.
        choices: the values that a text may have; None = any.
        kind: ``bool``, ``int``, ``float``, ``str``, or a callable value -> value that raises ValueError with what it
            expects; by default the type of ``default``.
        spelled: other spellings of values, as other projects have them: dict text -> value.
        shown: what ``--help`` shows in place of a value where there is no default: DIR, FILE, N.
        also: other names of its flag.
        off: flags that set a ``bool`` to false, beside ``--no-NAME``.
        free: words of the user, taken exactly as typed: no quotes are taken off, and ``none`` is a word.
    """

    default: Any
    help: str
    low: Optional[float] = None
    high: Optional[float] = None
    above: Optional[float] = None
    choices: Optional[Tuple[str, ...]] = None
    kind: Optional[Callable] = None
    spelled: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shown: Optional[str] = None
    also: Tuple[str, ...] = ()
    off: Tuple[str, ...] = ()
    free: bool = False

    @property
    def type(self):
        """The type of a value: ``kind``, else that of the default (``str`` where there is none)."""
        return self.kind or (str if self.default is None else type(self.default))

    def expected(self):
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is bool:
            return "true or false"
        what = {int: "a whole number", float: "a finite number"}.get(self.type, "a text")
        if self.above is not None:
            what += f" above {self.above:g}"
        elif self.low is not None:
            what += f" from {self.low:g}" if self.high is not None else f" of at least {self.low:g}"
        return what + (f" to {self.high:g}" if self.high is not None else "")

    def respelled(self, value):
        """A value in this project's spelling (``spelled``); a text that is the name of a file stays what it is."""
        path = self.type is str and not self.choices and os.path.exists(str(value))
        return value if path else self.spelled.get(str(value), value)

    def convert(self, value):
        """A value of any source (a flag's text, YAML, Python) as this setting's type.

        Raises:
            ValueError: its text says what is expected.
        """
        if self.default is None and not self.free and str(value).lower() in NOTHING:
            return None
        value = self.respelled(value)
        if self.type is bool:
            return boolean(value)
        if self.type not in (int, float, str):
            return self.type(value)
        if self.type is str:
            if not isinstance(value, (str, int, float)) or isinstance(value, bool):
                raise ValueError(self.expected())
            return self._choose(str(value))
        if isinstance(value, (bool, list, dict)) or value is None:
            raise ValueError(self.expected())
        try:
            number = int(str(value)) if self.type is int else float(value)
        except (TypeError, ValueError):
            raise ValueError(self.expected()) from None
        if not math.isfinite(number) or (self.low is not None and number < self.low) \
                or (self.high is not None and number > self.high) or (self.above is not None and number <= self.above):
            raise ValueError(self.expected())
        return number

    def _choose(self, text):
        if not self.choices or text in self.choices:
            return text
        same = [choice for choice in self.choices if choice.lower() == text.lower()]
        if len(same) == 1:
            return same[0]
        raise ValueError(self.expected() + nearest(text, self.choices))
