"""The first half of the campaign: commands killed at random moments and at injected points."""
import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import tempfile
import time

from tests.campaign import children, processes
from tests.campaign.scenarios import SCENARIOS

LEAST = 20        # kills of every command, before they go where they are cheap
COLD = .05        # share of the kills of commands that begin as a shell begins them
IMPORTS = 2       # seconds that these take longer
AT_EVENTS = .75   # share of the kills at a change of a file; the others at a random moment
LOGS = ("train.log", "vdl", ".lock")   # not compared: times stand in them; a lock's file stays


@dataclasses.dataclass
class Row:
    """What came of the kills of one command."""

    name: str
    events: int
    kills: int = 0      # of a process that lived; those that came too late do not count
    late: int = 0
    seconds: float = 0.0
    wrong: int = 0
    lost: int = 0
    left: int = 0
    faults: list = dataclasses.field(default_factory=list)   # (label, what)


def names_below(folder):
    """Names of all files and empty folders below a folder."""
    found = set()
    for place, folders, names in os.walk(folder):
        inside = names or folders
        for name in names or ([] if inside else [""]):
            found.add(os.path.relpath(os.path.join(place, name), folder))
    return {name for name in found if not any(part in LOGS for part in name.split(os.sep))}


class Bench:
    """A command that is killed again and again.

    Args:
        scenario: Scenario. material: folder of material.make. scratch: folder.
        row: that counts its kills.
    """

    def __init__(self, scenario, material, scratch, row):
        self.scenario, self.material = scenario, material
        self.work, self.start = scratch / scenario.name / "work", scratch / scenario.name / "start"
        self.work.mkdir(parents=True)
        made = children.attempt(lambda work: scenario.before(work, material), self.work, limits=False)
        if made.kind != "same":
            raise RuntimeError(f"{scenario.name}: what stands before could not be made: {made}")
        shutil.copytree(self.work, self.start)
        self.before = self._content()
        done = self._run(scenario.words)
        if done.status:
            raise RuntimeError(f"{scenario.name}: status {done.status} undisturbed: {done.said[-2000:]}")
        self.after, self.names = self._content(), names_below(self.work)
        if self.after.kind != "same" or (self.after == self.before and self.names == names_below(self.start)):
            raise RuntimeError(f"{scenario.name}: an undisturbed run changes nothing that is read: {self.after}")
        self.seconds = done.seconds
        self.row = row
        row.events = done.events

    def _run(self, words, **orders):
        return processes.run(words(self.work, self.material), self.work, **orders)

    def _content(self):
        return children.attempt(self.scenario.read, self.work, limits=False)

    def kill(self, seed, number):
        """Kill number ``number`` of a campaign's ``seed``, and the run after it."""
        rng, began = random.Random(f"{seed} {self.scenario.name} {number}"), time.monotonic()
        shutil.rmtree(self.work)
        shutil.copytree(self.start, self.work, copy_function=shutil.copy2)
        cold = rng.random() < COLD
        if rng.random() < AT_EVENTS and self.row.events:
            delay = 0.0 if rng.random() < .5 else rng.uniform(0, .02)
            orders = {"event": rng.randint(1, self.row.events), "delay": delay}
        else:
            orders = {"after": rng.uniform(0, self.seconds + IMPORTS * cold)}
        done = self._run(self.scenario.words, cold=cold, **orders)
        if done.status >= 0:
            self.row.late += 1
            self.seconds = min(self.seconds, done.seconds)   # it takes less time than was thought
        else:
            self.row.kills += 1
        label = f"{self.scenario.name} {seed}-{number} {'cold ' if cold else ''}{orders}"
        self._judge_killed(label, done)
        self._judge_next(label)
        self.row.seconds += time.monotonic() - began

    def _judge_killed(self, label, done):
        found = self._content()
        whole = found.kind == "same" and (self.scenario.steps or found in (self.before, self.after))
        if not whole:
            self._fault("lost" if found.words.startswith("lost: ") else "wrong", label, f"after the kill: {found}")
        elif self.scenario.said and self.scenario.said in done.said and found != self.after:
            self._fault("lost", label, f"it said {self.scenario.said!r}, and the result is another")

    def _judge_next(self, label):
        done = self._run(self.scenario.again or self.scenario.words)
        if done.status:
            return self._fault("wrong", label, f"the next run ends with {done.status}: {done.said[-1500:]}")
        found = self._content()
        if found != self.after:
            return self._fault("wrong", label, f"the next run gives other content: {found}")
        wanted = self.scenario.names(self.work) if self.scenario.names else self.names
        left = names_below(self.work) - wanted
        if left:
            self._fault("left", label, f"left over: {sorted(left)[:5]}")

    def _fault(self, kind, label, what):
        setattr(self.row, kind, getattr(self.row, kind) + 1)
        self.row.faults.append((label, what))


def run(seconds, seed=0, names=(), material=None, most=None, say=lambda text: None):
    """Kill commands, until the time is over or Ctrl-C.

    Every command gets ``LEAST`` kills first; after that all have the same time, so that what is cheap is killed often.

    Args:
        seconds: to go on for. seed: of moments and points.
        names: of scenarios, or parts of them; none = all.
        material: folder of material.make. most: kills at most. say: callable of a line.

    Returns:
        list of Row.
    """
    chosen = [one for one in SCENARIOS if one.runs_here() and (not names or any(name in one.name for name in names))]
    rows, benches = {one.name: Row(one.name, 0) for one in chosen}, {}
    stop, told = time.monotonic() + seconds, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch, contextlib.suppress(KeyboardInterrupt):
        while chosen and time.monotonic() < stop and sum(row.kills for row in rows.values()) < (most or float("inf")):
            one = min(chosen, key=lambda one: (rows[one.name].kills >= LEAST, rows[one.name].seconds))
            row = rows[one.name]
            if one.name not in benches:
                began = time.monotonic()
                benches[one.name] = Bench(one, material, pathlib.Path(scratch), row)
                row.seconds += time.monotonic() - began
            known = len(row.faults)
            benches[one.name].kill(seed, row.kills + row.late)
            for label, what in row.faults[known:]:
                say(f"{label}: {what}")
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(f"kills: {sum(row.kills for row in rows.values())}, "
                    f"{sum(len(row.faults) for row in rows.values())} faults")
    return [row for row in rows.values() if row.kills]


def table(rows):
    """The rows as lines of a Markdown table, their sum last."""
    lines = ["| command | changes of files | kills | wrong | lost | left over |", f"|{'--|' * 6}"]
    lines += [f"| {row.name} | {row.events} | {row.kills} | {row.wrong} | {row.lost} | {row.left} |" for row in rows]
    sums = [sum(getattr(row, name) for row in rows) for name in ("kills", "wrong", "lost", "left")]
    lines.append(f"| **all** | | {' | '.join(map(str, sums))} |")
    return lines
