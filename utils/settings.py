"""One setting, declared once: its default, its help, and which values it takes."""
import dataclasses
import difflib
import math
from typing import Any, Callable, Optional, Tuple


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
    """

    default: Any
    help: str
    low: Optional[float] = None
    high: Optional[float] = None
    above: Optional[float] = None
    choices: Optional[Tuple[str, ...]] = None
    kind: Optional[Callable] = None

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

    def convert(self, value):
        """A value of any source (a flag's text, YAML, Python) as this setting's type.

        Raises:
            ValueError: its text says what is expected.
        """
        if value is None and self.default is None:
            return None
        if self.type is bool:
            return boolean(value)
        if self.type not in (int, float, str):
            return self.type(value)
        if self.type is str:
            if not isinstance(value, (str, int, float)) or isinstance(value, bool):
                raise ValueError(self.expected())
            text = str(value)
            if self.choices and text not in self.choices:
                raise ValueError(self.expected() + nearest(text, self.choices))
            return text
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
