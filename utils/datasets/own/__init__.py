"""A user's own pictures: folders, manifests, image lists, tar shards.

What may enter: readers of such forms, and the rule that draws splits from them.
"""
