"""Protocols of nuswide."""

SPECS = ()
