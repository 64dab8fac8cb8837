"""Coverage-guided fuzzing of one reader with atheris (``pip install atheris``), which nothing else needs.

    python -m tests.campaign.fuzz NAME [SECONDS] [CORPUS]      NAME: of formats.py, with one file to change

Sound files are the first inputs. It stops at the first input that is neither read nor refused, and keeps it.
"""
import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["utils", "models.backbones", "deploy"]):
    from tests.campaign.formats import FORMATS
    from utils.errors import InputError


def main(name, seconds=60, corpus=None):
    """Fuzz the format ``name``."""
    form = next(one for one in FORMATS if one.name == name)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    sound, place = folder / "sound", folder / "place"
    for one in (sound, place):
        one.mkdir()
    form.make(sound, None)
    target, = form.files(sound)
    for path in sound.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    corpus = pathlib.Path(corpus or folder / "corpus")
    corpus.mkdir(exist_ok=True)
    (corpus / "sound").write_bytes((sound / target).read_bytes())
    with atheris.instrument_imports(include=["utils", "models.backbones"]):
        form.read(str(place))   # what it imports only when it reads

    def one_input(data):
        (place / target).write_bytes(data)
        try:
            form.read(str(place))
        except InputError as error:
            assert str(error).count("\n") == 0
    limits = [f"-max_total_time={seconds}", "-rss_limit_mb=2500", "-timeout=60", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
