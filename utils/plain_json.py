"""JSON of strangers: read into plain values, or refused. Everything that reads JSON comes here.

Limits: ``DEEPEST`` lists and tables inside each other (what walks through them later may recurse), whole numbers of 64
bits (longer ones take quadratic time and fit nowhere), and the bytes of a file where its reader does not say otherwise.
"""
import json

DEEPEST = 100
LARGEST = 64 << 20  # bytes; as values they take up to thirty times that
LONGEST_NUMBER = 20  # digits and sign of 64 bits


def parse_json(text, parse_float=float):
    """JSON -> dict, list, str, int, float, bool or None.

    Args:
        text: str or bytes.
        parse_float: what makes the numbers with a point.

    Raises:
        ValueError: it is no JSON, or beyond the limits; says which.
    """
    try:
        value = json.loads(text, parse_int=whole_number, parse_float=parse_float)
    except RecursionError:
        raise too_deep() from None
    check_depth(value)
    return value


def read_json(path, parse_float=float, largest=LARGEST):
    """``parse_json`` of a file of at most ``largest`` bytes (None: of any size). Raises OSError, ValueError."""
    with open(path, "rb") as file:
        text = file.read(-1 if largest is None else largest + 1)
    if largest is not None and len(text) > largest:
        raise ValueError(f"it is longer than {largest >> 20} MB")
    return parse_json(text, parse_float)


def whole_number(text):
    """A number of 64 bits, signed or not. Raises ValueError for a longer one."""
    if len(text) <= LONGEST_NUMBER:
        number = int(text)
        if -1 << 63 <= number < 1 << 64:
            return number
    raise ValueError(f"it holds a whole number of more than 64 bits ({text[:LONGEST_NUMBER]}...)")


def check_depth(value):
    """Raise ValueError where lists and tables lie too deep inside each other."""
    level, depth = [value], 0
    while level:
        level = [part for whole in level if type(whole) in (dict, list)
                 for part in (whole.values() if type(whole) is dict else whole) if type(part) in (dict, list)]
        depth += 1
        if depth > DEEPEST:
            raise too_deep()


def too_deep():
    """The ValueError about ``DEEPEST``."""
    return ValueError(f"its lists and tables lie more than {DEEPEST} deep inside each other")

