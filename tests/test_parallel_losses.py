"""Two gloo processes with half the batch each train exactly as one process with the whole batch: every method.

Run as a script, ``python -m tests.test_parallel_losses FOLDER``, this file is the two-process job.
"""
import pathlib
import sys

import numpy as np
import paddle
import paddle.distributed as dist
import pytest

from models import METHODS
from models.method import DataFacts
from tests.tiny import CASES, IDS, TinyBackbone, random_batch, spread_codes, tensors
from utils.training.distributed import gather, rank

BITS, TRAIN, CLASSES, TEXT, BATCH, STEPS = 16, 20, 5, 7, 8, 3


def build(name, hyper):
    paddle.seed(7)
    method = METHODS[name](TinyBackbone(), BITS, DataFacts(TRAIN, CLASSES, TEXT), **{**METHODS[name].small, **hyper})
    spread_codes(method)
    method.start_epoch(1, 10)
    return method


def global_batch(name, step):
    batch = random_batch(METHODS[name], BATCH, TRAIN, CLASSES, TEXT, seed=step)
    batch["index"][-1] = batch["index"][0]  # one image twice, on different ranks: the later row stays in a bank
    return batch


def train(name, hyper, rows, wrap=lambda method: method):
    """STEPS steps on the given rows of each global batch: dict of losses, first gradients and final state."""
    method = build(name, hyper)
    network = wrap(method)
    optimizer = paddle.optimizer.Momentum(0.1, 0.9, parameters=method.parameters())
    result, losses = {}, []
    for step in range(STEPS):
        method.start_step(step, STEPS)
        terms = network(tensors(global_batch(name, step), rows))
        terms["total"].backward()
        losses.append([float(gather(terms[key].detach().reshape([1])).mean()) for key in sorted(terms)])
        if step == 0:
            result.update({f"gradient/{key}": p.grad.numpy() for key, p in method.named_parameters()
                           if p.grad is not None})
        optimizer.step()
        optimizer.clear_grad()
    result["losses"] = np.array(losses)
    result.update({f"state/{key}": value.numpy() for key, value in method.state_dict().items()})
    return result


def work(folder):
    dist.init_parallel_env()
    half = BATCH // 2
    for case, (name, hyper) in zip(IDS, CASES):
        result = train(name, hyper, slice(rank() * half, (rank() + 1) * half), paddle.DataParallel)
        np.savez(pathlib.Path(folder) / f"{case}.{rank()}.npz", **result)
    dist.barrier()


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run("-m", "tests.test_parallel_losses", folder, env={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    return folder


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_two_ranks_equal_one_with_the_global_batch(folder, case):
    one = train(*CASES[case], slice(None))
    ranks = [np.load(folder / f"{IDS[case]}.{r}.npz") for r in range(2)]
    for two in ranks:
        assert set(two.files) == set(one)
        for key, value in one.items():
            scale = max(np.abs(value).max(), 1e-3)
            tolerance = 1e-5 if key.startswith("gradient/") else 2e-4  # rounding grows over the steps
            np.testing.assert_allclose(two[key] / scale, value / scale, rtol=0, atol=tolerance, err_msg=key)
    assert any(key.startswith("gradient/") and np.abs(value).max() > 1e-6 for key, value in one.items())
    for key in one:  # both ranks hold the same weights and bank, to the bit
        if key.startswith("state/"):
            np.testing.assert_array_equal(ranks[0][key], ranks[1][key], err_msg=key)


@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
def test_halves_on_their_own(case):
    """Pairs: another loss, so the test above can fail. Rows: the mean is the same, where as many count in each."""
    name, hyper = CASES[case]
    batch, half = global_batch(name, 0), BATCH // 2
    batch["label"][batch["label"].sum(axis=1) == 0, 0] = 1
    whole = float(build(name, hyper).loss(tensors(batch))["total"])
    parts = [float(build(name, hyper).loss(tensors(batch, rows))["total"]) for rows in (slice(half), slice(half, None))]
    difference = abs(np.mean(parts) - whole) / abs(whole)
    assert {"pairs": difference > 1e-3, "rows": difference < 1e-5}[build(name, hyper).coupling]


if __name__ == "__main__":
    dist.spawn(work, args=(sys.argv[1],), nprocs=2, backend="gloo")
