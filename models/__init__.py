"""The registry: every file here that defines a HashMethod with a name is a method. Nothing else to edit.

A method's file may also lie elsewhere: ``find_method("path/to/six.py")``.
"""
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys

import utils  # noqa: F401  before Paddle, see utils/__init__.py

# isort: split
from models.method import HashMethod
from utils.errors import InputError
from utils.settings import nearest

METHODS = {}
BROKEN = {}  # file name -> why it could not be imported


def _methods_of(module):
    """The HashMethods with a name that a module defines itself."""
    return [value for _, value in inspect.getmembers(module, inspect.isclass)
            if issubclass(value, HashMethod) and value.name and value.__module__ == module.__name__]


def _reason(error):
    """One line of an exception: its type, its text, and its line number where it is a SyntaxError."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _discover():
    for found in pkgutil.iter_modules(__path__):
        if found.name.startswith("_"):
            continue
        try:
            module = importlib.import_module(f"models.{found.name}")
        except Exception as error:  # a draft must not stop the other methods
            BROKEN[f"models/{found.name}.py"] = _reason(error)
            print(f"note: models/{found.name}.py is left out: {_reason(error)}", file=sys.stderr)
            continue
        for method in _methods_of(module):
            if method.name in METHODS:
                raise InputError(f"models/{found.name}.py and {inspect.getsourcefile(METHODS[method.name])} both define "
                                 f"a method {method.name}; rename one")
            METHODS[method.name] = method
    for name in sorted(METHODS):
        METHODS[name] = METHODS.pop(name)


_discover()


def find_method(name):
    """The class of a method, by its name or by the file that defines it; such a file's method joins ``METHODS``.

    Args:
        name: ``hashnet``, or ``path/to/six.py``. The file is executed: give only files you trust.

    Raises:
        InputError: unknown name; a file that is not there, cannot be imported, does not define exactly one method, or
            defines one whose name is taken.
    """
    name = str(name)
    if name.endswith(".py"):
        return _from_file(os.path.abspath(name))
    if name not in METHODS:
        broken = "".join(f"; {file} was left out: {why}" for file, why in BROKEN.items())
        raise InputError(f"unknown method {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}, or give the "
                         f"file of your own (--method path/to/six.py){broken}")
    return METHODS[name]


def method_file(method):
    """Where a method from outside was defined and what the file held: (path, SHA-256), or (None, None)."""
    path = getattr(method, "defined_in", None)
    if path is None:
        return None, None
    with open(path, "rb") as file:
        return path, hashlib.sha256(file.read()).hexdigest()


def _from_file(path):
    known = next((method for method in METHODS.values() if getattr(method, "defined_in", None) == path), None)
    if known:
        return known
    if not os.path.isfile(path):
        raise InputError(f"no method file at {path}; `python -m models new NAME` writes one")
    spec = importlib.util.spec_from_file_location(f"_method_{hashlib.sha1(path.encode()).hexdigest()[:8]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"the method file {path} cannot be imported ({_reason(error)})") from error
    found = _methods_of(module)
    if len(found) != 1:
        raise InputError(f"{path} defines {len(found)} methods; one subclass of HashMethod with a name is wanted")
    if found[0].name in METHODS:
        raise InputError(f"{path} defines a method {found[0].name!r}, and that name is taken; choose another name")
    found[0].defined_in = path
    METHODS[found[0].name] = found[0]
    return found[0]
