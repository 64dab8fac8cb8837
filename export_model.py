"""Checkpoint -> a folder that Paddle Inference runs: static graphs and the manifest inference.yml.

    python export_model.py --pretrained output/hashnet_shapes_64/best.safetensors --save-inference-dir output/model

The export is checked before it is installed: Paddle Inference must give the bits of the dynamic network.
"""
import os
import sys

from utils.errors import InputError, run_main
from utils.flags import quiet, read_options
from utils.settings import Setting
from utils.training.checkpoint import TRAINED_ON, find_checkpoint

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
    """Write the inference model of a checkpoint, or its weights in paddle_hashnet's layout.

    Raises:
        InputError: the checkpoint is not given or cannot be exported.
    """
    options = parse(argv)
    if not options.pretrained:
        raise InputError("--pretrained CHECKPOINT is missing (for example output/<run>/best.safetensors)")
    quiet()
    path = find_checkpoint(options.pretrained)
    folder = options.save_inference_dir or os.path.join(os.path.dirname(path), "inference")
    if options.format == "pdparams-hashnet":
        print(f"----- Weights for paddle_hashnet are saved in {write_weights(options, folder)}")
        return
    if options.format != "auto":
        choose_format(options.format, argv)
    if path != options.pretrained:
        print(f"----- Checkpoint: {path}")
    found = export(path, folder, options.bit, options.method)
    from deploy.differences import describe
    for modality, one in found.items():
        print(f"----- Checked {one['items']} random {modality} inputs against the dynamic network: same bits; "
              f"{describe(one)}")
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
        dict modality -> deploy.differences.difference, of the self-check.

    Raises:
        InputError: unreadable checkpoint, one of another method or length, a folder that cannot be
            written, or Paddle Inference giving other bits; then nothing is left behind.
    """
    from deploy.model_folder import VECTORIZER, new_folder, write_manifest, write_trained_on
    from models.checkpoint import open_checkpoint
    from models.encoder import LiveEncoder
    from models.export import image_shape, save_graphs

    method, meta = open_method(checkpoint, bit, method_name)
    encoder = LiveEncoder(method, meta)
    with new_folder(folder, flag="--save-inference-dir") as temporary:
        save_graphs(method, temporary, image_shape(meta["recipe"]), meta["data"].get("text_dim"))
        manifest = encoder.manifest
        if "text" in manifest:
            known = encoder.vectorizer is not None
            if known:
                encoder.vectorizer.save(os.path.join(temporary, VECTORIZER))
            manifest["text"]["vectorizer"] = VECTORIZER if known else None
        if "protocol" in meta:
            arrays, _ = open_checkpoint(checkpoint, lambda key: key == TRAINED_ON)
            manifest["trained_on"] = write_trained_on(temporary, meta["protocol"], arrays.get(TRAINED_ON))
        write_manifest(temporary, manifest)
        found = self_check(encoder, temporary)
        manifest["onednn"] = try_onednn(encoder, temporary)
        write_manifest(temporary, manifest)
        return found


def self_check(encoder, folder):
    """Compare the codes of Paddle Inference with those of the dynamic network on random inputs.

    Returns:
        dict modality -> deploy.differences.difference.

    Raises:
        InputError: a bit differs although its code is not next to zero.
    """
    from deploy.differences import compare_random
    from deploy.inference_python.predictor import Predictor
    found = compare_random(encoder, Predictor(folder, threads=1))
    for one in found.values():
        if one["far_flips"]:
            raise InputError(f"Paddle Inference gives other bits than the network ({one['far_flips']} of "
                             f"{one['codes']}, largest difference {one['largest']:.2g}); nothing was written; report "
                             "the backbone and the Paddle version")
    return found


def try_onednn(encoder, folder):
    """How oneDNN's float32 kernels change the codes of the dynamic network on random inputs.

    deploy/engines.py takes them by default where no bit flips.

    Returns:
        dict modality -> ``flips``, ``codes``; None where they cannot run this network.
    """
    from deploy.differences import compare_random
    from deploy.inference_python.predictor import Predictor
    try:
        found = compare_random(encoder, Predictor(folder, threads=1, mkldnn=True))
    except InputError as error:
        print(f"----- Note: no oneDNN by default: {error}")
        return None
    return {modality: {"flips": one["flips"], "codes": one["codes"]} for modality, one in found.items()}


if __name__ == "__main__":
    run_main(main)
