"""What a benchmark ran on."""
import os
import platform


def machine(threads, **versions):
    """One line: processor, number of threads, load, Python, and the given versions."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    versions = {"Python": platform.python_version(), **versions}
    return f"{name}, {threads} threads{load}; " + ", ".join(f"{key} {value}" for key, value in versions.items())
