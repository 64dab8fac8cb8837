"""Data, codes, metrics, training loop: everything that needs no network and no method."""
import warnings
import zlib  # noqa: F401  before Paddle: Paddle 2.6 brings another zlib, and reading a compressed .npz then crashes

import utils.cpu  # noqa: F401  before Paddle too

# the first concerns compiling custom operators only, the second every network with batch norm
warnings.filterwarnings("ignore", message="No ccache found")
warnings.filterwarnings("ignore", message="When training, we now always track global")

__version__ = "0.3.0"
