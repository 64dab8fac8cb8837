"""SKELETON: Title of the Paper (Authors, Venue Year). Authors' code: where it is.

Say here what is computed, in formulas, and where the paper and its code differ. What stands here works, and is no
paper's: the cosine of two codes shall be 1 where the images share a label and 0 elsewhere.

    u = tanh(h),   c_ij = <u_i, u_j> / (|u_i| |u_j|),   s_ij = 1 where images i and j share a label, else 0
    L = mean_ij (c_ij - s_ij)^2 + lamda mean_ik (|u_ik| - 1)^2
"""
import paddle

from models.losses import l2_normalize, share_a_label, torch_linear
from models.method import HashMethod
from utils.settings import Setting
from utils.training.distributed import gather


class Skeleton(HashMethod):
    """What the method says about itself; models/method.py has all that it can say."""

    name = None
    paper = "Authors, Title, Venue Year"
    kind = "supervised"
    bit_lengths = (16, 32, 48, 64)
    coupling = "pairs"
    settings = {
        "lamda": Setting(0.1, "weight of the quantisation term", low=0),
    }

    def build(self):
        """The layers above the backbone; ``self.lamda`` and the other settings are set already."""
        self.hash = torch_linear(self.feature_dim, self.bits)

    def code(self, features):
        """Features float32 [N, D] -> relaxed code float32 [N, bits]; its sign is the binary code."""
        return paddle.tanh(self.hash(features))

    def loss(self, batch):
        """Terms ``pair``, ``quantization`` and ``total`` = pair + lamda quantization."""
        u, y = self.code(self.view(batch)), batch["label"]
        all_u, all_y = gather(u), gather(y)  # the rows of all ranks: two ranks train as one with the whole batch
        cosine = paddle.matmul(l2_normalize(u), l2_normalize(all_u), transpose_y=True)
        pair = ((cosine - share_a_label(y, all_y)) ** 2).mean()
        quantization = ((paddle.abs(u) - 1) ** 2).mean()
        return {"total": pair + self.lamda * quantization, "pair": pair, "quantization": quantization}
