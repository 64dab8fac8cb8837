"""Text files of data sets: lines, texts of pictures, words of old encodings."""
import os

from utils.errors import InputError
from utils.plain_json import parse_json


def read_lines(path):
    """Lines of a UTF-8 file; raises InputError where it cannot be read or is not UTF-8."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def read_texts(path):
    """dict image path -> text from a texts.jsonl file.

    Raises:
        InputError: unreadable file or a line that is no JSON object with ``image`` and ``text``, as file:line.
    """
    texts = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                row = parse_json(line)
                texts[row["image"]] = whole_text(row["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}:{number}: not a JSON object with image and text") from error
    return texts


def add_texts(protocol, path):
    """Give every item of a protocol its text from a texts.jsonl file.

    Raises:
        InputError: as ``read_texts``, or an item without a text.
    """
    texts = read_texts(path)
    for split in protocol.splits:
        without = next((i for i, item in enumerate(split.ids) if item not in texts), None)
        if without is not None:
            raise InputError(f"{path} has no text for {split.ids[without]} ({split.where(without)}); make the lists "
                             "again")
        split.texts = [texts[item] for item in split.ids]


def whole_text(value):
    """A string of a JSON file, which may be written in pieces that are no characters.

    Raises:
        ValueError: no string, or one with half of a surrogate pair: no file could hold it.
    """
    if not isinstance(value, str):
        raise ValueError("is no string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a character (a lone surrogate)") from None
    return value


def utf8_or_latin1(data):
    """(text, is it Latin-1) of bytes: tags and articles of old sets are in either."""
    try:
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return data.decode("latin-1"), True


def names_of(folder):
    """Set of the names in a folder; empty where there is none."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
