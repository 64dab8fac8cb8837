"""The tests.

Methods from outside join those that go over the registry: METHOD_FILES=path/to/six.py python -m pytest.
"""
import os

for _path in filter(None, os.environ.get("METHOD_FILES", "").split(os.pathsep)):
    from models import find_method  # only then: it brings Paddle
    find_method(_path)
