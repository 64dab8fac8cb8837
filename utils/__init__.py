"""Data, codes, metrics, training loop: everything that needs no network and no method."""
import warnings
import zlib  # noqa: F401  before Paddle: Paddle 2.6 brings another zlib, and reading a compressed .npz then crashes

import utils.cpu  # noqa: F401  before Paddle too

# Paddle says this at every import; it concerns compiling custom operators only
warnings.filterwarnings("ignore", message="No ccache found")
