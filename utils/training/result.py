"""result.json: what was run, on what, and what came out."""
import os
import platform
import subprocess

import numpy as np
import paddle

import utils
from utils.files import write_json

CODE = ("configs", "deploy", "models", "utils")  # folders in which a file that git does not know changes results


def git_commit():
    """Commit of the checkout, or None outside git; with ``+changes`` where files differ or code is not in git."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    def git(*arguments):
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno") or \
            git("status", "--porcelain", "--untracked-files=all", "--", ":(top,glob)*.py", *CODE)
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(device):
    """Versions and machine, as plain values."""
    return {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__,
            "device": device, "machine": platform.machine(), "cpu_count": os.cpu_count(), "system": platform.platform()}


def write_result(path, recipe, protocol, report, fingerprint, device, state=None, source=None, split=None):
    """Write an evaluation as JSON.

    Args:
        path: file to write.
        recipe: resolved recipe.
        protocol: Protocol.record() of the data.
        report: report of utils.training.evaluator.Evaluator.
        fingerprint: of the weights.
        device: where it ran.
        state: the training loop's state, where there was training.
        source: recipe file or checkpoint that was read.
        split: how the splits compare with those of the checkpoint (utils/datasets/trained_on.py), or None.
    """
    training = None
    if state is not None:
        training = {key: state[key] for key in ("epoch", "best_epoch", "best_score", "history", "started_from")}
        training.update(seconds=round(state["seconds"], 3),
                        selected_by="last" if state["best_score"] is None else recipe["select"],  # no labels, no choice
                        images_per_second=round(state["images"] / max(state["seconds"], 1e-9), 2))
    write_json(path, {
        "score": report["score"], "metrics": report["metrics"], "code_health": report["health"],
        "engine": report["engine"],
        "training": training, "protocol": protocol, "recipe": recipe, "recipe_source": source, "seed": recipe["seed"],
        "fingerprint": fingerprint, "seconds": {key: round(value, 3) for key, value in report["seconds"].items()},
        "warnings": report["warnings"], "split_of_training": split, "environment": environment(device),
        "version": utils.__version__, "commit": git_commit()})
