"""PaddleClas networks by name, cut before their classifier, and the weight files they start from.

What may enter: what builds a network or fills it. Nothing here knows a hashing method. build.py and pretrained.py
are the way in; weight_files.py and renames.py know the files of others.
"""
