"""Model folders that are made of other model folders: written beside, checked, then moved into place."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile

import yaml

from utils.errors import InputError
from utils.files import sha256_file, write_text

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compare.py")
MANIFEST = "inference.yml"
STEMS = ("inference", "text")
ENDINGS = (".json", ".pdmodel", ".pdiparams", ".pdiparams.info", ".onnx")


@contextlib.contextmanager
def new_folder(folder, source):
    """Yield a temporary folder inside ``folder``; its files move into ``folder`` when the block succeeds.

    After an error nothing of the block is left. Files of an earlier model in ``folder`` go when the new ones come.

    Raises:
        InputError: ``folder`` is the source itself or cannot be written.
    """
    if os.path.realpath(folder) == os.path.realpath(source):
        raise InputError(f"{folder} is the model itself; choose another --save-dir")
    made = not os.path.isdir(folder)
    temporary, done = None, False
    try:
        os.makedirs(folder, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".model-", suffix=".part", dir=folder)
        yield temporary
        names = sorted(os.listdir(temporary), key=lambda name: name == MANIFEST)  # it names the digest of the others
        for name in names:
            os.replace(os.path.join(temporary, name), os.path.join(folder, name))
        for stale in {stem + ending for stem in STEMS for ending in ENDINGS} - set(names):
            if os.path.exists(os.path.join(folder, stale)):
                os.remove(os.path.join(folder, stale))
        done = True
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; free some space or choose another "
                         "--save-dir") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        if made and not done:
            shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder, manifest):
    """Write the manifest with the digests of all files in ``folder``."""
    files = {name: sha256_file(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name != MANIFEST}
    write_text(os.path.join(folder, MANIFEST),
               yaml.safe_dump({**manifest, "files": files}, sort_keys=False, allow_unicode=True))


def accepted(model_dir, folder, flags, what, crash):
    """Lines of deploy/compare.py on ``model_dir`` and the ``folder`` made of it.

    It runs in a process of its own: a graph that converted badly can kill the engine.

    Args:
        flags: list of its other arguments. what: the new model, for messages. crash: callable of the exit
            status and the error output, where no ``error:`` line tells the reason -> the reason.

    Raises:
        InputError: it found a fault, or died.
    """
    done = subprocess.run([sys.executable, COMPARE, "--model-dir", model_dir, "--other-dir", folder, *flags],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace")
    if done.returncode == 0:
        return [line for line in done.stdout.splitlines() if line.startswith("----- ")]
    reason = [line[7:] for line in done.stderr.splitlines() if line.startswith("error: ")]
    reason = reason or [crash(done.returncode, done.stderr)]
    raise InputError(f"the {what} model was not accepted, nothing was written: {reason[-1].replace(folder, 'it')}")
