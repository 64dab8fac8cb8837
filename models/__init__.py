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
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


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
                other = inspect.getsourcefile(METHODS[method.name])
                raise InputError(f"models/{found.name}.py and {other} both define a method {method.name}; rename one")
            METHODS[method.name] = method
    for name in sorted(METHODS):
        METHODS[name] = METHODS.pop(name)


def find_method(name, named_by=None, own_file=None):
    """The class of a method, by its name or by the file that defines it; such a file's method joins ``METHODS``.

    Args:
        name: ``hashnet``, or ``path/to/six.py``. The file is executed: give only files that the user has named.
        named_by: the checkpoint or recipe that names the method, where it is not the user: no file is executed then.
        own_file: where the method was defined, by the word of ``named_by``.

    Raises:
        InputError: unknown name; a file that is not there, cannot be imported, does not define exactly one method, or
            defines one whose name is taken.
    """
    name = str(name)
    if name.endswith(".py") and not named_by:
        return _from_file(os.path.abspath(name))
    if name.lower() in METHODS:
        return METHODS[name.lower()]
    there = f"{nearest(name, METHODS)}; there are {', '.join(METHODS)}"
    broken = "".join(f"; {file} was left out: {why}" for file, why in BROKEN.items())
    if named_by:
        own = f"; it was defined in {own_file}: name that file with --method FILE" if own_file else broken
        raise InputError(f"{named_by} is of method {name!r}, which is not at hand{there}{own}")
    raise InputError(f"unknown method {name!r}{there}, or give the file of your own (--method path/to/six.py){broken}")


def _from_file(path):
    if not os.path.isfile(path):
        raise InputError(f"no method file at {path}; `python -m models new NAME` writes one")
    for method in METHODS.values():
        own = getattr(sys.modules.get(method.__module__), "__file__", None)
        if own and os.path.samefile(own, path):
            return method
    spec = importlib.util.spec_from_file_location(f"_method_{hashlib.sha1(path.encode()).hexdigest()[:8]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with open(path, "rb") as file:
            source = file.read()
        exec(compile(source, path, "exec"), module.__dict__)  # these very bytes: their hash goes into every result
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise InputError(f"the method file {path} cannot be imported ({_reason(error)})") from error
    found = _methods_of(module)
    if len(found) != 1:
        raise InputError(f"{path} defines {len(found)} methods; one subclass of HashMethod with a name is wanted")
    if found[0].name in METHODS:
        raise InputError(f"{path} defines a method {found[0].name!r}, and that name is taken; choose another name")
    found[0].defined_in, found[0].source_sha256 = path, hashlib.sha256(source).hexdigest()
    METHODS[found[0].name] = found[0]
    return found[0]


_discover()  # last: the files of this folder may import what is defined above
