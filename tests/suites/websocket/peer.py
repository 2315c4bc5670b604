"""Both ends of the WebSocket suite, from the PyPI package `websockets`.

serve: an echo server on a free port, which it prints.
drive URI [CA]: the cases, one line each: `ok NAME` or `FAILED NAME: why`.
"""

import os
import socket
import ssl
import sys
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

LIMIT = 32 * 1024 * 1024


def answer(peer):
    if peer.request.path == "/ws/first":
        peer.send("the server speaks first")
    for message in peer:
        if isinstance(message, str) and message.startswith("close "):
            peer.close(int(message.split()[1]), "as asked")
            return
        peer.send(message)


def choose(_server, offered):
    return "chat" if "chat" in offered else None


def run_server():
    listener = socket.create_server(("127.0.0.1", 0))
    with serve(answer, sock=listener, max_size=LIMIT, select_subprotocol=choose) as server:
        print(listener.getsockname()[1], flush=True)
        server.serve_forever()


def same(sent, got):
    assert sent == got, f"sent {len(sent)} of {type(sent).__name__}, got {len(got)} of {type(got).__name__}"


def echo(peer, message):
    peer.send(message)
    same(message, peer.recv(timeout=20))


def text(dial):
    with dial() as peer:
        echo(peer, "grüße, 世界")


def empty(dial):
    with dial() as peer:
        echo(peer, "")


def binary(dial):
    with dial() as peer:
        echo(peer, bytes(range(256)))


def large(dial):
    with dial() as peer:
        echo(peer, os.urandom(8 * 1024 * 1024))


def fragments(dial):
    with dial() as peer:
        peer.send(["one ", "two ", "three"])
        same("one two three", peer.recv(timeout=20))


def ping(dial):
    with dial() as peer:
        for _ in range(20):
            assert peer.ping(os.urandom(16)).wait(20), "no pong within 20 s"


def many(dial):
    with dial() as peer:
        for number in range(500):
            echo(peer, str(number) * (number % 50))


def subprotocol(dial):
    with dial(subprotocols=["other", "chat"]) as peer:
        assert peer.subprotocol == "chat", peer.subprotocol


def server_first(dial):
    with dial(path="/first") as peer:
        same("the server speaks first", peer.recv(timeout=20))


def close_by_server(dial):
    with dial() as peer:
        peer.send("close 4001")
        try:
            peer.recv(timeout=20)
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 4001 and closed.rcvd.reason == "as asked", closed
        else:
            raise AssertionError("a message instead of the close")


def close_by_client(dial):
    peer = dial()
    peer.close(4002, "bye")
    assert peer.close_code == 4002, peer.close_code


def idle(dial):
    with dial() as peer:
        time.sleep(3)
        echo(peer, "still there")


def parallel(dial):
    faults = []

    def one(number):
        try:
            with dial() as peer:
                for round in range(20):
                    echo(peer, f"{number} {round}")
        except Exception as fault:
            faults.append(f"{type(fault).__name__} {fault}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


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


def run_cases(uri, authority):
    context = ssl.create_default_context(cafile=authority) if authority else None
    host, port = os.environ["ADDRESS"].split(":")

    def dial(path="", **options):
        connection = socket.create_connection((host, int(port)), timeout=20)
        return connect(uri + path, sock=connection, ssl=context, max_size=LIMIT, compression=None, **options)

    for case in CASES:
        try:
            case(dial)
            print(f"ok {case.__name__}", flush=True)
        except Exception as fault:
            print(f"FAILED {case.__name__}: {type(fault).__name__} {fault}", flush=True)


if sys.argv[1] == "serve":
    run_server()
else:
    run_cases(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
