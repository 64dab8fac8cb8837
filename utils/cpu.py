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


def restore_threads():
    """Take back the OMP_NUM_THREADS=1 that Paddle has set; a process that starts now would take it for the user's."""
    if not USER_THREADS:
        os.environ.pop("OMP_NUM_THREADS", None)


def share_cores():
    """Math threads sleep while they wait: by spinning they take the cores from those that decode and answer.

    Read when Paddle is imported; children inherit it. A user's own OMP_WAIT_POLICY holds.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
