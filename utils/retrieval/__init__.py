"""Codes, and everything that is done with them: packing, distances, search, metrics, files.

What may enter: what needs numpy and numba only. No network, no Paddle: deployment imports this room.
"""
