"""What stands in a backbone's place where the data are features."""
from paddle import nn


class Precomputed(nn.Layer):
    """Stands where a backbone would: its input already is features, float32 [N, dim] (or tokens [N, T, dim])."""

    classifier_keys = frozenset()
    num_tokens = 1

    def __init__(self, dim):
        super().__init__()
        self.name = f"precomputed:{dim}"
        self.out_dim = self.token_dim = dim

    def forward(self, x):
        """Features as they are."""
        return x

    def tokens(self, x):
        """[N, dim] -> [N, 1, dim]; [N, T, dim] as it is."""
        return x.unsqueeze(1) if x.ndim == 2 else x

    def tail_parameters(self):
        """None: there are no weights."""
        return []
