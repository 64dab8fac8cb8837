"""Files made to cost memory or time are read in children with little of both."""
import json
import os
import subprocess
import sys

from tests.conftest import ROOT

MEMORY, SECONDS = 500 << 20, 2

# forks after the imports, so that the limits are those of reading
CHILD = """
import json, os, resource, sys
{imports}
from utils.errors import InputError
memory, seconds, *paths = sys.argv[1:]
def limited(path):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + int(memory)
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))   # a fork starts at 0
    try:
        read(path)
    except InputError as error:
        return "refused: " + str(error)
    except BaseException as error:
        return "raised: " + repr(error)[:200]
    return "read"
for path in paths:
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.write(writable, limited(path).encode()[:4000])
        os._exit(0)
    os.close(writable)
    answer = os.fdopen(readable, "rb").read().decode()
    _, status = os.waitpid(child, 0)
    print(json.dumps([path, answer or f"killed: status {{status}}"]), flush=True)
"""


def outcomes_of(imports, files, folder, memory=MEMORY, seconds=SECONDS):
    """What reading each file in a child of its own came to.

    Args:
        imports: Python lines that import or define ``read(path)``.
        files: dict name -> (file name, bytes; or None where the file is there already).
        folder: where they are written.
        memory, seconds: bytes and CPU time that a child may use for reading.

    Returns:
        dict name -> ``read``, ``refused: message``, ``raised: exception`` or ``killed: status``.
    """
    names = {}
    for name, (file_name, data) in files.items():
        path = folder / file_name
        if data is not None:
            path.write_bytes(data)
        names[str(path)] = name
    done = subprocess.run([sys.executable, "-c", CHILD.format(imports=imports), str(memory), str(seconds), *names],
                          cwd=ROOT, text=True, timeout=600, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    answers = dict(json.loads(line) for line in done.stdout.splitlines())
    return {name: answers[path] for path, name in names.items()}
