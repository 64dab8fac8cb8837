"""The loop and what it needs: loading, features, optimizers, ranks, checkpoints, logs, results.

What may enter: what every method trains with. Nothing here knows a method by name.
"""
