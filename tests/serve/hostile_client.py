"""A hostile client of a local server: `python tests/serve/hostile_client.py PORT PATH SECONDS`.

Several threads send, in turns, files that decode to hundreds of times their size, bytes that are
no file, requests that stop in the middle, cross-site requests of a browser, nested JSON, and lines
that are no HTTP.
"""

import io
import random
import socket
import sys
import threading
import time
from collections import Counter
from functools import cache
from http.client import HTTPConnection, HTTPException

import numpy as np
from PIL import Image

HOST = "127.0.0.1"
DEEP = b"[" * 100_000 + b"]" * 100_000


@cache
def bomb(side=5000, mode="L"):
    """A PNG of a few kilobytes with side x side pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).convert(mode).save(
        buffer, "png", compress_level=1
    )
    return buffer.getvalue()


def ask(port, method, path, body=None, headers=None, timeout=60):
    """The status of the answer, and its content."""
    connection = HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(port, content):
    """Sends bytes and leaves without waiting for an answer."""
    with socket.create_connection((HOST, port), timeout=10) as line:
        line.sendall(content)


def attacks(port, path):
    """Name -> what sends one request and gives the status, or None where nobody waited for it."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n".encode()
    json = {"Content-Type": "application/json"}
    png = {"Content-Type": "image/png"}

    def post(body, headers):
        return ask(port, "POST", path, body, headers)[0]

    return {
        "bomb": lambda: post(bomb(), png),
        "larger bomb": lambda: post(bomb(5001), png),
        "sixteen bits": lambda: post(bomb(5000, "I;16"), png),
        "see-through": lambda: post(bomb(5000, "RGBA"), png),
        "noise": lambda: post(random.randbytes(50_000), png),
        "cut off": lambda: post(bomb()[:900], png),
        "empty": lambda: post(b"", png),
        "nested": lambda: post(DEEP, json),
        "other page": lambda: post(b"{}", {**json, "Origin": "http://evil.example"}),
        "sandboxed page": lambda: post(b"{}", {**json, "Origin": "null"}),
        "other name": lambda: post(b"{}", {**json, "Host": "evil.example"}),
        "form": lambda: post(b"a=1", {"Content-Type": "multipart/form-data; boundary=x"}),
        "text": lambda: post(b"{}", {"Content-Type": "text/plain"}),
        "leaves at once": lambda: raw(port, head + b"Content-Length: 9000\r\n\r\nabc"),
        "leaves before the answer": lambda: raw(
            port, head + b"Content-Length: %d\r\n\r\n" % len(bomb()) + bomb()
        ),
        "endless length": lambda: raw(port, head + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
        "no HTTP": lambda: raw(port, random.randbytes(500) + b"\r\n\r\n"),
        "many headers": lambda: raw(port, head + b"X: y\r\n" * 5000 + b"\r\n"),
    }


def attack(port, path, seconds, threads=16, seed=0):
    """{attack: Counter of statuses}. Each kind is sent once at least, whatever the time."""
    kinds, end = attacks(port, path), time.monotonic() + seconds
    seen = {name: Counter() for name in kinds}
    bomb(), bomb(5001), bomb(5000, "I;16"), bomb(5000, "RGBA")

    def worker(number):
        order = random.Random(seed + number)
        names = list(kinds)
        order.shuffle(names)
        while True:
            for name in names:
                try:
                    seen[name][kinds[name]()] += 1
                except (OSError, HTTPException) as error:  # the server hung up
                    seen[name][type(error).__name__] += 1
                if time.monotonic() > end and all(seen.values()):
                    return

    workers = [threading.Thread(target=worker, args=(n,)) for n in range(threads)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    return seen


if __name__ == "__main__":
    port, path, seconds = sys.argv[1:]
    for name, statuses in attack(int(port), path, float(seconds)).items():
        print(f"{name:24} {dict(statuses)}")
