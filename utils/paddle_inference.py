"""A static graph run by Paddle Inference: the same meaning on Paddle 2.6 and 3. Training and deployment use it."""
import numpy as np

from utils.cpu import threads as usable_threads
from utils.errors import InputError


def _call(config, name, *arguments):
    """Call a method of a Config where this Paddle version has it."""
    if hasattr(config, name):
        getattr(config, name)(*arguments)


def make_config(graph, weights, device="cpu", threads=None, mkldnn=False, bf16=False, int8=None):
    """A paddle.inference.Config with the same meaning on Paddle 2.6 and 3.

    Args:
        int8: the graph is one of deploy/slim/quantize.py: names of the oneDNN kernels to run in 8 bits, None = none.

    Raises:
        InputError: a GPU is asked for and this Paddle or machine has none, or bf16 and the CPU cannot.
    """
    import paddle
    from paddle import inference
    config = inference.Config(graph, weights)
    config.disable_glog_info()
    if device == "gpu":
        if not paddle.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
            raise InputError("no GPU: this Paddle is built without CUDA or sees no device; use --use-gpu False")
        if mkldnn or bf16:
            raise InputError("oneDNN and its bf16 run on CPUs only; drop --mkldnn and --bf16, or use --use-gpu False")
        config.enable_use_gpu(256, 0)
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads or usable_threads())
        _set_onednn(config, mkldnn or bool(int8), bf16)
    if int8:
        # the passes that make 8-bit kernels of a quantised graph know the old program form only
        config.enable_mkldnn_int8(set(int8))
        _call(config, "enable_new_ir", False)
        _call(config, "enable_new_executor", False)
        return config
    # the memory pass of Paddle 3 exists only on the new executor
    _call(config, "enable_new_ir", True)
    _call(config, "enable_new_executor", True)
    config.enable_memory_optim()
    return config


def _set_onednn(config, mkldnn, bf16):
    """oneDNN only when asked: Paddle 3.3 switches it on by itself, with open faults and other roundings."""
    if not (mkldnn or bf16):
        for name in ("disable_mkldnn", "disable_onednn"):
            _call(config, name)
        return
    import paddle
    config.enable_mkldnn()
    config.set_mkldnn_cache_capacity(10)
    if bf16:
        core = getattr(getattr(paddle, "base", None), "core", None)
        if core is not None and hasattr(core, "supports_bfloat16") and not core.supports_bfloat16():
            raise InputError("this CPU has no AVX-512, which oneDNN's bf16 needs; drop --bf16")
        config.enable_mkldnn_bfloat16()


def fast_bf16():
    """Whether this CPU has bfloat16 instructions (AVX512-BF16 or AMX) that this Paddle knows of."""
    import paddle
    return getattr(paddle.base.core, "supports_bfloat16_fast_performance", lambda: False)()


class Graph:
    """One static graph with one input and one output."""

    def __init__(self, config):
        from paddle import inference
        self.config = config
        self._predictor = inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def __call__(self, x):
        """Input float32 of the exported shape -> the first output of the graph, an array."""
        self._input.copy_from_cpu(np.ascontiguousarray(x, dtype="float32"))
        self._predictor.run()
        return self._output.copy_to_cpu()
