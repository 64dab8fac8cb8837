"""Sets that are published as matrices: ``.npz`` and MATLAB files of features, texts and labels.

What may enter: readers of such files, and the rules that draw splits from their rows.
"""
