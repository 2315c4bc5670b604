"""Both ends of the WebSocket suite, from the PyPI package `websockets`.

serve: an echo server on a free port, which it prints.
drive URI [CA]: the cases against $ADDRESS, one line each: `ok NAME` or `FAILED NAME: why`.

With asyncio, not with threads: before Python 3.13 a TLS socket that one thread reads and another writes loses data now and then.
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

LIMIT = 32 * 1024 * 1024
PATIENCE = 20


async def answer(peer):
    if peer.request.path == "/ws/first":
        await peer.send("the server speaks first")
    async for message in peer:
        if isinstance(message, str) and message.startswith("close "):
            await peer.close(int(message.split()[1]), "as asked")
            return
        await peer.send(message)


def choose(_server, offered):
    return "chat" if "chat" in offered else None


async def run_server():
    async with serve(answer, "127.0.0.1", 0, max_size=LIMIT, select_subprotocol=choose) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


def same(sent, got):
    assert sent == got, f"sent {len(sent)} of {type(sent).__name__}, got {len(got)} of {type(got).__name__}"


async def echo(peer, message):
    await peer.send(message)
    same(message, await peer.recv())


async def text(dial):
    async with dial() as peer:
        await echo(peer, "grüße, 世界")


async def empty(dial):
    async with dial() as peer:
        await echo(peer, "")


async def binary(dial):
    async with dial() as peer:
        await echo(peer, bytes(range(256)))


async def large(dial):
    async with dial() as peer:
        await echo(peer, os.urandom(8 * 1024 * 1024))


async def fragments(dial):
    async with dial() as peer:
        await peer.send(["one ", "two ", "three"])
        same("one two three", await peer.recv())


async def ping(dial):
    async with dial() as peer:
        for _ in range(20):
            await (await peer.ping(os.urandom(16)))


async def many(dial):
    async with dial() as peer:
        for number in range(500):
            await echo(peer, str(number) * (number % 50))


async def subprotocol(dial):
    async with dial(subprotocols=["other", "chat"]) as peer:
        assert peer.subprotocol == "chat", peer.subprotocol


async def server_first(dial):
    async with dial(path="/first") as peer:
        same("the server speaks first", await peer.recv())


async def close_by_server(dial):
    async with dial() as peer:
        await peer.send("close 4001")
        try:
            await peer.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 4001 and closed.rcvd.reason == "as asked", closed
        else:
            raise AssertionError("a message instead of the close")


async def close_by_client(dial):
    peer = await dial()
    await peer.close(4002, "bye")
    assert peer.close_code == 4002, peer.close_code


async def idle(dial):
    async with dial() as peer:
        await asyncio.sleep(3)
        await echo(peer, "still there")


async def parallel(dial):
    async def one(number):
        async with dial() as peer:
            for turn in range(20):
                await echo(peer, f"{number} {turn}")

    await asyncio.gather(*(one(number) for number in range(20)))


CASES = [
    text,
    empty,
    binary,
    large,
    fragments,
    ping,
    many,
    subprotocol,
    server_first,
    close_by_server,
    close_by_client,
    idle,
    parallel,
]


async def run_cases(uri, authority):
    context = ssl.create_default_context(cafile=authority) if authority else None
    host, port = os.environ["ADDRESS"].split(":")

    def dial(path="", **options):
        return connect(uri + path, host=host, port=int(port), ssl=context, max_size=LIMIT, compression=None, proxy=None, **options)

    for case in CASES:
        try:
            await asyncio.wait_for(case(dial), PATIENCE)
            print(f"ok {case.__name__}", flush=True)
        except Exception as fault:
            print(f"FAILED {case.__name__}: {type(fault).__name__} {fault}", flush=True)


if sys.argv[1] == "serve":
    asyncio.run(run_server())
else:
    asyncio.run(run_cases(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None))
