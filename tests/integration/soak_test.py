"""Many mixed clients at once: every stream ends as it should, with what it would get alone.

WHALEPOD_SOAK_SECONDS (8) and WHALEPOD_SOAK_CLIENTS (40) say for how long and how many; 600 and 200 by hand.
"""

import collections
import http.client
import json
import os
import random
import threading
import time
import unittest

import grpc
from deployment import PATIENCE, Deployment, question
from prometheus_text import Metrics
from scheduling_test import PREFIX, kv_bytes

SECONDS = float(os.environ.get("WHALEPOD_SOAK_SECONDS", "8"))
CLIENTS = int(os.environ.get("WHALEPOD_SOAK_CLIENTS", "40"))
CASES = 60
# How a request that its client does not end may end, by its kind; any but "leaves" may find the queue full.
ENDS = {"plain": "whole", "slow": "whole", "cancels": "left", "leaves": "left", "deadline": "DEADLINE_EXCEEDED",
        "malformed": "INVALID_ARGUMENT"}
SHARES = {"plain": 40, "slow": 10, "cancels": 28, "leaves": 5, "deadline": 10, "malformed": 7}
HTTP_ENDS = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 504: "DEADLINE_EXCEEDED"}
EVENT_ENDS = {"timeout_error": "DEADLINE_EXCEEDED"}


def case(i):
    """(ids, options): half greedy, half seeded, with prompts that begin alike."""
    rng = random.Random(i)
    ids = PREFIX[: rng.choice((1, 1, 70, 140, 200))] + question(rng.randrange(1000), rng.randrange(1000))[1:]
    return ids, {"max_tokens": rng.randrange(4, 50), "ignore_eos": True, "seed": i,
                 "temperature": 0.6 if i % 2 else 0.0}


def resident(pid):
    """Megabytes of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class OverGrpc:
    """Sends cases by gRPC; what comes of one is a list of token ids."""

    nothing = []

    def __init__(self, deployment):
        self.client = deployment.client

    def alone(self, i):
        ids, options = case(i)
        return self.client.generate(ids, **options)[0]

    def send(self, kind, i, rng):
        """Yields what comes; returns how it ended."""
        ids, options = case(i)
        request = self.client.request(ids, **options)
        request.priority = rng.choice((0, 0, 0, 5))
        if kind == "deadline":
            request.timeouts.total_ms = rng.randrange(1, 300)
        if kind == "malformed":
            rng.choice((lambda: request.token_ids.ids.append(1 << 30), lambda: request.ClearField("token_ids"),
                        lambda: setattr(request.options, "temperature", 9)))()
        stream, finished = self.client.stub.Generate(request, timeout=PATIENCE), False
        try:
            if kind == "leaves":
                return "left"
            for event in stream:
                finished = finished or event.HasField("finished")
                yield [t.token_id for t in event.tokens.tokens]
        except grpc.RpcError as error:
            return error.code().name
        finally:
            stream.cancel()
        return "whole" if finished else "cut off"


class OverHttp:
    """The same as completions over HTTP, streamed; what comes of one is text."""

    nothing = ""

    def __init__(self, deployment):
        self.port = deployment.http_port

    def alone(self, i):
        return "".join(self.send("plain", i, random.Random(0)))

    def send(self, kind, i, rng):
        ids, options = case(i)
        body = {"prompt": ids, "stream": True, "priority": rng.choice((0, 0, 0, 5)), **options}
        if kind == "deadline":
            body["timeout_ms"] = rng.randrange(1, 300)
        text = json.dumps(body)
        if kind == "malformed":
            text = rng.choice((text[:-1], json.dumps({**body, "prompt": [1 << 30]}), json.dumps({**body, "temperature": 9}),
                               '{"prompt": "\udcff"}'))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", "/v1/completions", text.encode(errors="surrogateescape"))
            if kind == "leaves":
                return "left"
            answer = connection.getresponse()
            if answer.status != 200:
                return HTTP_ENDS.get(answer.status, f"HTTP {answer.status}: {answer.read()}")
            ended = "cut off"
            for line in answer:
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]\n":
                    return ended
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    ended = EVENT_ENDS.get(event["error"]["type"], f"event {event}")
                    continue
                if event["choices"][0]["finish_reason"]:
                    ended = "whole"
                yield event["choices"][0]["text"]
            return "cut off"
        finally:
            connection.close()


class Clients:
    """Threads that each send one request after another until told to stop."""

    def __init__(self, transports):
        self.transports = transports
        self.alone = {one: [one.alone(i) for i in range(CASES)] for one in transports}
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.ends = collections.Counter()
        self.wrong = []
        self.threads = [threading.Thread(target=self.run, args=(seed,)) for seed in range(CLIENTS)]

    def run(self, seed):
        rng = random.Random(seed)
        transport = self.transports[seed % len(self.transports)]
        while not self.stop.is_set():
            kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
            i = rng.randrange(CASES)
            try:
                end, right = self.one(transport, kind, i, rng)
            except Exception as error:  # pylint: disable=broad-except
                end, right = f"failed: {error!r}", False
            with self.lock:
                self.ends[type(transport).__name__, kind, end if right else "wrong"] += 1
                if not right:
                    self.wrong.append((type(transport).__name__, kind, i, end))
            if end == "RESOURCE_EXHAUSTED":
                self.stop.wait(0.05)

    def one(self, transport, kind, i, rng):
        """(how one request ended, whether it may end so with what came)"""
        alone = self.alone[transport][i]
        leaves_after = rng.randrange(0, len(alone)) if kind == "cancels" else None
        came, stream = transport.nothing, transport.send(kind, i, rng)
        while True:
            try:
                came = came + next(stream)
            except StopIteration as ended:
                end = ended.value
                break
            if leaves_after is not None and len(came) >= leaves_after:
                stream.close()
                return "left", came == alone[: len(came)]
            if kind == "slow":
                self.stop.wait(0.05)
        if end == "whole":
            return end, came == alone and kind != "malformed"
        if came != alone[: len(came)]:
            return f"{came} before {end}", False
        return end, end == ENDS[kind] or (end == "RESOURCE_EXHAUSTED" and not came)


class SoakTest(unittest.TestCase):
    def test_every_stream_ends_as_it_should(self):
        with Deployment("--dp", 2, "--ep", 2, "--max-num-seqs", 16, "--max-model-len", 320, "--max-waiting", 32,
                        "--kv-cache-bytes", kv_bytes(2 * 12)) as deployment:
            client = deployment.client
            pids = {"coordinator": deployment.process.pid, **deployment.workers()}
            clients = Clients([OverGrpc(deployment), OverHttp(deployment)])
            for thread in clients.threads:
                thread.start()
            end = time.monotonic() + SECONDS
            # Memory is compared from when everything has been used once.
            clients.stop.wait(SECONDS / 4)
            before = {name: resident(pid) for name, pid in pids.items()}
            clients.stop.wait(max(0.0, end - time.monotonic()))
            clients.stop.set()
            for thread in clients.threads:
                thread.join(2 * PATIENCE)
            print(dict(clients.ends), flush=True)
            self.assertEqual(clients.wrong, [])
            status = client.wait_status("all freed", lambda s: s.kv_blocks_used == s.running == s.waiting == 0)
            self.assertEqual(status.state, "ready")
            self.assertGreater(status.preemptions, 0)
            self.check_audits(deployment)
            for transport in ("OverGrpc", "OverHttp"):
                for kind, name in ENDS.items():
                    self.assertGreater(clients.ends[transport, kind, name], 0, (transport, kind, name))
            after = {name: resident(pid) for name, pid in pids.items()}
            print({name: f"{before[name]:.1f} MB, then {after[name]:.1f}" for name in pids}, flush=True)
            for name in pids:
                self.assertLess(after[name], before[name] * 1.1 + 16, name)
            # Nothing that happened is left in what comes after.
            for transport in clients.transports:
                self.assertEqual(transport.alone(3), clients.alone[transport][3])

    def check_audits(self, deployment):
        """Ranks and coordinator agreed in every step of what is held."""
        connection = http.client.HTTPConnection("127.0.0.1", deployment.http_port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        metrics = Metrics(text)
        self.assertGreater(metrics.get("whalepod:kv_audits_total"), 0)
        self.assertEqual(metrics.get("whalepod:kv_audit_failures_total"), 0)


if __name__ == "__main__":
    unittest.main()
