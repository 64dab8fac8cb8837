"""The PaddleClas wheel, from which only the architectures are imported."""
import importlib
import importlib.util
import logging
import os
import sys
import types

from utils.errors import InputError

_PACKAGE = "_pdh_paddleclas"   # our private name of the wheel's folder: a real `import paddleclas` stays possible


class _AttrDict(dict):
    """A dict whose entries are attributes too."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def _refuse_loading(*_, **__):
    raise InputError("this network loads its own weights, which is not supported: give --backbone-weights FILE")


def paddleclas():
    """The module with all architectures, imported without the rest of the wheel.

    The parent packages import faiss, scikit-learn and more, download and unpickle weights and log to
    stdout; none of that is needed to build a network, so light modules take their places.

    Raises:
        InputError: paddleclas is not installed.
    """
    if _PACKAGE + ".ppcls.arch.backbone" in sys.modules:
        return sys.modules[_PACKAGE + ".ppcls.arch.backbone"]
    spec = importlib.util.find_spec("paddleclas")   # finds a package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise InputError("paddleclas is not installed; run: pip install --no-deps paddleclas==2.6.0")
    root = list(spec.submodule_search_locations)[0]

    def module(name, folder=None, **values):
        made = types.ModuleType(f"{_PACKAGE}{name}")
        made.__dict__.update(values)
        if folder is not None:
            made.__path__ = [os.path.join(root, folder)] if folder else []
        sys.modules[made.__name__] = made
        return made

    log = logging.getLogger("ppcls")
    logger = module(".ppcls.utils.logger", info=log.debug, debug=log.debug, warning=log.debug, error=log.error)
    module("", ".")
    module(".ppcls", "ppcls")
    module(".ppcls.arch", "ppcls/arch")
    module(".ppcls.utils", "", logger=logger)
    module(".ppcls.utils.save_load", load_dygraph_pretrain=_refuse_loading)
    module(".ppcls.utils.download", get_weights_path_from_url=_refuse_loading)
    module(".ppcls.utils.config", AttrDict=_AttrDict)
    return importlib.import_module(_PACKAGE + ".ppcls.arch.backbone")


def factories():
    """name -> factory function, for every architecture that has a ``pretrained`` switch or a class count."""
    found = {}
    for name, value in vars(paddleclas()).items():
        code = getattr(value, "__code__", None)
        if code and not name.startswith("_") and "pretrained" in code.co_varnames[:code.co_argcount]:
            found[name] = value
    return found


def list_backbones():
    """Sorted names of all PaddleClas architectures that can be asked for."""
    return sorted(factories())


def weights_url(name):
    """Address of PaddleClas' own ImageNet weights of an architecture, or None where it has none."""
    table = factories()[name].__globals__.get("MODEL_URLS", {})
    url = table.get(name)
    return url if isinstance(url, str) and url.startswith("http") else None
