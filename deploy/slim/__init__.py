"""Smaller and faster models: post-training quantisation to 8 bits."""
