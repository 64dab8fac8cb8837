"""Search over HTTP: ``python -m deploy.service`` serves an index, its model and a page to look at.

What may enter: requests and answers, and what protects them. Search is deploy/index's, encoding that of deploy/engines.
"""
