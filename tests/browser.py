"""A headless Chromium for tests, spoken to over its own debugging socket: no driver, no further package."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import websocket  # comes with visdom

SCREENSHOTS = Path(__file__).parents[1] / "runs" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    """The browser's path, or a skip that says what was looked for; LFKIT_BROWSER names another, or is `none`."""
    chosen = os.environ.get("LFKIT_BROWSER")
    found = next((path for path in map(shutil.which, [chosen] if chosen else NAMES) if path), None)
    if not found:
        pytest.skip(f"no browser: looked for {chosen or ', '.join(NAMES)}; install Chromium, or name one with LFKIT_BROWSER")
    return found


class Browser:
    """One page of a headless browser."""

    def __init__(self, profile, width=1400, height=1000):
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-sync",
                 "--disable-component-update", "--remote-allow-origins=*", "--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        self.process = subprocess.Popen([find_browser(), *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.count, self.outside = 0, []
        try:
            address = wait(lambda: (profile / "DevToolsActivePort").exists() and (profile / "DevToolsActivePort").read_text().splitlines(), 60)
            self.socket = websocket.create_connection(f"ws://127.0.0.1:{address[0]}{address[1]}", timeout=60, suppress_origin=True)
            self.session = None
            target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network"):
                self.call(f"{domain}.enable")
            self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        except BaseException:
            self.close()
            raise

    def call(self, method, **params):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if url.startswith("http") and not url.startswith(("http://127.0.0.1", "http://localhost")):
                    self.outside.append(url)
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]

    def run(self, script):
        """The value of a JavaScript expression; of a promise, what it gives."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)

    def wait_for(self, script, seconds=60):
        return wait(lambda: self.run(script), seconds, script)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        (SCREENSHOTS / name).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return SCREENSHOTS / name

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait(condition, seconds, what="it"):
    """What the condition gives as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"{what} did not come true within {seconds} s")
