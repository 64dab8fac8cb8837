"""Read the speed of training from a log into one line of JSON, with the keys that Paddle's benchmark site reads.

    python test_tipc/analysis.py --filename LOG --speed_log_file OUT --model_name hashnet_16_bs16_fp32_SingleP_DP
        --base_batch_size 16 [--fp_item fp32] [--device_num N1C1] [--skip_steps 2]

What the log says of a step counts if it has ``loss:``, ``avg_reader_cost:``, ``avg_batch_cost:`` and ``avg_ips:``; the
first --skip_steps of them warm up. Needs nothing but Python; ends with status 1 where the log has no such line.
"""
import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys

# a step, in one line or several
STEP = re.compile(r"loss: (\S+?),[^\[]*?avg_reader_cost: ([\d.]+) sec,\s+avg_batch_cost: ([\d.]+) sec,\s+"
                  r"(?:avg_samples: [\d.]+,\s+)?avg_ips: ([\d.]+) images/sec")


def git(*arguments):
    """What git says about this checkout, or an empty string."""
    try:
        done = subprocess.run(["git", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              cwd=os.path.dirname(os.path.abspath(__file__)))
    except OSError:
        return ""
    return done.stdout.strip()


def paddle_version():
    """The installed version of Paddle, or an empty string."""
    for name in ("paddlepaddle-gpu", "paddlepaddle"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return ""


def speed(text, skip, batch, devices):
    """Means over the lines after the first ``skip``: dict ips, avg_batch_cost, avg_reader_cost, loss, steps; or None.

    Args:
        batch: images of one process and step; devices: processes.
    """
    rows = [tuple(map(float, row)) for row in STEP.findall(text)]
    rows = rows[min(skip, len(rows) - 1):]
    if not rows:
        return None
    cost = sum(row[2] for row in rows) / len(rows)
    return {"ips": round(batch * devices / cost, 3), "avg_batch_cost": round(cost, 5),
            "avg_reader_cost": round(sum(row[1] for row in rows) / len(rows), 5), "loss": rows[-1][0],
            "steps": len(rows)}


def main():
    """Write the speed in the log --filename to --speed_log_file; exit status 1 where the log has no step."""
    parser = argparse.ArgumentParser(description="speed of training")
    for flag in ("--filename", "--speed_log_file", "--model_name"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--base_batch_size", type=int, required=True)
    parser.add_argument("--fp_item", default="fp32")
    parser.add_argument("--run_process_type", default="SingleP")
    parser.add_argument("--run_mode", default="DP")
    parser.add_argument("--device_num", default="N1C1")
    parser.add_argument("--skip_steps", type=int, default=2)
    parser.add_argument("--speed_unit", default="images/s")
    options = parser.parse_args()
    with open(options.filename, encoding="utf-8", errors="replace") as file:
        found = speed(file.read(), options.skip_steps, options.base_batch_size, int(options.device_num.split("C")[1]))
    if found is None:
        sys.exit(f"error: {options.filename} has no line with loss, avg_reader_cost, avg_batch_cost and avg_ips")
    line = {"model_branch": git("symbolic-ref", "--short", "HEAD"), "model_commit": git("rev-parse", "HEAD"),
            "model_name": options.model_name, "batch_size": options.base_batch_size, "fp_item": options.fp_item,
            "run_process_type": options.run_process_type, "run_mode": options.run_mode,
            "convergence_value": found["loss"], "convergence_key": "loss:", "ips": found["ips"],
            "speed_unit": options.speed_unit, "avg_batch_cost": found["avg_batch_cost"],
            "avg_reader_cost": found["avg_reader_cost"], "steps": found["steps"], "device_num": options.device_num,
            "frame_version": paddle_version()}
    with open(options.speed_log_file, "w", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{options.model_name}_{options.device_num}: ips: {found['ips']} {options.speed_unit}, avg_batch_cost: "
          f"{found['avg_batch_cost']} sec, avg_reader_cost: {found['avg_reader_cost']} sec, {found['steps']} steps")


if __name__ == "__main__":
    main()
