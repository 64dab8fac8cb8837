"""The second half of the campaign: thousands of changed files, each read in a child with limits."""
import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import tempfile
import time

from tests.campaign import children, mutate
from tests.campaign.formats import FORMATS

SEEDS = pathlib.Path(__file__).parent / "seeds"
FORGED = .35   # share of the inputs of a format with a forge that come from it
TEXT = (".yml", ".yaml", ".json", ".jsonl", ".csv", ".txt", ".lock")


@dataclasses.dataclass
class Row:
    """What came of the inputs of one format."""

    name: str
    open: str
    kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    forged: int = 0
    slowest: float = 0.0
    faults: list = dataclasses.field(default_factory=list)   # (label of the input, Outcome)

    @property
    def inputs(self):
        return sum(self.kinds.values())


class Bench:
    """Sound files of one format, and what reading a changed copy of them comes to.

    Args:
        form: Format. material: folder of material.make, or None where the format needs none. scratch: folder.
        keep: folder for inputs that come out wrong, or None.
    """

    def __init__(self, form, material, scratch, keep=None):
        self.form, self.keep = form, keep
        self.row = Row(form.name, form.open)
        self.sound, self.place = scratch / form.name / "sound", scratch / form.name / "changed"
        self.canary = str(scratch / form.name / "canary")
        self.sound.mkdir(parents=True)
        made = children.attempt(lambda folder: form.make(folder, material), self.sound)
        if made.kind != "same":
            raise RuntimeError(f"{form.name}: the sound files could not be made: {made}")
        sound = children.attempt(form.read, self.sound)
        if sound.kind != "same":
            raise RuntimeError(f"{form.name}: the sound files are not read: {sound}")
        self.content, self.names = sound.words, form.files(self.sound)

    def count(self, label, change, forged=False):
        """Read a copy of the sound files after ``change(folder)``; what comes out wrong is kept in ``keep``."""
        shutil.copytree(self.sound, self.place, copy_function=shutil.copy2)
        try:
            change(self.place)
            began = time.monotonic()
            outcome = children.judged(self.form.read, self.place, None if forged or self.form.open else self.content,
                                      self.canary)
            self.row.slowest = max(self.row.slowest, time.monotonic() - began)
            self.row.kinds[outcome.kind] += 1
            self.row.forged += forged
            if outcome.kind in children.WRONG:
                self.row.faults.append((label, outcome))
                if self.keep is not None:
                    self._keep(label)
        finally:
            shutil.rmtree(self.place)

    def _keep(self, label):
        """Keep the files that differ from the sound ones, as a seed would."""
        target = self.keep / self.form.name / label.replace(" ", "_").replace("/", "_")
        for place, _, names in os.walk(self.place):
            for name in names:
                path = pathlib.Path(place, name)
                within = path.relative_to(self.place)
                if not (self.sound / within).is_file() or (self.sound / within).read_bytes() != path.read_bytes():
                    (target / within).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target / within)

    def seeds(self):
        """Read every kept input of the format: files that lie over the sound ones."""
        folder = SEEDS / self.form.name
        for seed in sorted(folder.iterdir()) if folder.is_dir() else ():
            self.count(f"seed {seed.name}", lambda place, seed=seed: shutil.copytree(seed, place, dirs_exist_ok=True),
                       forged=seed.name.startswith("forged"))

    def random(self, seed, number):
        """Read input ``number`` of a campaign's ``seed``."""
        rng = random.Random(f"{seed} {self.form.name} {number}")
        if self.form.forge is not None and rng.random() < FORGED:
            self.count(f"forged {seed}-{number}", lambda place: self.form.forge(place, rng), forged=True)
            return
        name = rng.choice(self.names)

        def change(place):
            data = (self.sound / name).read_bytes()
            (place / name).write_bytes(mutate.damaged(data, rng, self.canary, name.endswith(TEXT)))
        self.count(f"{name} {seed}-{number}", change)


def run(seconds, seed=0, names=(), material=None, keep=None, most=None, say=lambda text: None):
    """Read changed files of all formats in turn, until the time is over or Ctrl-C.

    Args:
        seconds: to go on for; every format has its seeds and one round at least.
        seed: of the changes.
        names: of formats, or parts of them; none = all.
        material: folder of material.make.
        keep: folder for what comes out wrong.
        most: inputs of a format at most.
        say: callable of a line.

    Returns:
        list of Row.
    """
    chosen = [form for form in FORMATS if not names or any(name in form.name for name in names)]
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="campaign-", dir=shm) as scratch:
        benches = [Bench(form, material, pathlib.Path(scratch), keep) for form in chosen]
        for bench in benches:
            bench.seeds()
        stop, told = time.monotonic() + seconds, time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(10 ** 9 if most is None else most):
                for place, bench in enumerate(benches):
                    if (number + place) % bench.form.rounds == 0:
                        bench.random(seed, number)
                if time.monotonic() > stop:
                    break
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    say(f"mutations: {sum(bench.row.inputs for bench in benches)} inputs, "
                        f"{sum(len(bench.row.faults) for bench in benches)} faults")
    return [bench.row for bench in benches]


def table(rows):
    """The rows as lines of a Markdown table, their sum last."""
    head = ["file", "inputs", "forged", "executed", "traceback", "hang", "memory", "other content", "refused", "same",
            "slowest (s)"]
    lines = [f"| {' | '.join(head)} |", f"|{'--|' * len(head)}"]

    def line(name, inputs, forged, kinds, slowest, opened):
        cells = [str(kinds[kind]) for kind in children.KINDS]
        if opened:
            cells[4] = "n/a"
        return f"| {name} | {inputs} | {forged} | {' | '.join(cells)} | {slowest:.1f} |"
    lines += [line(row.name, row.inputs, row.forged, row.kinds, row.slowest, row.open) for row in rows]
    total = sum((row.kinds for row in rows), collections.Counter())
    lines.append(line("**all**", sum(total.values()), sum(row.forged for row in rows), total,
                      max((row.slowest for row in rows), default=0), False))
    return lines
