"""A rank that dies, stops or loses its connection in any phase: all others and the coordinator say
which, in time, and exit; nothing is left."""

import os
import pathlib
import re
import signal
import time
import unittest

import grpc
from deployment import BIN, BUILD, R1_DRAFT, Client, Deployment, Process, question, shared_memory

FAULTS = ("kill", "stop", "close")
PHASES = ("planned", "loaded", "connected", "warmed", "step")
VICTIM = 1
# Death is noticed within 1.5 s of silence; the rest is a busy machine and processes that exit.
SECONDS_TO_NOTICE = 10


class Fleet:
    """A coordinator and two workers, the second of which breaks."""

    def __init__(self, fault, phase):
        self.coordinator = Process([BIN / "whalepod-coordinator", R1_DRAFT, "--tp", 2, "--port", 0, "--grpc-port", 0,
                                    "--control-port", 0])
        self.workers = []
        ports = self.coordinator.wait_line(r"clients on port (\d+), workers on port (\d+)")
        self.client_port = int(ports.group(1))
        address = f"127.0.0.1:{ports.group(2)}"
        for rank in range(2):
            broken = fault if rank == VICTIM else "none"
            self.workers.append(Process([BUILD / "tests/fault_worker", address, rank, "here", broken, phase]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in [*self.workers, self.coordinator]:
            process.stop()


class FaultsTest(unittest.TestCase):
    def check(self, fault, phase):
        before = shared_memory()
        with Fleet(fault, phase) as fleet:
            started = time.monotonic()
            status = fleet.coordinator.wait()
            said = fleet.coordinator.text()
            self.assertNotEqual(status, 0, said)
            self.assertRegex(said, rf"rank {VICTIM}\b", said)
            survivor = fleet.workers[1 - VICTIM]
            self.assertIn(survivor.wait(), (3, 4), survivor.text())
            self.assertRegex(survivor.text(), rf"rank {VICTIM}\b|ended|lost", survivor.text())
            self.assertLess(time.monotonic() - started, SECONDS_TO_NOTICE + 20)
        self.assertEqual(shared_memory(), before)


def add_test(fault, phase):
    setattr(FaultsTest, f"test_{fault}_{phase}", lambda self: self.check(fault, phase))


for fault_name in FAULTS:
    for phase_name in PHASES:
        add_test(fault_name, phase_name)


class ServingFaultsTest(unittest.TestCase):
    """The same seen by clients, and by who started `whalepod serve`."""

    def test_a_killed_worker_ends_streams_and_the_deployment_by_name(self):
        with Deployment("--tp", 2) as deployment:
            workers = deployment.workers()
            call = deployment.client.stub.Generate(
                deployment.client.request(question(3, 4), max_tokens=4000, ignore_eos=True))
            next(call), next(call)
            os.kill(workers[1], signal.SIGKILL)
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in call:
                    pass
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertRegex(caught.exception.details(), r"rank 1\b")
            self.assertNotEqual(deployment.process.wait(), 0)
            self.assertRegex(deployment.process.text(), r"rank 1\b")
            for pid in workers.values():
                self.assertFalse(os.path.exists(f"/proc/{pid}"), f"worker {pid} is left")

    def test_an_interrupted_serve_leaves_nothing(self):
        with Deployment("--tp", 2) as deployment:
            workers = deployment.workers()
            deployment.process.child.send_signal(signal.SIGINT)
            self.assertEqual(deployment.process.wait(), 0, deployment.process.text())
        for pid in workers.values():
            self.assertFalse(os.path.exists(f"/proc/{pid}"), f"worker {pid} is left")
        self.assertEqual(shared_memory(), [])

    def test_a_killed_coordinator_takes_its_workers_along(self):
        with Deployment("--tp", 2) as deployment:
            workers = deployment.workers()
            deployment.process.child.kill()
            deployment.process.wait()
            deadline = time.monotonic() + SECONDS_TO_NOTICE
            left = set(workers.values())
            while left and time.monotonic() < deadline:
                left = {pid for pid in left if running(pid)}
            self.assertFalse(left)

    def test_a_missing_worker_is_named_when_its_phase_ends(self):
        coordinator = Process([BIN / "whalepod-coordinator", R1_DRAFT, "--tp", 2, "--port", 0, "--grpc-port", 0,
                               "--control-port", 0, "--join-timeout", 1])
        try:
            self.assertNotEqual(coordinator.wait(), 0)
            self.assertRegex(coordinator.text(), r"rank.*0.*1")
        finally:
            coordinator.stop()

    def test_a_port_in_use_is_an_error(self):
        with Deployment() as deployment:
            port = deployment.process.wait_line(r"ready.*clients on 127\.0\.0\.1:(\d+)").group(1)
            second = Process([BIN / "whalepod", "serve", R1_DRAFT, "--port", 0, "--grpc-port", port, "--control-port", 0])
            try:
                self.assertNotEqual(second.wait(), 0)
                self.assertIn(port, second.text())
            finally:
                second.stop()


def running(pid):
    """False for a process that is gone, or dead and not yet reaped."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
        state = re.search(r"^State:\s+(\w)", text, re.M).group(1)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


if __name__ == "__main__":
    unittest.main()
