"""Locks: one owner, none left behind by the dead."""
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import ROOT
from utils.errors import InputError
from utils.files import owned

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
