"""What forks of the campaign's process need not import again."""
import contextlib
import gc
import importlib

OPTIONAL = ("uvicorn", "deploy.service.app", "pymilvus", "onnxruntime")
MODULES = ("paddle", "engine", "models.build", "models.encoder", "models.export", "deploy.engines", "deploy.index",
           "deploy.data", "deploy.answers", "utils.datasets", "utils.plots", "utils.training.feature_store", "scipy.io",
           "h5py")


def preload():
    """Import; nothing is computed, so no thread begins that a fork would miss."""
    for name in MODULES:
        importlib.import_module(name)
    for name in OPTIONAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()   # what is shared with the forks stays shared
