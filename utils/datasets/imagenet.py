"""Protocols of imagenet."""

SPECS = ()
