"""Do two engines of one network give the same bits? Random inputs, the difference of their codes, and the verdict.

export_model.py holds an export against the live network with it, deploy/compare.py two model folders.
"""
import os
import subprocess
import sys

import numpy as np

from utils.cpu import restore_threads
from utils.errors import InputError
from utils.retrieval.encoder import modalities
from utils.retrieval.flips import MARGIN, difference

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compare.py")
RANDOM = 8  # random inputs of a comparison


def random_inputs(manifest, modality="image", seed=0):
    """Random inputs float32 [RANDOM, ...] of a model: patches of colour of two sizes under noise, or sparse words."""
    rng = np.random.default_rng(seed)
    if modality == "text":
        rows = rng.random([RANDOM, manifest["text"]["dim"]])
        return np.where(rows < 0.8, 0, rows).astype("float32")
    shape = manifest["image"]["input"]
    x = rng.standard_normal([RANDOM, *shape])
    if len(shape) == 3:
        for cells in (2, 7):
            size = -(-max(shape[1:]) // cells)
            coarse = np.kron(rng.standard_normal([RANDOM, shape[0], cells, cells]), np.ones([1, 1, size, size]))
            x = 0.5 * x + coarse[:, :, :shape[1], :shape[2]]
    return x.astype("float32")


def run(encoder, rows, modality="image"):
    """Relaxed codes float32 [N, bits] of inputs."""
    return encoder.encode_text(rows) if modality == "text" else encoder.encode(rows)


def compare_random(reference, other):
    """``difference`` of two encoders on random inputs: dict modality -> its dict."""
    found = {}
    for modality in modalities(reference):
        rows = random_inputs(reference.manifest, modality)
        found[modality] = difference(run(reference, rows, modality), run(other, rows, modality))
    return found


def describe(found):
    """A ``difference`` in words."""
    return (f"{found['flips']} of {found['codes']} bits differ ({found['flips'] / found['codes']:.2%}), "
            f"{found['far_flips']} of them farther than {MARGIN:g} from zero; {found['near_zero']} codes are nearer; "
            f"largest difference {found['largest']:.2g}")


def accepted(model_dir, folder, flags, what, crash):
    """Lines of deploy/compare.py on ``model_dir`` and the ``folder`` made of it.

    It runs in a process of its own: a graph that converted badly can kill the engine.

    Args:
        flags: list of its other arguments. what: the new model, for messages. crash: callable of the exit
            status and the error output, where no ``error:`` line tells the reason -> the reason.

    Raises:
        InputError: it found a fault, or died.
    """
    restore_threads()
    done = subprocess.run([sys.executable, COMPARE, "--model-dir", model_dir, "--other-dir", folder, *flags],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace")
    if done.returncode == 0:
        return [line for line in done.stdout.splitlines() if line.startswith("----- ")]
    reason = [line[7:] for line in done.stderr.splitlines() if line.startswith("error: ")]
    reason = reason or [crash(done.returncode, done.stderr)]
    raise InputError(f"the {what} model was not accepted, nothing was written: {reason[-1].replace(folder, 'it')}")
