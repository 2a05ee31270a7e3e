"""Pages that are quick, slow, gone or too many."""

import asyncio
import json

import pytest
from starlette.websockets import WebSocketDisconnect

from deployment.web.hub import Hub, Page, dump


class Socket:
    """A page whose connection takes messages when the test lets it."""

    def __init__(self):
        self.got, self.open, self.gone, self.closed = [], asyncio.Event(), asyncio.Event(), None
        self.open.set()
        self.says = asyncio.Event()

    async def accept(self):
        return None

    async def receive(self):
        gone, says = asyncio.create_task(self.gone.wait()), asyncio.create_task(self.says.wait())
        await asyncio.wait({gone, says}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel(), says.cancel()
        return {"type": "websocket.disconnect" if self.gone.is_set() else "websocket.receive"}

    async def send_text(self, text):
        await self.open.wait()
        if self.gone.is_set():
            raise WebSocketDisconnect(1006)
        self.got.append(json.loads(text))

    async def close(self, code):
        self.closed = code


async def settle():
    for _ in range(50):
        await asyncio.sleep(0)


def numbers(socket):
    return [message["n"] for message in socket.got]


def test_a_page_gets_the_state_and_then_every_message_in_order():
    async def main():
        hub, socket = Hub(lambda: {"n": "state"}), Socket()
        hub.publish({"n": -1})  # nobody listens
        task = asyncio.create_task(hub.serve(socket))
        await settle()
        for n in range(10):
            hub.publish({"n": n})
        await settle()
        assert numbers(socket) == ["state", *range(10)] and len(hub) == 1 and hub.lagged == 0
        socket.gone.set()
        await task
        assert len(hub) == 0 and socket.closed is None

    asyncio.run(main())


def test_a_slow_page_gets_the_state_instead_of_what_it_missed_and_holds_up_nobody():
    async def main():
        state = {"n": 0}
        hub = Hub(lambda: {"n": f"state {state['n']}"}, queue=5)
        slow, quick = Socket(), Socket()
        tasks = [asyncio.create_task(hub.serve(socket)) for socket in (slow, quick)]
        await settle()
        slow.open.clear()
        for n in range(1, 101):
            state["n"] = n
            hub.publish({"n": n})
            await settle()
        assert numbers(quick) == ["state 0", *range(1, 101)]
        assert hub.lagged == 1 and sum(len(page._waiting) for page in hub._pages) <= 5
        slow.open.set()
        await settle()
        assert numbers(slow) == ["state 0", 1, "state 100"]  # the one was under way
        hub.publish({"n": 101})
        await settle()
        assert numbers(slow)[-1] == 101
        slow.gone.set(), quick.gone.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_page_that_takes_nothing_for_too_long_is_disconnected():
    async def main():
        hub, socket = Hub(lambda: {}, patience=0.01), Socket()
        socket.open.clear()
        await asyncio.wait_for(hub.serve(socket), 10)
        assert len(hub) == 0 and socket.closed == 1013

    asyncio.run(main())


def test_a_page_that_says_something_is_disconnected():
    async def main():
        hub, socket = Hub(lambda: {}), Socket()
        socket.says.set()
        await asyncio.wait_for(hub.serve(socket), 10)
        assert len(hub) == 0 and socket.closed == 1008

    asyncio.run(main())


def test_it_is_full_with_as_many_pages_as_it_may_have():
    async def main():
        hub, sockets = Hub(lambda: {}, pages=2), [Socket(), Socket()]
        tasks = [asyncio.create_task(hub.serve(socket)) for socket in sockets]
        await settle()
        assert hub.full
        sockets[0].gone.set()
        await settle()
        assert not hub.full
        sockets[1].gone.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_page_between_two_states_misses_nothing():
    async def main():
        page = Page(2)
        for n in range(5):
            page.put(str(n))  # before the first state: it will hold them
        assert await page.next(lambda: "state") == "state"
        page.put("a")
        page.put("b")
        assert [await page.next(lambda: "state") for _ in range(2)] == ["a", "b"]
        for text in "cde":
            page.put(text)
        assert await page.next(lambda: "again") == "again"
        page.put("f")
        assert await page.next(lambda: "state") == "f"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(page.next(lambda: "state"), 0.01)

    asyncio.run(main())


def test_messages_are_ascii_and_never_hold_what_json_has_not():
    text = dump({"a": "\u202e\u2028\x00<é"})
    assert text.isascii() and "\\u202e" in text and json.loads(text) == {"a": "\u202e\u2028\x00<é"}
    with pytest.raises(ValueError, match="JSON"):
        dump({"a": float("nan")})
