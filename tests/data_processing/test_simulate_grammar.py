from random import Random

import pytest

from data_processing.simulate_catalogue import build_catalogue
from data_processing.simulate_grammar import (
    ANNOTATIONS,
    PAUSE,
    SLOW,
    TASKS,
    Planner,
    User,
    build_grammar,
    parse_grammar,
)


@pytest.fixture(scope="module")
def grammar():
    return build_grammar(build_catalogue())


def unroll(grammar, text: str, seed: int) -> tuple[list[str], list[int]]:
    """Keys and gap classes of one run through a task text."""
    catalogue = grammar.catalogue
    names = {position: key for key, position in catalogue.index.items()}
    rng = Random(seed)
    planner = Planner(User(grammar, rng, 0.1), rng)
    planner.slots |= {"a": "wall", "b": "door"}
    commands, gaps = [], []
    planner._unroll(parse_grammar(text, catalogue, [0]), commands, gaps)
    return [names[command] for command in commands], gaps


def test_language_of_tasks(grammar):
    runs = [unroll(grammar, "T:a C:a (G:drag | G:move E:b){2,4} M:file.save.document?0.5", seed) for seed in range(60)]
    counts, saved = set(), 0
    for keys, gaps in runs:
        assert keys[:2] == ["T:wall", "C:wall"]
        body = [key for key in keys[2:] if key != "M:file.save.document"]
        rounds = body.count("G:drag") + body.count("G:move")
        assert body.count("E:door") == body.count("G:move")
        assert all(body[at + 1] == "E:door" for at, key in enumerate(body) if key == "G:move")
        assert gaps.count(SLOW) == 1
        counts.add(rounds)
        saved += len(keys) - 2 - len(body)
    assert counts == {2, 3, 4}
    assert 5 < saved < 55


def test_slots_recall_the_last_drawing_task(grammar):
    catalogue = grammar.catalogue
    names = {position: key for key, position in catalogue.index.items()}
    checked = 0
    for seed in range(80):
        rng = Random(seed)
        planner = Planner(User(grammar, rng, 0.1), rng)
        drawn = None
        for _ in range(12):
            commands, gaps = planner.next_task()
            assert gaps[0] == PAUSE
            keys = [names[command] for command in commands]
            if planner.task == "annotate" and drawn is not None:
                checked += 1
                assert f"E:{drawn[0]}" in keys and f"E:{drawn[1]}" in keys
                assert keys[0].removeprefix("T:") in ANNOTATIONS
            if TASKS[planner.task][1] not in ("note", "sheet", "plan"):
                drawn = planner.slots["a"], planner.slots["b"]
    assert checked > 50


def test_every_task_can_be_reached(grammar):
    seen = set()
    for seed in range(60):
        rng = Random(seed)
        planner = Planner(User(grammar, rng, 0.1), rng)
        for _ in range(10):
            planner.next_task()
            seen.add(planner.task)
    assert seen == set(TASKS)
    assert {task for spec in TASKS.values() for task in spec[4]} <= set(TASKS)
