"""Search engines over code files, all with ``search(query, k) -> (distance, position)``."""
from deploy.index.exact import ExactIndex

__all__ = ["ExactIndex"]
