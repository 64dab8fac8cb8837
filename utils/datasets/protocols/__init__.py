"""The named data sets: one file a set, from its official files to lists, and from lists to splits.

What may enter: a set of the literature with counts and a source. A user's own data are in ``own`` and ``matrices``.
"""
