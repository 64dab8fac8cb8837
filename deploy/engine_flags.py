"""The flags that say how an exported model runs on a CPU, stated once for every command that opens one."""
from utils.errors import InputError
from utils.settings import Setting

FLAGS = {
    "precision": Setting(None, "numbers of the network: fp32 (default), bf16, or auto: bf16 where the CPU has it and "
                         "few bits of a sample flip (exported models)", choices=("fp32", "bf16", "auto"), shown="NAME"),
    "mkldnn": Setting(None, "oneDNN kernels; default: where the export found that they flip no bit (exported models)",
                      kind=bool, also=("enable_mkldnn",)),
    "bf16": Setting(False, "the same as --precision bf16"),
}


def precision_of(options):
    """``fp32``, ``bf16`` or ``auto``, as --precision and --bf16 say.

    Raises:
        InputError: they contradict each other, or bf16 is asked for without oneDNN.
    """
    if options.bf16 and options.precision not in (None, "bf16"):
        raise InputError(f"--bf16 and --precision {options.precision} contradict each other; give one of them")
    precision = "bf16" if options.bf16 else options.precision or "fp32"
    if precision == "bf16" and options.mkldnn is False:
        raise InputError("bf16 runs on oneDNN kernels; leave --mkldnn False out, or take --precision fp32")
    return precision
