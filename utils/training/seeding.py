"""Random numbers are a function of (seed, epoch, ...), so a resumed run needs no generator state."""
import random

import numpy as np


def derive(*numbers):
    """A 31-bit seed that depends on all the given non-negative integers."""
    return int(np.random.SeedSequence([int(n) for n in numbers]).generate_state(1)[0] >> 1)


def seed_everything(*numbers):
    """Seed Python, numpy and Paddle from the given non-negative integers."""
    import paddle
    value = derive(*numbers)
    random.seed(value)
    np.random.seed(value)
    paddle.seed(value)
