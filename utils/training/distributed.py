"""Ranks, and gathering over them. In one process every function here is the identity.

The rule that makes N ranks equal to one rank with the global batch: the loss of the job is the *mean*
over ranks of the rank losses (``paddle.DataParallel`` averages gradients), and a gathered tensor carries
the gradient of every rank's loss back to the rank that owns the row.
"""
import paddle
import paddle.distributed as dist
from paddle.autograd import PyLayer


def rank():
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    """Number of processes of the job, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main():
    """True on the rank that writes files and prints."""
    return rank() == 0


class _GatherRows(PyLayer):
    """All ranks' rows, in rank order, with gradient (the built-in all_gather carries none)."""

    @staticmethod
    def forward(ctx, x):
        rows = []
        dist.all_gather(rows, x)
        return paddle.concat(rows, axis=0)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        dist.all_reduce(grad)
        n = grad.shape[0] // dist.get_world_size()
        return grad[dist.get_rank() * n:(dist.get_rank() + 1) * n]


def gather(x):
    """Rows of all ranks: [n, ...] -> [world * n, ...], rank 0's rows first; gradient flows back.

    Every rank must bring the same number of rows (the sampler sees to it).
    """
    if world_size() == 1:
        return x
    if x.stop_gradient:
        rows = []
        dist.all_gather(rows, x)
        return paddle.concat(rows, axis=0)
    return _GatherRows.apply(x)


def own_rows(n):
    """The slice of a gathered tensor of ``world * n`` rows that this rank brought."""
    return slice(rank() * n, (rank() + 1) * n)


def gather_objects(value):
    """A list with every rank's ``value`` (numpy arrays and plain values), in rank order."""
    if world_size() == 1:
        return [value]
    values = []
    dist.all_gather_object(values, value)
    return values


def barrier():
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def broadcast(tensors):
    """Give every rank the values of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
