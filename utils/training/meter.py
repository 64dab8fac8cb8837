"""Loss terms and times of the steps between two log lines. The device is asked for numbers only when a line is due."""
import math
import time

import paddle

from utils.errors import InputError


class Meter:
    """Collects the steps of one epoch."""

    def __init__(self):
        self.total, self.before = 0.0, time.time()  # sum of the total loss over the epoch, float64
        self._start_line()

    def _start_line(self):
        self.pending, self.images, self.reader_cost, self.began = [], 0, 0.0, self.before

    def loaded(self):
        """The step's batch is there."""
        self.reader_cost += time.time() - self.before

    def stepped(self, terms, images):
        """A step is done.

        Args:
            terms: dict name -> scalar tensor; stays on the device.
            images: how many this rank had.
        """
        self.pending.append({name: value.detach() for name, value in terms.items()})
        self.images += images
        self.before = time.time()

    def read(self):
        """Wait for the device.

        Returns:
            list of dicts name -> float, one for each step since the last call.
        """
        flat = [value.reshape([1]).astype("float64") for terms in self.pending for value in terms.values()]
        numbers = iter(paddle.concat(flat).tolist())
        rows = [{name: next(numbers) for name in terms} for terms in self.pending]
        for row in rows:
            self.total += row["total"]
        self.before = time.time()
        return rows

    def costs(self):
        """Of a step of this rank: seconds that it waited, seconds, images, images a second; starts anew."""
        seconds, steps = self.before - self.began, len(self.pending)
        costs = self.reader_cost / steps, seconds / steps, self.images / steps, self.images / max(seconds, 1e-9)
        self._start_line()
        return costs


def check_finite(rows, epoch, first_step, names):
    """Raise InputError for the first loss term that is no finite number.

    Args:
        rows: of ``Meter.read``.
        epoch, first_step: of the first row, from 0.
        names: callable step -> names of its images.
    """
    for step, row in enumerate(rows, first_step):
        for name, value in row.items():
            if not math.isfinite(value):
                images = names(step)
                raise InputError(f"loss term {name!r} is {value} at epoch {epoch + 1}, step {step + 1}; lower the "
                                 f"learning rate or look at the images of the batch: {', '.join(images[:8])}"
                                 + (f" and {len(images) - 8} more" if len(images) > 8 else ""))
