"""YAML of strangers: read into plain values, or refused. Everything that reads YAML comes here.

Limits: those of plain_json.py, the bytes of the file, and the nodes that its aliases unfold to: ten lines can stand for
billions.
"""
import contextlib

import yaml

from utils.plain_json import DEEPEST, check_depth, too_deep, whole_number

LARGEST, MOST_NODES = 8 << 20, 200_000  # bytes, nodes; PyYAML needs 40 microseconds a node


def parse_yaml(text, text_keys=False):
    """One YAML document -> dict, list, str, int, float, bool or None. Dates stay the texts that they are.

    Args:
        text: str, or UTF-8 bytes.
        text_keys: refuse whole numbers as keys.

    Raises:
        ValueError: it is no YAML, or beyond the limits, or holds other values; one line says which.
    """
    if len(text) > LARGEST:
        raise ValueError(f"it is longer than {LARGEST >> 20} MB")
    try:
        value = yaml.load(text.decode("utf-8") if isinstance(text, bytes) else text,
                          _TextKeys if text_keys else _Loader)
    except RecursionError:
        raise too_deep() from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    except Exception as error:  # what a wrong tag makes of a value may raise anything
        raise ValueError(f"it holds a value that is not of its kind ({type(error).__name__}: {error})") from None
    check_depth(value)
    return value


def read_yaml(path, text_keys=False):
    """``parse_yaml`` of a file. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        return parse_yaml(file.read(LARGEST + 1), text_keys)


class _Loader(yaml.SafeLoader):
    """SafeLoader that counts what it makes, and makes plain values only."""

    keys = ("str", "int", "merge")

    def __init__(self, stream):
        super().__init__(stream)
        self.nodes, self.depth, self.sizes = 0, 0, {}

    def compose_node(self, parent, index):
        alias, before = self.check_event(yaml.AliasEvent), self.nodes
        with self._one_deeper():
            node = super().compose_node(parent, index)
        if not alias:
            self.nodes += 1
            self.sizes[id(node)] = self.nodes - before
        elif id(node) in self.sizes:
            self.nodes += self.sizes[id(node)]
        else:
            raise ValueError("it holds itself")
        if self.nodes > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES:,} entries, its aliases unfolded")
        return node

    @contextlib.contextmanager
    def _one_deeper(self):
        self.depth += 1
        if self.depth > DEEPEST:
            raise too_deep()
        yield
        self.depth -= 1


def _plain_keys(loader, node):
    """A mapping whose keys are plain: others cannot be sorted, nor written as JSON."""
    for key, _ in node.value:
        if key.tag.rpartition(":")[2] not in loader.keys:
            raise ValueError(f"a key on line {key.start_mark.line + 1} is no text; put it in quotes")
    yield from yaml.SafeLoader.construct_yaml_map(loader, node)


def _plain_number(loader, node):
    text = loader.construct_scalar(node)
    if len(text) > 100:  # 64 bits in any base are shorter
        return whole_number(text)
    return whole_number(str(yaml.SafeLoader.construct_yaml_int(loader, node)))


def _no_plain_value(loader, node):
    raise ValueError(f"{node.tag} on line {node.start_mark.line + 1} is none of the kinds of values that are read")


_Loader.add_constructor("tag:yaml.org,2002:map", _plain_keys)
_Loader.add_constructor("tag:yaml.org,2002:int", _plain_number)
for _kind in ("timestamp", "binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _no_plain_value)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}


class _TextKeys(_Loader):
    keys = ("str", "merge")
