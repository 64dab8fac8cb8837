"""The trust campaign: real commands killed at any moment, and damaged or hostile files of every kind that is read.

    sh scripts/campaign.sh [--minutes N] [--seed S] [--only kills|mutations] [NAME ...]

One more kind of file is an entry of ``formats.py``; one more command to kill is an entry of ``scenarios.py``. What was
measured, and what the columns of the table mean, is in docs/trust.md.
"""
