"""The service as one command that ends by itself: pictures are added and removed over HTTP while it runs.

    python -m tests.campaign.served_writes FOLDER FLAG ...

FLAGs are those of ``python -m deploy.service``. The pictures of FOLDER/pictures are added as new/NAME, every third one
is removed again; done a second time it comes to the same. FOLDER/acknowledged.txt says what the service has answered
for, a line each: ``+ id`` or ``- id``.
"""
import os
import pathlib
import re
import runpy
import signal
import sys
import threading
import time

LOG = "acknowledged.txt"


def _address():
    """Of the service in this process, from what it has printed; output goes to a file."""
    while True:
        with open("/proc/self/fd/2", encoding="utf-8", errors="replace") as file:
            found = re.search(r"running on (http://[\d.]+:\d+)", file.read())
        if found:
            return found[1]
        time.sleep(.005)


def _write(folder):
    from deploy.service.client import Client, ServiceError
    try:
        with Client(_address()) as client, open(folder / LOG, "a", encoding="ascii") as log:
            def answered(sign, name):
                log.write(f"{sign} {name}\n")
                log.flush()
            for number, path in enumerate(sorted(folder.glob("pictures/*"))):
                name = f"new/{path.name}"
                client.add(path, name, replace=True)
                answered("+", name)
                if number % 3 == 2:
                    client.remove([name])
                    answered("-", name)
    except ServiceError as error:
        print(f"the writer: {error}", flush=True)
        os.abort()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def acknowledged(folder):
    """dict id -> whether the service has said that it is there; that which was asked last may be done too."""
    path = folder / LOG
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return {line[2:]: line[0] == "+" for line in lines}


if __name__ == "__main__":
    threading.Thread(target=_write, args=(pathlib.Path(sys.argv[1]),), daemon=True).start()
    sys.argv = ["deploy.service", *sys.argv[2:]]
    runpy.run_module("deploy.service", run_name="__main__", alter_sys=True)
