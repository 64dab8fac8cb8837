"""How many CPUs to use.

Read before Paddle is imported, which sets OMP_NUM_THREADS to 1 and warns about other values.
"""
import os

USER_THREADS = os.environ.get("OMP_NUM_THREADS", "")


def cpus():
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads():
    """Threads to use: the CPUs this process may run on, or the user's OMP_NUM_THREADS if that is less."""
    return max(1, min(cpus(), int(USER_THREADS))) if USER_THREADS.isdigit() else cpus()
