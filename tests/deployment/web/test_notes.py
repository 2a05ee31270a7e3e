"""Notes that a log cannot flood."""

from deployment.web.notes import Notes


def test_each_thing_is_said_once_and_few_a_minute():
    said, clock = [], [0.0]
    notes = Notes(said.append, most=3, clock=lambda: clock[0])
    for text in ("a", "b", "a", "c", "d", "e", "d"):
        notes(text)
    assert said == ["a", "b", "c"]
    clock[0] = 60.0
    notes("f")
    notes("g")
    assert said[3:] == ["f (2 other notes were left out)", "g"]


def test_what_is_remembered_is_bounded():
    notes = Notes(lambda _: None)
    for n in range(5000):
        notes(str(n))
    assert len(notes._said) == 1000
