"""Flags of the deployment commands: dashes and underscores alike, every mistake one line."""
import argparse
import os

from utils import settings as plain
from utils.errors import InputError


def quiet():
    """Before Paddle is imported: its notes about executors are no news to a user."""
    os.environ.setdefault("GLOG_minloglevel", "2")


def boolean(text):
    """``True``/``False`` as TIPC writes them (also 1/0, yes/no, on/off)."""
    try:
        return plain.boolean(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}") from None


def count(low):
    """Converter for whole numbers from ``low`` up."""
    def convert(text):
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if number < low:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} up, not {text!r}")
        return number
    return convert


class Flags(argparse.ArgumentParser):
    """argparse whose errors are InputErrors and whose flags have both spellings."""

    def __init__(self, description):
        super().__init__(description=description, allow_abbrev=False)

    def flag(self, *names, **settings):
        """Add ``--some-flag`` and ``--some_flag``; a boolean flag may stand without a value."""
        if settings.get("type") is boolean:
            settings.setdefault("default", False)
            settings.update(nargs="?", const=True, metavar="True|False")
        both = [spelling for name in names for spelling in (name, "--" + name[2:].replace("-", "_"))]
        self.add_argument(*dict.fromkeys(both), **settings)

    def parse(self, argv):
        """Parse, or raise an InputError that names the nearest flag."""
        values, unknown = self.parse_known_args(argv)
        if unknown:
            given = unknown[0].split("=")[0]
            flags = {option.lstrip("-").replace("_", "-") for action in self._actions
                     for option in action.option_strings}
            hint = plain.nearest(given.lstrip("-").replace("_", "-"), sorted(flags)).replace("mean ", "mean --")
            raise InputError(f"unknown argument {given}{hint}; --help lists the flags")
        return values

    def error(self, message):
        raise InputError(f"{message}; --help lists the flags")
