"""Stand-in for several machines: one launcher of Paddle per node, all on this machine's loopback.

    python test_tipc/run_nodes.py --nodes 2 --log-dir DIR -- main_multi_gpu.py --method hashnet ...

The launchers' own words go to DIR/node<N>.log, those of rank 0 to the screen. If one ends badly the others are ended
too (by themselves they would wait for it), and so they are after --timeout seconds.
"""
import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time


def free_port():
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(node, options, port):
    """The launcher of a node, in a process group of its own."""
    # every launcher wants its own folder of logs; --backend is no flag of the launcher: it would take it for the script
    folder = os.path.join(options.log_dir, f"node{node}")
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nnodes", str(options.nodes), "--nproc_per_node",
               "1", "--master", f"127.0.0.1:{port}", "--rank", str(node), "--host", "127.0.0.1", "--log_dir", folder,
               *options.command]
    # proxies are for other machines
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    with open(f"{folder}.log", "wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env,
                                start_new_session=True)


def stop(processes):
    """End process groups, by force those that do not listen."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + 10
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass


def wait(processes, seconds):
    """None when all have ended well, else what went wrong."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        for node, process in enumerate(processes):
            if process.poll():
                return f"node {node} ended with status {process.poll()}"
        if time.monotonic() > deadline:
            return f"the nodes did not end within {seconds:g} seconds"
        time.sleep(0.2)
    status = [process.poll() for process in processes]
    return None if not any(status) else f"the nodes ended with status {status}"


def worker_text(folder):
    """What the ranks of a node said."""
    try:
        with open(os.path.join(folder, "workerlog.0"), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def main():
    """Run the command on all nodes and print what rank 0 said; exit status 1 where a node ended badly."""
    parser = argparse.ArgumentParser(description="several nodes on one machine")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--log-dir", required=True)
    parser.add_argument("--timeout", type=float, default=float(os.environ.get("TIPC_TIMEOUT", 1800)))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    options.command = [word for i, word in enumerate(options.command) if i or word != "--"]
    if options.nodes < 1 or not options.command:
        parser.error("--nodes of at least 1 and a command are needed")
    shutil.rmtree(options.log_dir, ignore_errors=True)
    os.makedirs(options.log_dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    processes = []
    try:
        port = free_port()
        for node in range(options.nodes):
            processes.append(start(node, options, port))
        fault = wait(processes, options.timeout)
    finally:
        stop(processes)
        for node in range(options.nodes):  # the launcher keeps a copy of the whole environment there
            for name in (f"backup_env.{node}.json", "envlog.0"):
                if os.path.exists(os.path.join(options.log_dir, f"node{node}", name)):
                    os.remove(os.path.join(options.log_dir, f"node{node}", name))
    print(worker_text(os.path.join(options.log_dir, "node0")), end="")
    if fault:
        for node in range(options.nodes):
            said = worker_text(os.path.join(options.log_dir, f"node{node}")).splitlines()
            print("\n".join(f"node {node}: {line}" for line in said[-5:]))
        sys.exit(f"error: {fault}; see {options.log_dir}")


if __name__ == "__main__":
    main()
