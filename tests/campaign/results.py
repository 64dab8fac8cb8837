"""Rows of several campaigns in one file, a JSON line each: what can be continued, in several processes at once."""
import collections
import json

LARGEST = ("events", "slowest")   # of these fields the largest counts, of the others the sum


def keep(path, part, rows):
    """Append the rows of a part, ``kills`` or ``mutations``, to a file."""
    lines = [json.dumps({"part": part, **vars(row), "faults": [[label, str(what)] for label, what in row.faults]})
             for row in rows]
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))


def kept(path, part, row_type):
    """The rows of a part in a file, those of a name added up."""
    found = {}
    with open(path, encoding="utf-8") as file:
        for values in map(json.loads, file):
            if values.pop("part") == part:
                values["kinds"] = collections.Counter(values.get("kinds"))
                new = row_type(**{name: values[name] for name in row_type.__dataclass_fields__})
                found[new.name] = _sum(found[new.name], new) if new.name in found else new
    return list(found.values())


def _sum(first, second):
    both = {}
    for name, value in vars(first).items():
        other = getattr(second, name)
        both[name] = value if type(value) is str else max(value, other) if name in LARGEST else value + other
    return type(first)(**both)
