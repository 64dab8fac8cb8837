"""Protocols of voc."""

SPECS = ()
