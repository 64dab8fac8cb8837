"""Run TIPC configs, several at a time, and tell how each step ended. Called by scripts/tipc.sh; needs Python only.

The summary goes to test_tipc/output/summary.txt (table), summary.xml (JUnit) and summary.json (for --rerun-failed).
A step that cannot run here is skipped with its reason; a chain whose own step is skipped is skipped, not passed.
"""
import argparse
import concurrent.futures
import fnmatch
import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LITE = "lite_train_lite_infer"
TRAIN_MODES = (LITE, "lite_train_whole_infer", "whole_train_whole_infer")

# chain: (config file, script, modes; the first is the default)
CHAINS = {
    "base": ("train_infer_python", "test_train_inference_python.sh", (*TRAIN_MODES, "whole_infer")),
    "fleet": ("train_linux_gpu_fleet_normal_infer_python", "test_train_inference_python.sh", TRAIN_MODES),
    "amp": ("train_amp_infer_python", "test_train_inference_python.sh", TRAIN_MODES),
    "paddle2onnx": ("paddle2onnx_infer_python", "test_paddle2onnx.sh", (*TRAIN_MODES, "whole_infer")),
    "ptq": ("ptq_infer_python", "test_ptq_inference_python.sh", (*TRAIN_MODES, "whole_infer")),
    "benchmark": ("train_infer_python", "benchmark_train.sh", ("benchmark_train",)),
}
MODES = list(dict.fromkeys(mode for _, _, modes in CHAINS.values() for mode in modes))
COLUMNS = ("paddle", "config", "chain", "mode", "step", "status", "seconds", "mAP", "verdict")
JOB_MEMORY = 2 << 30  # bytes that a job may need; the fleet chain has two ranks


class Mistake(Exception):
    """A user's mistake: one line."""


class Parser(argparse.ArgumentParser):
    """Wrong flags are a Mistake: one line rather than the usage."""

    def error(self, message):
        """Raise Mistake, where argparse would print the usage and exit."""
        raise Mistake(f"{message}; sh scripts/tipc.sh --help lists the options")


def parse(argv):
    """The flags, read and checked.

    Raises:
        Mistake: what is wrong with them.
    """
    parser = Parser(prog="sh scripts/tipc.sh", allow_abbrev=False, description="Run TIPC configs and print a table.")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN",
                        help="configs by name, such as hashnet_16 or 'hashnet_*' (default: all)")
    parser.add_argument("--chain", default="base", metavar="NAMES",
                        help=f"comma-separated, or all: {', '.join(CHAINS)}")
    parser.add_argument("--mode", choices=MODES, metavar="MODE",
                        help=f"{', '.join(MODES)} (default: {LITE}; the benchmark chain has its own)")
    parser.add_argument("--jobs", type=int, metavar="N", help="configs at a time (default: by cores and free memory)")
    parser.add_argument("--venv", action="append", metavar="DIR",
                        help="virtual environment; several give one table (default: $VENV, .venv or $PYTHON)")
    parser.add_argument("--rerun-failed", action="store_true",
                        help="run again what failed in the last summary, and complete that summary")
    options = parser.parse_args(argv)
    options.chains = list(CHAINS) if options.chain == "all" else options.chain.split(",")
    for name in options.chains:
        if name not in CHAINS:
            raise Mistake(f"no chain is called {name}; there are {', '.join(CHAINS)}")
    for pattern in options.patterns:
        if re.search(r"[^A-Za-z0-9_?*-]", pattern):
            raise Mistake(f"{pattern} is no pattern of config names, such as 'hashnet_*'")
    if options.jobs is not None and options.jobs < 1:
        raise Mistake(f"--jobs {options.jobs}: expected 1 or more")
    if options.rerun_failed and (options.patterns or options.venv or options.mode or options.chain != "base"):
        raise Mistake("--rerun-failed takes configs, chains, modes and environments from the last summary; "
                      "only --jobs goes with it")
    return options


def environment(venv):
    """Variables that make the shell scripts use ``venv`` (None: as the caller's environment says), and its Paddle."""
    variables = dict(os.environ)
    python = os.path.join(venv or os.environ.get("VENV") or ".venv", "bin", "python")
    if os.access(python, os.X_OK):
        variables["VENV"] = os.path.dirname(os.path.dirname(python))
    elif venv:
        raise Mistake(f"--venv {venv}: there is no {python}; sh scripts/setup.sh makes a virtual environment")
    else:
        python = os.environ.get("PYTHON") or sys.executable
        variables["PYTHON"] = python
    code = "import importlib.metadata as m\n" \
           "for n in ('paddlepaddle', 'paddlepaddle-gpu'):\n" \
           "    try: print('paddle', m.version(n))\n" \
           "    except m.PackageNotFoundError: pass"
    done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = re.search(r"^paddle (\S+)", done.stdout, re.MULTILINE)
    if not found:
        raise Mistake(f"{python} has no Paddle; run sh scripts/setup.sh first or set VENV or PYTHON")
    return variables, found.group(1)


def plan(options):
    """The tasks of a command line, in the order of the table: plain dicts."""
    tasks = []
    matched = set()
    for venv in options.venv or [None]:
        for chain in options.chains:
            stem, _, modes = CHAINS[chain]
            mode = options.mode or modes[0]
            if mode not in modes:
                continue
            names = sorted(os.path.basename(os.path.dirname(path))
                           for path in glob.glob(f"test_tipc/configs/*/{stem}.txt"))
            for name in names:
                hits = [pattern for pattern in options.patterns if fnmatch.fnmatchcase(name, pattern)]
                matched.update(hits)
                if hits or not options.patterns:
                    tasks.append({"venv": venv, "config": name, "chain": chain, "mode": mode})
    for pattern in options.patterns:
        if pattern not in matched:
            names = sorted(os.path.basename(folder) for folder in glob.glob("test_tipc/configs/*_[0-9]*"))
            raise Mistake(f"no config of these chains and this mode is called {pattern}; there are {' '.join(names)}")
    if not tasks:
        raise Mistake(f"none of the chains {', '.join(options.chains)} has the mode {options.mode}")
    return tasks


def default_jobs():
    """As many as there are cores, and as fit into the free memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = int(re.search(r"MemAvailable:\s+(\d+) kB", file.read()).group(1)) << 10
    except (OSError, AttributeError):
        free = cores * JOB_MEMORY
    return max(1, min(cores, free // JOB_MEMORY))


class Runner:
    """Runs tasks; knows the processes it started, so that none outlives it.

    ``lock`` is held by them too: a chain whose runner was killed goes on, and nobody else writes there until it ends.
    """

    def __init__(self, root, many_jobs, lock=None):
        self.root, self.many_jobs = root, many_jobs
        self.handed_on = () if lock is None else (lock,)
        self.preparing = threading.Lock()  # the data belong to all configs
        self.lock = threading.Lock()
        self.children = set()
        self.stopped = False

    def bash(self, arguments, variables):
        """(exit status, what it said) of a bash script."""
        with self.lock:
            if self.stopped:
                return 143, "error: interrupted"
            child = subprocess.Popen(["bash", *arguments], env=variables, stdin=subprocess.DEVNULL, text=True,
                                     errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     start_new_session=True, pass_fds=self.handed_on)
            self.children.add(child)
        said = child.communicate()[0]
        with self.lock:
            self.children.discard(child)
        return child.returncode, said

    def stop(self):
        """End what still runs."""
        with self.lock:
            self.stopped = True
            for child in self.children:
                try:
                    os.killpg(child.pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass

    def run(self, task):
        """Run one task and put ``verdict``, ``seconds``, ``steps`` and, after a failure, ``said`` into it."""
        stem, script, _ = CHAINS[task["chain"]]
        variables = dict(task["variables"])
        if task["output"] != "test_tipc/output":
            variables["TIPC_OUTPUT"] = task["output"]
        if self.many_jobs:
            variables.setdefault("OMP_NUM_THREADS", "1")
        arguments = [f"test_tipc/configs/{task['config']}/{stem}.txt", task["mode"]]
        steps = os.path.join(folder_of(task), "steps.tsv")
        if os.path.exists(steps):
            os.remove(steps)
        begin = time.time()
        with self.preparing:
            status, said = self.bash(["test_tipc/prepare.sh", *arguments], variables)
        task["steps"] = []
        if status:
            task["steps"].append(["prepare", "failed", round(time.time() - begin), "-"])
        else:
            status, said = self.bash([f"test_tipc/{script}", *arguments], variables)
            task["steps"] = read_steps(steps)
        task["seconds"] = round(time.time() - begin)
        states = [step[1] for step in task["steps"]]
        task["verdict"] = verdict(status, states)
        task["said"] = said[-4000:] if task["verdict"] == "FAILED" else ""
        if task["verdict"] == "FAILED" and "failed" not in states:
            last = [line for line in said.splitlines() if line.strip()] or ["no output"]
            task["steps"].append(["script", f"failed: {' '.join(last[-1].split())}", task["seconds"], "-"])
        return task


def verdict(status, states):
    """passed, FAILED or skipped, from the exit status of a script and what its steps say. No step is no pass."""
    if status not in (0, 3) or any(state.startswith("failed") for state in states):
        return "FAILED"
    if status == 3:
        return "skipped"
    return "passed" if "passed" in states else "FAILED"


def folder_of(task):
    """Where the scripts leave the logs of a task (the same rule as in common_func.sh)."""
    inside = [] if task["chain"] in ("base", "benchmark") else [task["chain"]]
    return os.path.join(task["output"], task["config"], *inside, task["mode"])


def read_steps(path):
    """steps.tsv -> list of [step, status, seconds, mAP]."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [[row[0], row[1], int(row[2]), row[3] or "-"] for row in rows if len(row) == 4]


def table(tasks):
    """The summary as text: a row for each step and one for the whole, then why steps did not run or what ended them."""
    rows, why = [COLUMNS], {}
    for task in tasks:
        head = (task["paddle"], task["config"], task["chain"], task["mode"])
        for step, status, seconds, score in task["steps"]:
            state, _, reason = status.partition(": ")
            rows.append((*head, step, state, str(seconds), score, ""))
            if reason:
                why.setdefault(status, []).append(f"{task['config']}/{task['chain']} {step}")
        rows.append((*head, "all", "", str(task["seconds"]), last_map(task), task["verdict"]))
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    right = {COLUMNS.index("seconds"), COLUMNS.index("mAP")}
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if i in right else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    lines += [f"{status} ({steps[0]}" + (f" and {len(steps) - 1} more)" if len(steps) > 1 else ")")
              for status, steps in why.items()]
    return "\n".join(lines) + "\n"


def last_map(task):
    """The mAP of the last step that found one, or a dash."""
    return next((step[3] for step in reversed(task["steps"]) if step[3] != "-"), "-")


def junit(tasks):
    """The summary as JUnit XML (bytes): a suite per Paddle version, chain and mode, a case per step."""
    top = ElementTree.Element("testsuites", name="tipc")
    suites = {}
    for task in tasks:
        name = f"paddle {task['paddle']} {task['chain']} {task['mode']}"
        suite = suites.setdefault(name, ElementTree.SubElement(top, "testsuite", name=name)
                                  if name not in suites else None)
        for step, status, seconds, score in task["steps"]:
            case = ElementTree.SubElement(suite, "testcase", name=step, time=str(seconds),
                                          classname=f"paddle{task['paddle']}.{task['chain']}.{task['config']}")
            if status.startswith("failed"):
                ElementTree.SubElement(case, "failure", message=clean(status)).text = clean(task["said"])
            elif status != "passed":
                ElementTree.SubElement(case, "skipped", message=clean(status))
            elif score != "-":
                ElementTree.SubElement(case, "system-out").text = f"mAP {score}"
    for element in [top, *suites.values()]:
        cases = list(element.iter("testcase"))
        element.set("tests", str(len(cases)))
        element.set("errors", "0")
        element.set("failures", str(sum(case.find("failure") is not None for case in cases)))
        element.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
        element.set("time", str(sum(float(case.get("time")) for case in cases)))
    return ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)


def clean(text):
    """Without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def sole_writer(output):
    """Handle of a lock that no other runner has for this folder, nor what a killed one has started; None on Windows.

    Raises:
        Mistake: somebody writes there.
    """
    if os.name != "posix":
        return None
    import fcntl
    handle = os.open(os.path.join(output, ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Mistake(f"{output} is being written by another run, or by what a killed run has started; wait for it, or "
                      "choose another folder with TIPC_OUTPUT") from None
    return handle


def write(path, content):
    """Write bytes as a whole or not at all."""
    with open(path + ".part", "wb") as file:
        file.write(content)
    os.replace(path + ".part", path)


def load_summary(path):
    """The tasks of the last summary."""
    try:
        with open(path, encoding="utf-8") as file:
            tasks = json.load(file)["tasks"]
        if not all(map(_is_task, tasks)):
            raise ValueError
        return tasks
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise Mistake(f"--rerun-failed: there is no {path}, or it is damaged; run sh scripts/tipc.sh first") from None


def _is_task(task):
    """Whether a value from a summary is a task as ``Runner.run`` has left it."""
    return (task["chain"] in CHAINS and isinstance(task["venv"], (str, type(None))) and isinstance(task["seconds"], int)
            and all(isinstance(task[key], str) for key in ("config", "mode", "verdict", "said", "paddle"))
            and all([type(cell) for cell in step] == [str, str, int, str] for step in task["steps"]))


def line_of(task):
    """What is printed when a task has ended."""
    skipped = [step[1] for step in task["steps"] if step[1].startswith("skipped: ")]
    why = f": {skipped[-1][len('skipped: '):]}" if task["verdict"] == "skipped" and skipped else ""
    return f"{task['verdict']}{why}, {task['seconds']} s, mAP {last_map(task)}"


def main(argv):
    """Run what the flags name, print the table, write the summary; returns 1 where something failed, else 0."""
    os.chdir(ROOT)
    options = parse(argv)
    output = os.environ.get("TIPC_OUTPUT", "test_tipc/output")
    summary = os.path.join(output, "summary")
    if options.rerun_failed:
        tasks = load_summary(summary + ".json")
    else:
        tasks = plan(options)
    found = {venv: environment(venv) for venv in dict.fromkeys(task["venv"] for task in tasks)}
    for task in tasks:
        task["variables"], task["paddle"] = found[task["venv"]]
        task["output"] = output if len(found) == 1 else os.path.join(output, f"paddle{task['paddle']}")
    todo = [task for task in tasks if not options.rerun_failed or task["verdict"] == "FAILED"]
    jobs = min(options.jobs or default_jobs(), max(1, len(todo)))
    os.makedirs(output, exist_ok=True)
    print(f"{len(todo)} to run, {jobs} at a time", flush=True)
    runner = Runner(ROOT, jobs > 1, sole_writer(output))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(runner.run, task) for task in todo]
            try:
                for count, future in enumerate(concurrent.futures.as_completed(running), 1):
                    task = future.result()
                    if task["said"]:
                        print(task["said"].rstrip())
                    print(f"[{count}/{len(todo)}] paddle {task['paddle']} {task['config']} {task['chain']} "
                          f"{task['mode']}: {line_of(task)}", flush=True)
            except BaseException:  # interrupted: neither the waiting nor the running ones go on
                for future in running:
                    future.cancel()
                runner.stop()
                raise
    finally:
        for task in tasks:
            task.pop("variables", None)
    text = table(tasks)
    write(summary + ".txt", text.encode())
    write(summary + ".xml", junit(tasks))
    write(summary + ".json", json.dumps({"tasks": tasks}, indent=1).encode())
    print(f"\n{text}")
    counts = {name: [task for task in tasks if task["verdict"] == name] for name in ("passed", "skipped", "FAILED")}
    words = [f"{len(counts['passed'])} passed"]
    alone = sum(any(step[0].startswith("compare") and step[1].startswith("skipped") for step in task["steps"])
                for task in counts["passed"])
    if alone:
        words[0] += f" ({alone} of them without stored results)"
    if counts["skipped"]:
        words.append(f"{len(counts['skipped'])} skipped")
    if counts["FAILED"]:
        names = " ".join(f"{task['config']}/{task['chain']}" for task in counts["FAILED"])
        words.append(f"failed: {names} (logs in {output}/<config>/; again: sh scripts/tipc.sh --rerun-failed)")
    print(", ".join(words))
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
