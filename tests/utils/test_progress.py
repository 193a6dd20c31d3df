"""Lines of progress where there is no terminal."""

from haba_hf.utils.progress import Progress


def test_several_units_count_as_many(capsys):
    with Progress("decoding", 10, "image", every=4) as progress:
        progress.update(4)
        progress.update(3, loss=0.5)
        progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in lines] == ["decoding: image 4 of 10", "decoding: image 8 of 10"]


def test_what_is_not_shown_says_nothing(capsys):
    with Progress("decoding", 10, "image", shown=False, every=1) as progress:
        progress.update(2)
    assert progress.done == 2 and not capsys.readouterr().err
