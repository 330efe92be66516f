"""A headless Chromium for tests, controlled through a pipe (Chrome DevTools Protocol).

It needs no driver, no port and no network.
"""

import itertools
import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
ABSENT = "needs a browser on the PATH: apt-get install chromium-headless-shell"
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 20.0  # seconds until something that should come true has failed


class Browser:
    """One page."""

    def __init__(self, profile):
        (theirs_in, self.to), (self.of, theirs_out) = os.pipe(), os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        start = [
            "bash",
            "-c",
            f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}',
            "-",
            str(CHROMIUM),
            *QUIET,
            f"--user-data-dir={profile}",
        ]
        self.process = subprocess.Popen(
            start, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.numbers, self.left, self.session = itertools.count(1), b"", None
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method, **params):
        number = next(self.numbers)
        session = {"sessionId": self.session} if self.session else {}
        os.write(
            self.to,
            json.dumps({"id": number, "method": method, "params": params, **session}).encode()
            + b"\0",
        )
        while (message := self.read()).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    def read(self):
        while b"\0" not in self.left:
            data = os.read(self.of, 1 << 16)
            assert data, "the browser has ended"
            self.left += data
        message, _, self.left = self.left.partition(b"\0")
        return json.loads(message)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.body && document.body.dataset.ready === 'yes'")

    def reload(self):
        self.run("document.body.dataset.ready = 'no'")
        self.call("Page.reload")
        self.until("document.body && document.body.dataset.ready === 'yes'")

    def run(self, script):
        return self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )["result"].get("value")

    def until(self, script):
        last = time.monotonic() + PATIENCE
        while not self.run(script):
            assert time.monotonic() < last, (
                f"{script} has not come true; {self.run('document.body.innerText')}"
            )
            time.sleep(0.02)

    def follow(self, script):
        """Run a script that leaves the page, and wait for the next one."""
        self.run(f"setTimeout(() => {{ {script} }})")
        while self.read().get("method") != "Page.loadEventFired":
            pass

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=key if kind == "keyDown" and len(key) == 1 else "",
            )

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.to)
        os.close(self.of)
