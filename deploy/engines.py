"""A model folder, whatever runs it: ``open_model`` looks into the manifest and takes the engine that it names."""
from deploy.inference_python.predictor import Predictor
from deploy.model_folder import check_bits, engine_of, read_manifest
from deploy.onnx.predictor import OnnxPredictor
from utils.errors import InputError


def open_model(model_dir, device="cpu", threads=None, mkldnn=False, bf16=False, bit=None):
    """The Encoder (utils/retrieval/encoder.py) of a model folder.

    Args:
        model_dir: what export_model.py, deploy/onnx/convert.py or deploy/slim/quantize.py wrote.
        device: ``cpu`` or ``gpu``.
        threads: math threads on a CPU; None = the CPUs of this process, at most OMP_NUM_THREADS.
        mkldnn: oneDNN kernels in float32 (faster; last digits differ).
        bf16: oneDNN kernels in bfloat16 (fastest; some bits near zero flip).
        bit: refuse another code length.

    Raises:
        InputError: missing, damaged or unfitting model folder; a device or precision that is not there.
    """
    manifest = read_manifest(model_dir)
    check_bits(manifest, bit, model_dir)
    engine = engine_of(manifest)
    if engine == "paddle":
        return Predictor(model_dir, device, threads, mkldnn, bf16)
    if engine != "onnx":
        raise InputError(f"{model_dir} is for engine {engine!r}, and this version knows paddle and onnx; export the "
                         "model again")
    if device != "cpu" or mkldnn or bf16:
        raise InputError(f"{model_dir} is an ONNX model, run by onnxruntime on the CPU in float32; leave --use-gpu, "
                         "--mkldnn and --bf16 out")
    return OnnxPredictor(model_dir, threads)


def open_with(options):
    """``open_model`` as the flags --model-dir, --bit, --use-gpu, --threads, --mkldnn and --bf16 say."""
    return open_model(options.model_dir, "gpu" if options.use_gpu else "cpu", options.threads, options.mkldnn,
                      options.bf16, options.bit)
