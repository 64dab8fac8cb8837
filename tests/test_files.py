"""Locks: one owner, none left behind by the dead."""
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import ROOT
from utils.errors import InputError
from utils.files import atomic_path, forget_dead_writer, owned, remove_left, sole_writer

HOLD = ("import sys, time; from utils.files import owned\n"
        "with owned(sys.argv[1]): print('held', flush=True); time.sleep(60)")


def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_has_one_owner_and_a_killed_one_leaves_none(tmp_path):
    process = holder(tmp_path / "lock")
    try:
        with pytest.raises(InputError, match=f"{tmp_path} is being changed by process {process.pid} on "):
            with owned(tmp_path / "lock"):
                pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with owned(tmp_path / "lock"):  # its file still names the dead
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_a_lock_is_waited_for(tmp_path):
    """Threads of one process exclude each other too."""
    order = []

    def second():
        with owned(tmp_path / "lock", patience=30):
            order.append("second")

    with owned(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_where_no_lock_can_be_made(tmp_path):
    with pytest.raises(InputError, match="cannot write the lock"):
        with owned(tmp_path / "none" / "lock"):
            pass


KILLED = """
import os, signal, sys
from utils.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    with open(temporary, "wb") as file:
        file.write(b"half")
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_what_killed_writers_leave_goes_with_the_next_one(tmp_path):
    path = tmp_path / "a.npz"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path), "killed"], cwd=ROOT).returncode == -signal.SIGKILL
    alive = subprocess.Popen([sys.executable, "-c", KILLED, str(path), "alive"], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert alive.stdout.readline() == "writing\n"  # and has removed what the first one left
    with atomic_path(path) as temporary:
        assert len(os.listdir(tmp_path)) == 2  # that of the one that still writes, and the own one
        with open(temporary, "wb") as file:
            file.write(b"whole")
    (tmp_path / ".other.x.part.npz").write_text("half")
    remove_left(str(tmp_path))
    assert path.read_bytes() == b"whole" and len(os.listdir(tmp_path)) == 2
    assert alive.communicate("")[0] == "" and alive.returncode == 0
    assert path.read_bytes() == b"half" and os.listdir(tmp_path) == ["a.npz"]


def test_the_lock_of_a_writer_that_was_killed_at_its_end_goes(tmp_path):
    path, lock = tmp_path / "a.npz", tmp_path / ".a.npz.lock"
    with sole_writer(path, ""):
        forget_dead_writer(path)
        assert lock.exists()
    lock.write_text(f"process 12 on {platform.node()}\n")
    forget_dead_writer(path)
    assert not lock.exists()
    forget_dead_writer(path)
    lock.write_text("process 12 on elsewhere\n")
    forget_dead_writer(path)
    assert lock.read_text() == "process 12 on elsewhere\n"


def test_a_lock_file_that_goes_with_its_owner(tmp_path):
    lock, order = tmp_path / "x.lock", []

    def own(name):
        with owned(lock, patience=60, keep=False):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    threads = [threading.Thread(target=own, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2] and sorted(order[::2]) == list(range(8)) and os.listdir(tmp_path) == []
