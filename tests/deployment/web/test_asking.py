"""Questions to an endpoint that is slow, down or does not like them."""

import asyncio
import time

import pytest

from deployment.web import asking
from deployment.web.asking import Asker
from deployment.web.board import Question
from tests.tiny_live import Endpoint

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    for name in ("_FIRST_PAUSE", "_LONGEST_PAUSE", "_REFUSED_AGAIN", "_LOOK"):
        monkeypatch.setattr(asking, name, 0.02)


class Asking:
    """An asker and what it told."""

    def __init__(self, endpoint, workers=2):
        self.endpoint, self.answers, self.states = endpoint, {}, []
        self.asker = Asker(endpoint.connect, self.answered, self.changed, workers)

    def answered(self, question, answer, seconds):
        self.answers.setdefault(question.session_id, []).append((question.version, answer.items[1]))

    def changed(self):
        self.states.append(self.asker.health.state)

    def ask(self, session, version, *names):
        self.asker.ask(Question(session, version, {"item_id": list(names)}))

    async def until(self, what):
        async with asyncio.timeout(PATIENCE):
            while not what():
                await asyncio.sleep(0.002)

    def run(self, steps):
        async def main():
            task = asyncio.create_task(self.asker.run())
            try:
                await steps(self)
            finally:
                self.endpoint.gate.set()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(main())


def test_every_session_is_answered():
    async def steps(it):
        for n in range(20):
            it.ask(f"s{n}", n, *"abc"[: n % 3 + 1])
        await it.until(lambda: len(it.answers) == 20)
        assert all(it.answers[f"s{n}"] == [(n, f"after {n % 3 + 1}")] for n in range(20))
        assert it.states == ["ready"] and it.asker.waiting == 0

    Asking(Endpoint()).run(steps)


def test_the_newest_question_of_a_session_takes_the_place_of_what_waits():
    endpoint = Endpoint()
    endpoint.gate.clear()

    async def steps(it):
        it.ask("a", 1, "one")
        await it.until(lambda: endpoint.asked)
        for version in range(2, 100):
            it.ask("a", version, *["x"] * version)
        assert it.asker.waiting == 1
        await asyncio.sleep(0.05)
        assert len(endpoint.asked) == 1  # never two of one session under way
        endpoint.gate.set()
        await it.until(lambda: len(it.answers.get("a", [])) == 2)
        assert it.answers["a"] == [(1, "after 1"), (99, "after 99")] and len(endpoint.asked) == 2

    Asking(endpoint).run(steps)


def test_a_slow_session_does_not_hold_up_the_others_and_few_are_asked_at_a_time():
    endpoint = Endpoint()

    async def steps(it):
        await it.until(lambda: it.asker.health.state == "ready")
        endpoint.gate.clear()
        for n in range(9):
            it.ask(f"s{n}", 1, "x")
        await it.until(lambda: endpoint.under_way == 2)
        assert it.asker.waiting == 7
        endpoint.gate.set()
        await it.until(lambda: len(it.answers) == 9)
        assert endpoint.most == 2

    Asking(endpoint, workers=2).run(steps)


def test_an_endpoint_that_was_down_is_asked_for_every_session_when_it_is_back():
    endpoint = Endpoint(up=False)

    async def steps(it):
        await it.until(lambda: it.asker.health.message.startswith("no model is ready"))
        for n in range(5):
            it.ask(f"s{n}", 1, "x")
        await it.until(lambda: len(endpoint.asked) >= 3)
        assert it.asker.health.state == "unreachable" and endpoint.most == 1
        assert it.asker.health.message == "http://there: nobody at home" and not it.answers
        it.ask("s0", 2, "x", "y")
        it.asker.drop("s4")
        endpoint.up = True
        await it.until(lambda: len(it.answers) == 4)
        assert it.answers["s0"] == [(2, "after 2")] and "s4" not in it.answers
        assert it.asker.health.state == "ready" and it.asker.health.message == ""
        endpoint.up = False
        it.ask("s1", 3, "z")
        await it.until(lambda: it.asker.health.state == "unreachable")
        endpoint.up = True
        await it.until(lambda: it.answers["s1"][-1][0] == 3)

    Asking(endpoint).run(steps)


def test_a_question_that_failed_does_not_take_the_place_of_a_newer_one():
    endpoint = Endpoint()

    async def steps(it):
        await it.until(lambda: it.states == ["ready"])
        endpoint.gate.clear()
        it.ask("a", 1, "x")
        await it.until(lambda: endpoint.under_way)
        it.ask("a", 2, "x", "y")
        endpoint.up = False
        endpoint.gate.set()
        await it.until(lambda: it.asker.health.state == "unreachable")
        endpoint.up = True
        await it.until(lambda: it.answers)
        assert it.answers["a"] == [(2, "after 2")] and endpoint.asked.count(["x"]) == 1

    Asking(endpoint).run(steps)


def test_an_endpoint_that_went_down_is_tried_with_pauses_one_question_at_a_time():
    endpoint = Endpoint()

    async def steps(it):
        await it.until(lambda: it.states == ["ready"])
        endpoint.up = False
        it.ask("s0", 1, "x")
        await it.until(lambda: it.asker.health.state == "unreachable")
        endpoint.asked.clear()
        endpoint.most = 0
        for n in range(8):
            it.ask(f"s{n}", 2, "x")
        began = time.monotonic()
        await it.until(lambda: len(endpoint.asked) >= 5)
        await asyncio.sleep(0.1)
        assert endpoint.most == 1 and len(endpoint.asked) <= 2 + (time.monotonic() - began) / 0.02

    Asking(endpoint, workers=4).run(steps)


def test_an_endpoint_that_nobody_asks_is_looked_at():
    endpoint = Endpoint()

    async def steps(it):
        await it.until(lambda: it.states == ["ready"])
        endpoint.up = False
        await it.until(lambda: it.states == ["ready", "unreachable"])
        endpoint.up = True
        await it.until(lambda: it.states == ["ready", "unreachable", "ready"])

    Asking(endpoint).run(steps)


def test_a_refused_question_is_said_and_asked_again_and_others_go_on():
    endpoint = Endpoint(refused={"bad"})

    async def steps(it):
        it.ask("a", 1, "bad")
        await it.until(lambda: "refusing" in it.states)
        assert it.asker.health.message == "bad is not taken"
        it.ask("b", 1, "good")
        await it.until(lambda: "b" in it.answers)
        await it.until(lambda: endpoint.asked.count(["bad"]) >= 2)
        assert "a" not in it.answers and endpoint.clients >= 2  # another model may stand there by now
        endpoint.refused.clear()
        await it.until(lambda: "a" in it.answers)
        await it.until(lambda: it.asker.health.state == "ready")
        it.ask("c", 1, "x")
        await it.until(lambda: "c" in it.answers)

    Asking(endpoint).run(steps)


@pytest.mark.parametrize("refused", [False, True])
def test_a_session_that_goes_while_its_question_is_under_way_is_not_asked_about_again(refused):
    endpoint = Endpoint(up=refused, refused={"one"} if refused else set())

    async def steps(it):
        endpoint.gate.clear()
        it.ask("a", 1, "one")
        await it.until(lambda: endpoint.under_way)
        it.asker.drop("a")
        endpoint.gate.set()
        await it.until(lambda: not endpoint.under_way)
        endpoint.up = True
        it.ask("b", 1, "two")
        await it.until(lambda: "b" in it.answers)
        await asyncio.sleep(0.1)  # several times as long as a question waits for its turn here
        assert endpoint.asked.count(["one"]) == 1 and it.asker.waiting == 0
        it.ask("a", 2, "three")  # it may come back
        await it.until(lambda: "a" in it.answers)

    Asking(endpoint).run(steps)


def test_an_error_that_nobody_expects_ends_the_asker():
    class Broken(Endpoint):
        def recommend(self, history, k=5):
            raise KeyError("a mistake of ours")

    asked = Asking(Broken())

    async def steps():
        asked.ask("a", 1, "x")
        async with asyncio.timeout(PATIENCE):
            await asked.asker.run()

    with pytest.raises(ExceptionGroup) as found:
        asyncio.run(steps())
    assert found.group_contains(KeyError)
