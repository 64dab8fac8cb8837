"""The one command-line parser. A command declares its flags as Settings; the mains add those of the chosen method.

Flags are known in any case, with dashes or underscores: ``--topK``, ``--topk``, ``--data_path`` and ``--data-path``.
``-o KEY=VALUE`` is ``--KEY=VALUE``; of one flag given twice the last counts. A boolean flag may stand without a value,
and ``--no-NAME`` is ``--NAME false``. Flags of other projects come from utils/peer_flags.py.
"""
import argparse
import dataclasses
import os
import re
import sys
import textwrap
import types

from utils import peer_flags
from utils.errors import InputError, printable
from utils.settings import nearest

WIDTH, LEFT, HALF = 110, 26, 56  # columns of --help, of its flags, and where the second of two short flags starts
HELP = ("-h", "--help")
PLACEHOLDERS = {int: "N", float: "X", bool: "true"}


def quiet():
    """Before Paddle is imported: its notes about executors are no news to a user."""
    os.environ.setdefault("GLOG_minloglevel", "2")


@dataclasses.dataclass
class Line:
    """The words of a command line, each flag in one spelling, and dict spelling -> how it was typed."""

    words: list
    typed: dict


@dataclasses.dataclass
class Given:
    """What a command line says.

    Attributes:
        values: dict name of a setting -> its value, for those that are given.
        typed: dict name -> how it was typed, for messages: ``--use_gpu True``.
        rest: the part of the line that is not known here.
        help: ``--help`` is part of it.
    """

    values: dict
    typed: dict
    rest: Line
    help: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}; --help lists the flags")


class _Record(argparse.Action):
    """Keep the flags in the order in which they were typed."""

    def __call__(self, parser, namespace, value, option_string=None):
        namespace.seen.append((self.dest, option_string, value))


def flag_name(key):
    """Setting ``data_path`` -> ``--data-path``."""
    return "--" + key.lower().replace("_", "-")


class Flags:
    """The flags of a command.

    Args:
        command: file name of the command, for its flags of other projects (utils/peer_flags.py).
        groups: dict title -> dict name -> Setting; ``--help`` shows them in this order.
        method: name of the hashing method whose settings these are, None for those of the command.
    """

    def __init__(self, command, groups, method=None):
        self.groups = groups
        self.settings = {key: setting for table in groups.values() for key, setting in table.items()}
        self.names = {}  # spelling -> setting
        self.peers = peer_flags.rows(command, method, self.settings)
        self._parser = _Parser(add_help=False, allow_abbrev=False)
        for key, setting in self.settings.items():
            self._add(key, setting, [flag_name(name) for name in (key, *setting.also)])
        for number, row in enumerate(self.peers):
            names = [name if not name.startswith("--") else flag_name(name[2:]) for name in row.names]
            names = [name for name in dict.fromkeys(names) if name not in self.names]
            if names:
                boolean = row.here is None or self.settings[row.here].type is bool
                self._parser.add_argument(*names, dest=f"peer {number}", action=_Record,
                                          **({"nargs": "?", "const": "true"} if boolean else {}))
                self.names.update(dict.fromkeys(names, row.here))

    def _add(self, key, setting, names):
        more = {"nargs": "?", "const": "true"} if setting.type is bool else {}
        self._parser.add_argument(*names, dest=key, action=_Record, **more)
        self.names.update(dict.fromkeys(names, key))
        if more:
            negative = [*(f"--no{name[1:]}" for name in names), *map(flag_name, setting.off)]
            self._parser.add_argument(*negative, dest=key, action=_Record, nargs=0)
            self.names.update(dict.fromkeys(negative, key))

    def read(self, line):
        """A Line -> Given; flags that are not known here are left in ``rest``.

        Raises:
            InputError: a value that the setting does not take, or a flag of another project that is refused.
        """
        found, rest = self._parser.parse_known_args(line.words, argparse.Namespace(seen=[]))
        words = [word for word in rest if word not in HELP]
        given = Given({}, {}, Line(words, line.typed), len(words) < len(rest))
        for dest, option, text in found.seen:
            text = "false" if text == [] else text  # --no-NAME
            as_typed = line.typed.get(option, option)
            if dest in self.settings:
                self._take(given, dest, text, as_typed)
                continue
            row = self.peers[int(dest.split()[1])]
            for key, value in row.settings(unquoted(text), as_typed, say=note).items():
                self._take(given, key, value, as_typed)
        return given

    def _take(self, given, key, text, as_typed):
        setting = self.settings[key]
        text = text if setting.free else unquoted(text)
        try:
            given.values[key] = setting.convert(text)
        except ValueError as error:
            raise InputError(f"{as_typed}: {key} = {text!r}, expected {error}") from None
        given.typed[key] = f"{as_typed} {text}"
        if setting.respelled(text) != text:
            note(f"{as_typed} {text} is {key} = {setting.respelled(text)} here")

    def need_all_known(self, line, more=()):
        """Raises InputError for a word that is left over; names the nearest flag, those of ``more`` among them."""
        for word in line.words[:1]:
            flag = word.split("=")[0]
            hint = nearest(flag_name(flag.lstrip("-")), [*self.names, *more]) if flag.startswith("-") else ""
            raise InputError(f"unknown argument {line.typed.get(flag, flag)}{hint}; --help lists the flags")


def read_options(argv, command, description, settings, words=None):
    """The whole command line of a command: every setting as an attribute, given or default.

    Args:
        argv: its words.
        command: file name of the command.
        description: one line for ``--help``.
        settings: dict name -> Setting of its flags.
        words: dict name -> Setting of what stands in front of the flags and must be there, as ``list`` in
            ``python -m something list --flag``.

    Raises:
        InputError: unknown flag or value, each with the nearest valid one; a word that is missing.
    """
    words = words or {}
    flags = Flags(command, {"flags:": settings})
    if any(word in HELP for word in argv):
        more = "".join(f" {name.upper()}: {setting.help}, {setting.expected()}." for name, setting in words.items())
        show_help(" ".join([command, *map(str.upper, words)]), description + more, flags.groups)
    values = {}
    for name, setting in words.items():
        if not argv or argv[0].startswith("-"):
            raise InputError(f"{name} is missing ({setting.help}: {setting.expected()}); --help says more")
        try:
            values[name] = setting.convert(argv[0])
        except ValueError as error:
            raise InputError(f"{name} = {argv[0]!r}, expected {error}") from None
        argv = argv[1:]
    given = flags.read(command_line(argv))
    flags.need_all_known(given.rest)
    defaults = {key: None if setting.default is None else setting.convert(setting.default)
                for key, setting in settings.items()}
    return types.SimpleNamespace(**{**defaults, **given.values, **values})


def command_line(argv):
    """The words of a command line as a Line. Raises InputError for ``-o`` without KEY=VALUE."""
    words, typed = [], {}
    left = iter(argv)
    for word in left:
        if word == "-o":
            word = next(left, "")
            key, sign, value = word.partition("=")
            if not (key and sign):
                raise InputError(f"-o {word}: expected KEY=VALUE with a recipe key")
            flag = flag_name(key)
            typed[flag] = f"-o {key}"
            words.append(f"{flag}={value}")
        elif word.startswith("--") and len(word) > 2:
            original, sign, value = word.partition("=")
            flag = flag_name(original[2:])
            typed[flag] = original
            words.append(flag + sign + value)
        elif words and words[-1].startswith("-") and "=" not in words[-1] and _negative(word):
            words[-1] += f"={word}"  # argparse takes -1e-5 for a flag
        else:
            words.append(word)
    return Line(words, typed)


def _negative(word):
    return bool(re.fullmatch(r"-[\d.]+(e[+-]?\d+)?", word.lower()))


def unquoted(text):
    """A value without the quotes that a shell would have taken off; the name of a file that is there stays."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and text.count(text[0]) == 2 \
            and not os.path.exists(text):
        return text[1:-1]
    return text


def note(text):
    """One line for the user, on stderr: stdout may be read by a program."""
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def show_help(command, description, groups, *, last=()):
    """Print ``--help`` and end the program: the groups, each flag with its default and choices, then lines ``last``."""
    print(f"usage: python {command} [--flag VALUE ...]\n{textwrap.fill(description, WIDTH)}")
    for title, settings in groups.items():
        print("\n".join([title, *_help_lines(settings)]))
    for line in last:
        print(textwrap.fill(line, WIDTH))
    sys.exit(0)


def _help_lines(settings):
    """One line a flag; neighbours with the same help and default share one, and so do two short neighbours."""
    cells = []
    for key, setting in settings.items():
        if cells and dataclasses.replace(setting, also=()) == dataclasses.replace(cells[-1][1], also=()):
            cells[-1][0].append(key)
        else:
            cells.append(([key], setting))
    lines, waiting = [], None
    for left, text in (_cell(*cell) for cell in cells):
        short = len(left) < LEFT and len(text) < HALF - LEFT - 2
        if short and waiting is not None:
            lines[waiting] = f"{lines[waiting]:<{HALF}}{left:<{LEFT}}{text}"
            waiting = None
            continue
        waiting = len(lines) if short else None
        first = f"  {left:<{LEFT}}" if len(left) < LEFT else f"  {left}  "
        lines += textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * (LEFT + 2),
                               break_long_words=False, break_on_hyphens=False)
    return lines


def _cell(names, setting):
    """(flags with their default, what they are) of a line of the help."""
    value = setting.default
    if value is None:
        value = setting.shown or ("|".join(setting.choices) if setting.choices else
                                  PLACEHOLDERS.get(setting.type, "TEXT"))
    elif isinstance(value, bool):
        value = str(value).lower()
    text = setting.help
    if setting.choices and setting.default is not None:
        text += f" ({', '.join(setting.choices)})"
    return f"{', '.join(flag_name(name) for name in names)} {value}", text
