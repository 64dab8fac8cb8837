"""Protocols of mirflickr."""

SPECS = ()
