"""A model folder, whatever runs it: ``open_model`` looks into the manifest and takes the engine that it names."""
from deploy.differences import compare_random
from deploy.engine_flags import precision_of
from deploy.inference_python.predictor import Predictor
from deploy.model_folder import check_bits, engine_of, read_manifest
from deploy.onnx.predictor import OnnxPredictor
from utils.errors import InputError
from utils.paddle_inference import fast_bf16

# Share of the bits of random inputs that bfloat16 may change where --precision auto takes it. A trained layer has
# learnt to keep away from zero: on pictures its bits flip more rarely than on random inputs.
AUTO_FLIPS = 0.01


def open_model(model_dir, device="cpu", threads=None, mkldnn=None, bf16=False, bit=None):
    """The Encoder (utils/retrieval/encoder.py) of a model folder.

    Args:
        model_dir: what export_model.py, deploy/onnx/convert.py or deploy/slim/quantize.py wrote.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; None = the CPUs of this process, at most OMP_NUM_THREADS.
        mkldnn: oneDNN kernels in float32 (faster; last digits differ); None = where the export found that they flip no
            bit.
        bf16: oneDNN kernels in bfloat16 (fastest; some bits near zero flip).
        bit: refuse another code length.

    Raises:
        InputError: missing, damaged or unfitting model folder; a device or precision that is not there.
    """
    manifest = read_manifest(model_dir)
    check_bits(manifest, bit, model_dir)
    engine = engine_of(manifest)
    if engine == "paddle":
        if mkldnn is None:
            mkldnn = device == "cpu" and not bf16 and keeps_bits(manifest)
        return Predictor(model_dir, device, threads, mkldnn, bf16)
    if engine != "onnx":
        raise InputError(f"{model_dir} is for engine {engine!r}, and this version knows paddle and onnx; export the "
                         "model again")
    if device != "cpu" or mkldnn or bf16:
        raise InputError(f"{model_dir} is an ONNX model, run by onnxruntime on the CPU in float32; leave --use-gpu, "
                         "--mkldnn, --bf16 and --precision bf16 out")
    return OnnxPredictor(model_dir, threads)


def keeps_bits(manifest):
    """Whether the export found that oneDNN flips no bit (of every modality); False for folders that do not say."""
    found = manifest.get("onednn") or {}
    return bool(found) and all(one["flips"] == 0 for one in found.values())


def open_with(options, say=print):
    """``open_model`` as the flags --model-dir, --bit, --use-gpu, --threads and those of engine_flags say.

    Args:
        say: callable of a line, which tells what --precision auto has chosen.
    """
    device, precision = "gpu" if options.use_gpu else "cpu", precision_of(options)

    def opened(bf16):
        return open_model(options.model_dir, device, options.threads, options.mkldnn, bf16, options.bit)

    if precision != "auto":
        return opened(precision == "bf16")
    encoder = opened(False)
    reason = _no_bf16(encoder, options)
    if reason is None:
        other = opened(True)
        try:
            found = compare_random(encoder, other).values()
        except InputError as error:  # Paddle 2.6 has not all kernels in bf16
            say(f"----- Note: no bf16: {error}")
            found, reason = (), "bf16 does not run here"
        if found:
            share = sum(one["flips"] for one in found) / sum(one["codes"] for one in found)
            encoder = other if share <= AUTO_FLIPS else encoder
            reason = f"{share:.2%} of the bits of random inputs flip in bf16, {AUTO_FLIPS:.0%} may"
    say(f"----- Precision: {encoder.precision} ({reason})")
    return encoder


def _no_bf16(encoder, options):
    """Why bfloat16 is out of the question for --precision auto, or None."""
    if encoder.graphs != "paddle" or encoder.precision != "fp32":
        return f"the model is for {encoder.engine} in {encoder.precision}"
    if options.use_gpu or options.mkldnn is False:
        return "bf16 runs on a CPU with oneDNN"
    return None if fast_bf16() else "this CPU has no bf16 instructions"
