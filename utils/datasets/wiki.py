"""Protocols of wiki."""

SPECS = ()
