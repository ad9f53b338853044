"""Starts and watches real Whalepod processes for tests."""

import json
import os
import pathlib
import re
import selectors
import signal
import subprocess
import threading
import time

import grpc
from whalepod.v1 import inference_pb2, inference_pb2_grpc

BUILD = pathlib.Path(os.environ["WHALEPOD_BUILD"])
SOURCE = pathlib.Path(os.environ["WHALEPOD_SOURCE"])
BIN = BUILD / "bin"
R1_DRAFT = SOURCE / "deploy/models/r1-draft"
SHARED = SOURCE / "../shared"
# Generous: the machine may be busy. Nothing waits this long unless something is wrong.
PATIENCE = 60


def shared_memory():
    """Names in /dev/shm and abstract sockets that could be ours."""
    return sorted(n for n in os.listdir("/dev/shm") if "whalepod" in n)


class Process:
    """A child whose output is kept, and can be waited for line by line."""

    def __init__(self, args, prefix=(), env=None):
        self.child = subprocess.Popen(
            [*prefix, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.lines = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self):
        return self.child.pid

    def _read(self):
        for line in self.child.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self.lines.append(None)
            self._changed.notify_all()

    def text(self):
        with self._changed:
            return "\n".join(line for line in self.lines if line is not None)

    def wait_line(self, pattern, seconds=PATIENCE):
        """The match of the first line that `pattern` is found in."""
        deadline = time.monotonic() + seconds
        seen = 0
        with self._changed:
            while True:
                while seen < len(self.lines):
                    if self.lines[seen] is None:
                        raise AssertionError(f"ended without {pattern!r}:\n" + self._text_locked())
                    found = re.search(pattern, self.lines[seen])
                    if found:
                        return found
                    seen += 1
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise AssertionError(f"no {pattern!r} in {seconds} s:\n" + self._text_locked())

    def _text_locked(self):
        return "\n".join(line for line in self.lines if line is not None)

    def wait(self, seconds=PATIENCE):
        """The exit status; fails if the process is still there after `seconds`."""
        try:
            status = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n" + self.text()) from None
        self._reader.join(PATIENCE)
        return status

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.kill()
        self.child.wait()
        self._reader.join(PATIENCE)
        self.child.stdout.close()


class Client:
    """A grpcio client of one deployment."""

    def __init__(self, port, host="127.0.0.1"):
        self.endpoint = f"{host}:{port}"
        self.channel = grpc.insecure_channel(self.endpoint)
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)

    def close(self):
        self.channel.close()

    def request(self, ids, **options):
        request = inference_pb2.GenerateRequest(
            token_ids=inference_pb2.TokenIds(ids=ids),
            options=inference_pb2.GenerationOptions(**options),
        )
        return request

    def generate(self, ids, timeout=PATIENCE, **options):
        """(token ids, logprobs, finish reason) of one request run to its end."""
        tokens, finished = [], None
        for event in self.stub.Generate(self.request(ids, **options), timeout=timeout):
            tokens += event.tokens.tokens
            if event.HasField("finished"):
                finished = event.finished
        return [t.token_id for t in tokens], [t.logprob for t in tokens], finished

    def status(self):
        return self.stub.GetStatus(inference_pb2.GetStatusRequest(), timeout=PATIENCE)

    def wait_status(self, what, condition, seconds=PATIENCE):
        """Polls GetStatus until `condition` holds of it."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status()
            if condition(status):
                return status
            if time.monotonic() > deadline:
                raise AssertionError(f"not {what} in {seconds} s: {status}")
            selectors.DefaultSelector().select(0.02)


class Deployment:
    """`whalepod serve` with its workers; a context manager that leaves nothing behind."""

    # On a busy machine a worker may not be run for a second; tests that are about silence say how much is too much.
    PATIENT = {"WHALEPOD_HEARTBEAT_TIMEOUT": "10"}

    def __init__(self, *flags, model=R1_DRAFT, env=None, grpc_port=0):
        self.process = Process(
            [BIN / "whalepod", "serve", model, "--port", 0, "--grpc-port", grpc_port, "--control-port", 0,
             *flags],
            env={**self.PATIENT, **(env or {})},
        )
        self.client = self.http_port = None

    def __enter__(self):
        try:
            found = self.process.wait_line(r"ready.*HTTP on 127\.0\.0\.1:(\d+), clients on 127\.0\.0\.1:(\d+)")
        except BaseException:
            self.process.stop()
            raise
        self.http_port = int(found.group(1))
        self.client = Client(int(found.group(2)))
        return self

    def __exit__(self, *_):
        self.client.close()
        if self.process.child.poll() is None:
            self.process.child.send_signal(signal.SIGTERM)
            try:
                self.process.wait()
            except AssertionError:
                self.process.stop()
                raise
        self.process.stop()

    def kill(self):
        """SIGKILL for all of it, as when a machine dies."""
        for pid in [self.process.pid, *self.workers().values()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def workers(self):
        return {rank.rank: rank.pid for rank in self.client.status().ranks}


def goldens():
    """r1-draft's transcripts, or None where there is no reference data."""
    path = SHARED / "data/r1-draft/golden.json"
    return json.loads(path.read_text()) if path.exists() else None


# Questions of the kind r1-draft answers, as token ids (its chat template around "What is a plus b?").
def question(a, b):
    digits = lambda n: [18 + int(c) for c in str(n)]
    return [0, 494, 340, 280, 223, *digits(a), 393, 223, *digits(b), 33, 495, 489, 201]
