"""Checkpoint -> a folder that Paddle Inference runs: static graphs and the manifest inference.yml.

    python export_model.py --pretrained output/hashnet_shapes_64/best.safetensors --save-inference-dir output/model

The export is checked before it is installed: Paddle Inference must give the bits of the dynamic network.
"""
import os
import shutil
import sys
import tempfile

from utils.errors import InputError, run_main
from utils.flags import quiet, read_options
from utils.settings import Setting
from utils.training.checkpoint import find_checkpoint

MARGIN = 1e-3  # of the largest |code|: bits of smaller codes may differ between engines
CHECKED = 8  # inputs of the self-check


FLAGS = {
    "pretrained": Setting(None, "checkpoint that main_single_gpu.py or main_multi_gpu.py wrote", shown="CKPT"),
    "save_inference_dir": Setting(None, "where to write; default `inference` beside the checkpoint", shown="DIR"),
    "bit": Setting(None, "refuse a checkpoint of another code length", kind=int, low=1),
    "method": Setting(None, "refuse a checkpoint of another method; or the file of a method from outside, whose "
                      "checkpoint this is", shown="NAME|FILE"),
    "format": Setting("auto", "graph file: auto = json on Paddle 3, pdmodel on Paddle 2; pdparams-hashnet = no graph, "
                      "but the weights as paddle_hashnet loads them, weights_<bits>.pdparams",
                      choices=("auto", "json", "pdmodel", "pdparams-hashnet")),
    "use_gpu": Setting(False, "accepted for TIPC; the export itself runs on the CPU"),
}


def parse(argv):
    """The command line as attributes, see FLAGS."""
    return read_options(argv, "export_model.py", "Checkpoint to an inference model.", FLAGS)


def main(argv):
    options = parse(argv)
    if not options.pretrained:
        raise InputError("--pretrained CHECKPOINT is missing (for example output/<run>/best.safetensors)")
    quiet()
    options.pretrained = find_checkpoint(options.pretrained)
    folder = options.save_inference_dir or os.path.join(os.path.dirname(options.pretrained), "inference")
    if options.format == "pdparams-hashnet":
        print(f"----- Weights for paddle_hashnet are saved in {write_weights(options, folder)}")
        return
    if options.format != "auto":
        choose_format(options.format, argv)
    found = export(options.pretrained, folder, options.bit, options.method)
    print(f"----- Checked {found['inputs']} random inputs x {found['bits']} bits against the dynamic network: "
          f"same bits, {found['near_zero']} of {found['codes']} codes within {MARGIN:g} of zero "
          f"({found['flipped']} of them differ), largest difference {found['difference']:.2g}")
    print(f"----- Inference model is saved in {folder}")


def choose_format(name, argv):
    """Make Paddle write ``name``; its flag counts only before the import, so start anew if that is past.

    Raises:
        InputError: Paddle 2 knows no json graphs.
    """
    wanted = "1" if name == "json" else "0"
    if "paddle" in sys.modules and os.environ.get("FLAGS_enable_pir_api", "1") != wanted:
        os.environ["FLAGS_enable_pir_api"] = wanted
        os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), *argv])
    os.environ["FLAGS_enable_pir_api"] = wanted
    import paddle
    if name == "json" and paddle.__version__.startswith("2."):
        raise InputError(f"Paddle {paddle.__version__} writes pdmodel only; leave --format out or use Paddle 3")


def open_method(checkpoint, bit, method_name):
    """(method, meta) of a checkpoint; see ``export``."""
    import paddle
    paddle.set_device("cpu")
    from models import find_method
    from models.build import load_method
    wanted = method_name and find_method(method_name).name
    method, meta = load_method(checkpoint)
    if bit is not None and bit != method.bits:
        raise InputError(f"--bit {bit}, but {checkpoint} makes {method.bits}-bit codes")
    if wanted is not None and wanted != method.name:
        raise InputError(f"--method {method_name}, but {checkpoint} is of method {method.name}")
    return method, meta


def write_weights(options, folder):
    """--format pdparams-hashnet; returns the file."""
    from models.paddle_hashnet import write_whole_model
    method, _ = open_method(options.pretrained, options.bit, options.method)
    path = os.path.join(folder, f"weights_{method.bits}.pdparams")
    write_whole_model(method, path)
    return path


def export(checkpoint, folder, bit=None, method_name=None):
    """Export a checkpoint into ``folder``; an earlier export there is replaced only by a checked one.

    Args:
        checkpoint: path of a .safetensors checkpoint.
        folder: made if missing; other files in it (a run folder, say) stay.
        bit, method_name: what the checkpoint must be, None = anything; a method from outside by its file.

    Returns:
        dict of the self-check: inputs, bits, codes, near_zero, flipped, difference.

    Raises:
        InputError: unreadable checkpoint, one of another method or length, a folder that cannot be
            written, or Paddle Inference giving other bits; then nothing is left behind.
    """
    from models.export import image_shape, save_graphs
    from utils.transforms import recipe_spec

    method, meta = open_method(checkpoint, bit, method_name)
    recipe = meta["recipe"]
    new_folder = not os.path.isdir(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".export-", suffix=".part", dir=folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}; choose another --save-inference-dir") from error
    done = False
    try:
        save_graphs(method, temporary, image_shape(recipe), meta["data"].get("text_dim"))
        describe(method, meta, recipe_spec(recipe), checkpoint, temporary)
        found = self_check(method, temporary)
        install(temporary, folder)
        done = True
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; free some space or choose another "
                         "--save-inference-dir") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if new_folder and not done:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def describe(method, meta, preprocess, checkpoint, folder):
    """Write the manifest (and the vectorizer of a cross-modal model) beside the graphs in ``folder``."""
    import yaml

    from models.export import find_vectorizer, manifest
    from utils.files import sha256_file, write_text
    values = manifest(method, meta, preprocess)
    if "text" in values:
        vectorizer = find_vectorizer(meta, checkpoint)
        if vectorizer is not None:
            vectorizer.save(os.path.join(folder, "vectorizer.json"))
        values["text"]["vectorizer"] = None if vectorizer is None else "vectorizer.json"
    values["files"] = {name: sha256_file(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
    write_text(os.path.join(folder, "inference.yml"), yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def self_check(method, folder):
    """Compare the codes of Paddle Inference with those of the dynamic network on random inputs.

    Raises:
        InputError: a bit differs although its code is farther than MARGIN from zero.
    """
    import numpy as np
    import paddle

    from deploy.inference_python.predictor import Predictor
    predictor = Predictor(folder, threads=1)
    rng = np.random.default_rng(0)
    pairs = []
    with paddle.no_grad():
        image = smooth_noise(rng, predictor.manifest["image"]["input"])
        pairs.append((method.encode(paddle.to_tensor(image)).numpy(), predictor.encode(image)))
        if predictor.manifest.get("text"):
            text = rng.random([CHECKED, predictor.manifest["text"]["dim"]]).astype("float32")
            text[text < 0.8] = 0  # sparse, as bags of words are
            pairs.append((method.encode_text(paddle.to_tensor(text)).numpy(), predictor.encode_text(text)))
    found = {"inputs": CHECKED * len(pairs), "bits": method.bits, "codes": 0, "near_zero": 0, "flipped": 0,
             "difference": 0.0}
    for dynamic, static in pairs:
        near = np.abs(dynamic) <= MARGIN * np.abs(dynamic).max()
        differs = (dynamic >= 0) != (static >= 0)
        if (differs & ~near).any():
            raise InputError(f"Paddle Inference gives other bits than the network ({int((differs & ~near).sum())} of "
                             f"{differs.size}, largest difference {np.abs(dynamic - static).max():.2g}); nothing was "
                             "written; report the backbone and the Paddle version")
        found["codes"] += dynamic.size
        found["near_zero"] += int(near.sum())
        found["flipped"] += int(differs.sum())
        found["difference"] = max(found["difference"], float(np.abs(dynamic - static).max()))
    return found


def smooth_noise(rng, shape):
    """Random inputs float32 [CHECKED, *shape]; pictures get large and small patches of colour, not only noise."""
    import numpy as np
    x = rng.standard_normal([CHECKED, *shape])
    if len(shape) == 3:
        for cells in (2, 7):
            size = -(-shape[1] // cells)
            coarse = rng.standard_normal([CHECKED, shape[0], cells, cells])
            x = 0.5 * x + np.kron(coarse, np.ones([1, 1, size, size]))[:, :, :shape[1], :shape[2]]
    return x.astype("float32")


def install(temporary, folder):
    """Move a finished export into its folder, the manifest last: it names the digest of every other file."""
    names = sorted(os.listdir(temporary), key=lambda name: name == "inference.yml")
    for name in names:
        os.replace(os.path.join(temporary, name), os.path.join(folder, name))
    stems = ("inference", "text")
    endings = (".json", ".pdmodel", ".pdiparams", ".pdiparams.info")
    for stale in {stem + ending for stem in stems for ending in endings} - set(names):
        path = os.path.join(folder, stale)
        if os.path.exists(path):
            os.remove(path)


if __name__ == "__main__":
    run_main(main)
