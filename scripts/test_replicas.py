#!/usr/bin/env python3
"""Replicas of herd serve behind nginx and HAProxy, with the files of deploy/ as they are but for the ports.

usage: test_replicas.py --herd PROGRAM -m MODEL [--clients N] [TEST]...

Tests (all of them if none is named):
  nginx, haproxy  three replicas behind it, under load; each in turn is ended by SIGTERM, missed for a while
                  and started again: no failed request, and every answer is the one a replica gave alone
  prometheus      scrapes the replicas by deploy/prometheus.yml; every query of the dashboard and the rules
                  works and names metrics that there are
  files           systemd unit, Dockerfile, Kubernetes manifests, as far as they can be checked without their
                  hosts
Exit status 1 if one fails. Beside the standard library: PyYAML and kubernetes-validate, for `files`.
"""

import argparse
import contextlib
import http.client
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
REPLICA_PORTS, BALANCER_PORT = (8081, 8082, 8083), 8080  # as the files have them
DOWN_SECONDS = 3.0


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def deployed(name, changes, folder):
    """A copy in `folder` of a file of deploy/ with changes made; each must apply."""
    text = (DEPLOY / name).read_text()
    for old, new in changes:
        assert old in text, f"deploy/{name} has no '{old}'"
        text = text.replace(old, new)
    path = Path(folder) / name
    path.write_text(text)
    return path


def until(condition, what, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


class Replica:
    def __init__(self, options, port):
        self.options, self.port, self.process = options, port, None

    def start(self):
        o = self.options
        command = [o.herd, "serve", "-m", o.model, "--port", str(self.port), "--threads", "1", "--context", "1024"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(lambda: get(self.port, "/ready")[0] == 200, f"replica at {self.port} is ready")

    def end(self):
        """SIGTERM: what runs may end. The exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(command, log):
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def replicas(options):
    found = [Replica(options, port) for port in free_ports(len(REPLICA_PORTS))]
    try:
        for replica in found:
            replica.start()
        yield found
    finally:
        for replica in found:
            replica.kill()


# ---- requests ----

WORDS = "the time of a story about how people and animals lived near one river before winter came".split()


def make_requests(rng, count=24):
    """Some of each kind: greedy, sampled, streamed, chats, log-probabilities. (path, body)."""
    made = []
    for i in range(count):
        prompt = " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))
        body = {"max_tokens": rng.randint(8, 32), "temperature": 0.8 * (i % 2), "seed": i, "stream": i % 3 == 0}
        if i % 4 == 1:
            made.append(("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}]}))
        else:
            made.append(("/v1/completions", {**body, "prompt": prompt, "logprobs": 2, "return_token_ids": True}))
    return made


def what_must_be_equal(answer):
    """All but this answer's id and time, and how much of its prompt the replica had cached."""
    kept = {k: v for k, v in answer.items() if k not in ("id", "created")}
    if kept.get("usage"):
        kept["usage"] = {k: v for k, v in kept["usage"].items() if k != "prompt_tokens_details"}
    return kept


def ask(port, path, body):
    """(status, what must be equal, who served). A stream that is not whole has no [DONE] at its end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
        served = reply.getheader("X-Served-By", "").rpartition(", ")[2]  # nginx names those tried before it too
    finally:
        connection.close()
    if reply.status != 200:
        return reply.status, text, served
    if not body["stream"]:
        return 200, what_must_be_equal(json.loads(text)), served
    events = [block.removeprefix("data: ") for block in text.split("\n\n") if block]
    return 200, [e if e == "[DONE]" else what_must_be_equal(json.loads(e)) for e in events], served


class Load:
    """Clients that ask again and again, until the end of its `with`."""

    def __init__(self, port, requests, expected, clients, seed):
        self.port, self.requests, self.expected, self.seed = port, requests, expected, seed
        self.ended, self.lock = threading.Event(), threading.Lock()
        self.served, self.failed, self.different, self.slowest = Counter(), [], [], 0.0
        self.threads = [threading.Thread(target=self.client, args=(i,)) for i in range(clients)]

    def client(self, number):
        rng = random.Random(self.seed * 1000 + number)
        while not self.ended.is_set():
            which, start = rng.randrange(len(self.requests)), time.monotonic()
            try:
                status, answer, served = ask(self.port, *self.requests[which])
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, answer, served = 0, repr(error), None
            with self.lock:
                self.slowest = max(self.slowest, time.monotonic() - start)
                self.served[served] += 1
                if status != 200:
                    self.failed.append((which, status, str(answer)[:300]))
                elif answer != self.expected[which]:
                    self.different.append((which, served))

    def count(self, served):
        with self.lock:
            return self.served[served]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()


# ---- the balancers ----


@contextlib.contextmanager
def nginx(ports, port, folder):
    """Yields how it calls each replica in X-Served-By."""
    names = [f"127.0.0.1:{p}" for p in ports]
    changes = [(f"127.0.0.1:{old}", new) for old, new in zip(REPLICA_PORTS, names)]
    site = deployed("nginx.conf", [*changes, (f"listen {BALANCER_PORT}", f"listen 127.0.0.1:{port}")], folder)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = Path(folder) / "main.conf"
    main.write_text(
        f"pid {folder}/nginx.pid; error_log {folder}/error.log info; daemon off; worker_processes 1;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} include {site}; }}\n"
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    subprocess.run([program, "-t", "-q", "-c", main, "-e", f"{folder}/error.log"], check=True)
    with running([program, "-c", main, "-e", f"{folder}/error.log"], f"{folder}/nginx.log"):
        yield names


@contextlib.contextmanager
def haproxy(ports, port, folder):
    changes = [(f"127.0.0.1:{old}", f"127.0.0.1:{new}") for old, new in zip(REPLICA_PORTS, ports)]
    config = deployed("haproxy.cfg", [*changes, (f"bind :{BALANCER_PORT}", f"bind 127.0.0.1:{port}")], folder)
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    subprocess.run([program, "-c", "-q", "-f", config], check=True)
    with running([program, "-db", "-f", config], f"{folder}/haproxy.log"):
        yield ["replica1", "replica2", "replica3"]


def test_balancer(options, balancer):
    seed = options.seed
    requests = make_requests(random.Random(seed))
    (port,) = free_ports(1)
    with replicas(options) as found, tempfile.TemporaryDirectory() as folder:
        expected = [ask(found[0].port, *r) for r in requests]
        assert all(status == 200 for status, _, _ in expected)
        expected = [answer for _, answer, _ in expected]
        with balancer([r.port for r in found], port, folder) as names:
            until(lambda: get(port, "/ready")[0] == 200, "the balancer passes requests on")
            assert get(port, "/metrics")[0] == 404
            with Load(port, requests, expected, options.clients, seed) as load:
                until(lambda: all(load.count(n) >= 5 for n in names), "every replica serves")
                for replica, name in zip(found, names):
                    status = replica.end()
                    assert status == 0, f"{name} ended with status {status}"
                    before = load.count(name)
                    time.sleep(DOWN_SECONDS)
                    # Answers that ended just before its exit may be counted a moment later.
                    assert load.count(name) <= before + options.clients, f"{name} served while it was down"
                    replica.start()
                    back = load.count(name)
                    until(lambda: load.count(name) >= back + 5, f"{name} serves again; served {dict(load.served)}")
    total = sum(load.served.values())
    assert not load.failed, f"{len(load.failed)} of {total} requests failed: {load.failed[:5]}"
    assert not load.different, f"{len(load.different)} of {total} answers differ: {load.different[:5]}"
    counts = ", ".join(f"{name} {load.served[name]}" for name in names)
    return f"{total} requests, 0 failed, 0 different; {counts}; slowest {load.slowest:.1f} s; 3 restarts"


# ---- Prometheus and the dashboard ----


def metric_names(text):
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def queries():
    """(where, PromQL) of the dashboard and the rules, with Grafana's variables filled in."""
    import yaml

    for panel in json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "20s").replace("$job", "herd")
            yield panel["title"], expr
    for group in yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def check_names(text):
    known = metric_names(text)
    for where, expr in queries():
        for name in re.findall(r"\bherd_\w+", expr):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in known or base in known, f"{where}: no metric '{name}'"


def query(port, expr):
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
    ) as reply:
        answer = json.load(reply)
    assert answer["status"] == "success", (expr, answer)
    return answer["data"]["result"]


def test_prometheus(options):
    seed = options.seed
    requests = make_requests(random.Random(seed))
    (port,) = free_ports(1)
    with replicas(options) as found, tempfile.TemporaryDirectory() as folder:
        check_names(get(found[0].port, "/metrics")[1])
        changes = [(f"127.0.0.1:{old}", f"127.0.0.1:{r.port}") for old, r in zip(REPLICA_PORTS, found)]
        config = deployed("prometheus.yml", [*changes, ("scrape_interval: 5s", "scrape_interval: 1s")], folder)
        deployed("prometheus-rules.yml", [], folder)
        checked = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
        with running([*command, f"--web.listen-address=127.0.0.1:{port}"], f"{folder}/prometheus.log"):
            up = lambda: {r["metric"]["instance"]: r["value"][1] for r in query(port, 'up{job="herd"}')}
            until(lambda: list(up().values()) == ["1"] * 3, "three replicas are scraped")
            for i in range(3 * len(found)):
                ask(found[i % 3].port, *requests[i])
            time.sleep(3)
            empty = [where for where, expr in queries() if not query(port, expr)]
            tokens = sum(float(r["value"][1]) for r in query(port, "herd_answer_tokens_total"))
            assert found[0].end() == 0
            until(lambda: up()[f"127.0.0.1:{found[0].port}"] == "0", "the one that ended is seen to be down")
            (down,) = query(port, 'up{job="herd"} == 0')
    # Nothing was refused and no alert holds: these have nothing to show.
    allowed = {"Refused and ended, a second", "HerdDown", "HerdStuck", "HerdRefuses", "HerdNotFinite"}
    assert set(empty) <= allowed, f"no data: {sorted(set(empty) - allowed)}"
    assert tokens > 0 and down["metric"]["instance"] == f"127.0.0.1:{found[0].port}"
    return f"{len(list(queries()))} queries, {tokens:.0f} answer tokens scraped, the end of one replica seen"


# ---- files whose hosts are not here ----


def check_unit(options, folder):
    if shutil.which("systemd-analyze") is None:
        return "systemd unit not checked: no systemd-analyze"
    (Path(folder) / "herd.env").write_text("HERD_MODEL=/srv/models/model.gguf\n")
    changes = [("/usr/local/bin/herd", str(Path(options.herd).resolve())), ("/etc/herd/herd.env", f"{folder}/herd.env")]
    unit = deployed("herd@.service", changes, folder)
    unit = unit.rename(Path(folder) / "herd@8081.service")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    return "systemd unit verified"


def check_dockerfile(options):
    """Its package lists: what scripts/lib.sh builds with, and what the program is linked to."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lists = [set(m.split()) for m in re.findall(r"--no-install-recommends\s+(.*?)\s+&&", text)]
    assert len(lists) == 2, "two lists of packages"
    script = (DEPLOY.parent / "scripts/lib.sh").read_text()
    build = set(re.search(r"^BUILD_PACKAGES=\((.*?)\)", script, re.MULTILINE | re.DOTALL).group(1).split())
    assert lists[0] == build, f"packages to build with: {sorted(lists[0] ^ build)}"
    dynamic = subprocess.run(["readelf", "-d", options.herd], capture_output=True, text=True, check=True).stdout
    owners = set()
    for library in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
        done = subprocess.run(["dpkg", "-S", f"*-linux-gnu/{library}"], capture_output=True, text=True)
        assert done.returncode == 0, f"no package has {library}"
        owners.add(done.stdout.split(":")[0])
    owners -= {"libc6", "libgcc-s1"}  # every Debian image has them
    assert owners == lists[1], f"packages to run with: {sorted(owners ^ lists[1])}"
    return "Dockerfile: its packages are those of the build and of the program"


def check_kubernetes():
    import kubernetes_validate
    import yaml

    version = kubernetes_validate.latest_version()
    kinds = []
    for document in yaml.safe_load_all((DEPLOY / "kubernetes/herd.yaml").read_text()):
        kinds.append(document["kind"])
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise AssertionError(f"Kubernetes {kinds[-1]}: {error.message}") from None
    return f"Kubernetes {', '.join(kinds)}: valid by the schema of {version}"


def test_files(options):
    with tempfile.TemporaryDirectory() as folder:
        return "; ".join([check_unit(options, folder), check_dockerfile(options), check_kubernetes()])


TESTS = {
    "nginx": lambda options: test_balancer(options, nginx),
    "haproxy": lambda options: test_balancer(options, haproxy),
    "prometheus": test_prometheus,
    "files": test_files,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--herd", default="build/release/herd")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("tests", nargs="*", metavar="TEST", help=", ".join(TESTS))
    options = parser.parse_args()
    if unknown := set(options.tests) - set(TESTS):
        parser.error(f"no test {', '.join(sorted(unknown))}; there are {', '.join(TESTS)}")
    print(f"seed {options.seed}", flush=True)
    failed = False
    for name in options.tests or TESTS:
        try:
            print(f"{name}: {TESTS[name](options)}", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            failed = True
            print(f"{name}: FAILED: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
