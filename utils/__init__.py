"""Data, codes, metrics, training loop: everything that needs no network and no method."""
import warnings

# Paddle says this at every import; it concerns compiling custom operators only
warnings.filterwarnings("ignore", message="No ccache found")
