"""The benchmark section that TIPC readers know from AutoLog, without that package and without its exit."""
import os
import platform
import subprocess
import sys
import time


class Times:
    """Stage times of repeated calls: ``start()``, ``stamp()`` after each stage, ``end()`` after the last.

    The stages are, in order, preprocess, inference and postprocess; the report shows their means.
    """

    def __init__(self):
        self.calls = []
        self._now = None

    def start(self):
        """Begin a call."""
        self._now = time.perf_counter()
        self.calls.append([])

    def stamp(self):
        """End a stage of the call and begin the next."""
        now = time.perf_counter()
        self.calls[-1].append(now - self._now)
        self._now = now

    def end(self, stamp=False):
        """End the call; ``stamp=True`` counts the time since the last stamp as one more stage."""
        if stamp:
            self.stamp()
        self._now = None

    def total(self):
        """Seconds of all calls."""
        return sum(map(sum, self.calls))

    def means(self, stages=3):
        """Mean milliseconds of the first ``stages`` stages (0 where a call has fewer)."""
        calls = max(1, len(self.calls))
        return [1000 * sum(call[i] for call in self.calls if i < len(call)) / calls for i in range(stages)]


def peak_memory():
    """Largest resident memory of this process so far in MB, None where the system does not say."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def since_process_start():
    """Seconds since this process was started (imports included), None where the system does not say."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            return float(file.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def driver_version():
    """Version of the NVIDIA driver, None where there is none."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n")[0].strip() or None if done.returncode == 0 else None


class AutoLogger:
    """Collects what ``report()`` prints; ``times`` is fed by the caller."""

    def __init__(self, model_name, batch_size=1, data_num=1, input_shape="dynamic", precision="fp32",
                 device="cpu", runtime=None, extra=None):
        """
        Args:
            model_name: shown under Model info.
            batch_size, input_shape: shown under Data info; a shape is text without blanks, ``3,224,224``.
            data_num: timed calls, shown there too.
            precision: fp32 or bf16.
            device: cpu or gpu.
            runtime: dict of engine settings for Conf info (``enable_mkldnn`` and so on).
            extra: dict of figures added to Perf info.
        """
        self.times = Times()
        self.model = {"model_name": model_name, "precision": precision}
        self.data = {"batch_size": batch_size, "input_shape": input_shape, "data_num": data_num}
        self.conf = {"runtime_device": device, **(runtime or {})}
        self.extra = dict(extra or {})

    def lines(self):
        """The report as a list of lines."""
        import paddle
        before, during, after = (round(value, 4) for value in self.times.means())
        memory = peak_memory()
        perf = [f"cpu_rss(MB): {memory if memory is None else round(memory, 4)}, gpu_rss(MB): None, gpu_util: None%",
                f"total time spent(s): {round(self.times.total(), 4)}",
                f"preprocess_time(ms): {before}, inference_time(ms): {during}, postprocess_time(ms): {after}"]
        version = paddle.version
        env = {"OS_version": platform.platform(), "CUDA_version": version.cuda(), "CUDNN_version": version.cudnn(),
               "drivier_version": driver_version(), "python_version": platform.python_version(),
               "cpu_count": os.cpu_count()}
        # spelling and dashes are AutoLog's: readers look for them
        sections = [("---------------------- Env info ----------------------", env),
                    ("---------------------- Paddle info ----------------------",
                     {"paddle_version": paddle.__version__, "paddle_commit": version.commit, "log_api_version": "1.0"}),
                    ("----------------------- Conf info -----------------------", self.conf),
                    ("----------------------- Model info ----------------------", self.model),
                    ("----------------------- Data info -----------------------", self.data)]
        out = []
        for title, values in sections:
            out.append(title)
            out += [f" {key}: {value}" for key, value in values.items()]
        out.append("----------------------- Perf info -----------------------")
        out += [f" {line}" for line in perf]
        out += [f" {key}: {value}" for key, value in self.extra.items()]
        return out

    def report(self, file=None):
        """Print the report with a time stamp before each line."""
        stamp = time.strftime("[%Y/%m/%d %H:%M:%S] root INFO: ")
        for line in self.lines():
            print(stamp + line, file=file or sys.stdout, flush=True)
