"""Starts herd serve for the Python tests, and speaks raw HTTP to it. Standard library only."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

HERD = os.environ.get("HERD_BINARY", "build/release/herd")


class Server:
    """A running herd serve; on leaving it is killed if it still runs."""

    def __init__(self, model, *flags, wait=True):
        command = [HERD, "serve", "-m", model, "--port", "0", "--threads", "1", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.port = None
        if wait:
            self.wait_until_up()

    def wait_until_up(self):
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            match = re.search(r" at http://\S+:(\d+)$", line.strip())
            if match:
                self.port = int(match.group(1))
                return
        raise RuntimeError(f"herd serve ended: {''.join(lines)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, body as text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = json.dumps(body) if isinstance(body, (dict, list)) else body
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read().decode()
        finally:
            connection.close()

    def post(self, path, body, headers=None, timeout=60):
        """(status, JSON)."""
        status, _, text = self.request("POST", path, body, headers, timeout)
        return status, json.loads(text)

    def get(self, path, headers=None):
        return self.request("GET", path, None, headers)

    def stats(self):
        return json.loads(self.get("/stats")[2])

    def metric(self, name):
        """A metric's value; 0 where it has no line yet."""
        for line in self.get("/metrics")[2].splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def raw(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self, timeout=60):
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def wait_for(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.02)
        return False


def completion_bytes(body, headers=(), version="1.1", path="/v1/completions"):
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def read_all(connection):
    """Everything until the other end closes."""
    parts = []
    try:
        while True:
            part = connection.recv(1 << 16)
            if not part:
                break
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def events(text):
    """The JSON of a stream's events; the last must be [DONE] or an error."""
    out = []
    for block in text.split("\n\n"):
        if block:
            assert block.startswith("data: "), block
            out.append(block[len("data: "):])
    return out


def skip(why):
    print(f"SKIPPED: {why}", file=sys.stderr)
    sys.exit(77)
