"""Resumable requests of a real deployment: dropped connections, restarts, the command line, the Python
client. What kill -9 does to many of them is in kill_test.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

import grpc
from deployment import BIN, PATIENCE, SOURCE, Deployment, question
from whalepod.v1 import inference_pb2

sys.path.append(str(SOURCE / "deploy/python"))
from whalepod.client import Client, OtherDeployment  # noqa: E402

TOKENS = 200
OPTIONS = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0.6, "seed": 11}
PROMPT = question(48, 97)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ids_of(events):
    return [token.token_id for event in events for token in event.tokens.tokens]


def text_of(events):
    text = {}
    for event in events:
        for span in event.tokens.spans:
            text[span.kind] = text.get(span.kind, "") + span.text
    return text


class DropTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.deployment = Deployment("--state-dir", cls.folder.name).__enter__()
        cls.client = cls.deployment.client
        cls.expected = list(cls.client.stub.Generate(cls.client.request(PROMPT, **OPTIONS), timeout=PATIENCE))

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__()
        cls.folder.cleanup()

    def request(self, name):
        request = self.client.request(PROMPT, **OPTIONS)
        request.request_id, request.resumable = name, True
        return request

    def resume(self, name, from_token):
        return self.client.stub.ResumeGenerate(
            inference_pb2.ResumeGenerateRequest(request_id=name, from_token=from_token), timeout=PATIENCE)

    def test_a_dropped_connection_loses_and_doubles_nothing(self):
        for had in (1, 2, 63, 150):
            name, events = f"dropped-{had}", []
            call = self.client.stub.Generate(self.request(name), timeout=PATIENCE)
            for event in call:
                events.append(event)
                if len(ids_of(events)) >= had:
                    break
            call.cancel()
            rest = list(self.resume(name, len(ids_of(events))))
            self.assertEqual(ids_of(events) + ids_of(rest), ids_of(self.expected))
            self.assertEqual(text_of(events + rest), text_of(self.expected))
            self.assertEqual(rest[-1].finished.usage.completion_tokens, TOKENS)
            self.assertEqual(ids_of(self.resume(name, 0)), ids_of(self.expected))

    def test_two_readers_read_the_same(self):
        self.client.stub.Generate(self.request("twice"), timeout=PATIENCE)
        seen = [None] * 4

        def read(i):
            while True:
                try:
                    seen[i] = ids_of(self.resume("twice", 40 * i))
                    return
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND:  # it may not have come yet
                        raise
        readers = [threading.Thread(target=read, args=[i]) for i in range(len(seen))]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        for i, ids in enumerate(seen):
            self.assertEqual(ids, ids_of(self.expected)[40 * i:])

    def test_cancel_frees_everything(self):
        request = self.request("cancelled")
        request.options.max_tokens = 3000
        call = self.client.stub.Generate(request, timeout=PATIENCE)
        next(call)
        self.client.stub.CancelGenerate(
            inference_pb2.CancelGenerateRequest(request_id="cancelled"), timeout=PATIENCE)
        with self.assertRaises(grpc.RpcError) as caught:
            list(call)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.ABORTED)
        self.client.wait_status("free", lambda s: s.running == s.waiting == s.kv_blocks_used == 0)

    def test_errors(self):
        for call, code, what in (
            (self.resume("nobody", 0), grpc.StatusCode.NOT_FOUND, "nobody"),
            (self.client.stub.Generate(self.request("x y"), timeout=PATIENCE),
             grpc.StatusCode.INVALID_ARGUMENT, "request_id"),
        ):
            with self.assertRaises(grpc.RpcError) as caught:
                list(call)
            self.assertEqual(caught.exception.code(), code)
            self.assertIn(what, caught.exception.details())

    def test_the_command_line(self):
        command = [BIN / "whalepod", "generate", "--endpoint", self.client.endpoint, "--json"]
        flags = ["--max-tokens", TOKENS, "--ignore-eos", "--temperature", 0.6, "--seed", 11, "--resumable"]
        ids = ",".join(map(str, PROMPT))
        run = subprocess.run([*command, "--prompt-token-ids", ids, *map(str, flags)],
                             capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(run.returncode, 0, run.stderr)
        answer = json.loads(run.stdout)
        self.assertEqual(answer["token_ids"], ids_of(self.expected))
        again = subprocess.run([*command, "--resume", answer["request_id"]],
                               capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(json.loads(again.stdout)["token_ids"], answer["token_ids"])
        self.assertEqual(json.loads(again.stdout)["text"], answer["text"])


class Reading:
    """A thread that reads messages to their end: `enough` is set once five tokens are there, or an error."""

    def __init__(self, messages):
        self.events, self.errors, self.enough = [], [], threading.Event()
        self.thread = threading.Thread(target=self.read, args=[messages])
        self.thread.start()

    def read(self, messages):
        try:
            for event in messages:
                self.events.append(event)
                if len(ids_of(self.events)) >= 5:
                    self.enough.set()
        except grpc.RpcError as error:
            self.errors.append(error)
        self.enough.set()


class RestartTest(unittest.TestCase):
    def test_clients_go_on_when_all_of_it_is_killed(self):
        self.go_on(lambda deployment: deployment.kill())

    def test_clients_go_on_when_a_rank_is_lost(self):
        def lose_a_rank(deployment):
            os.kill(deployment.workers()[0], signal.SIGKILL)
            deployment.process.wait()
        self.go_on(lose_a_rank)

    def go_on(self, end):
        """Two clients read an answer while the deployment ends, and the rest from the one that follows it."""
        port, tokens = free_port(), 1500
        options = {**OPTIONS, "max_tokens": tokens}
        flags = ["--max-tokens", tokens, "--ignore-eos", "--temperature", 0.6, "--seed", 11]
        with tempfile.TemporaryDirectory() as folder:
            deploy = lambda: Deployment("--state-dir", folder, grpc_port=port)
            with deploy() as deployment:
                expected, _, _ = deployment.client.generate(PROMPT, **options)
                request = deployment.client.request(PROMPT, **options)
                python = Client(f"127.0.0.1:{port}")
                reading = Reading(python.generate_resumable(request, wait=PATIENCE))
                command = subprocess.Popen(
                    [BIN / "whalepod", "generate", "--endpoint", deployment.client.endpoint, "--json",
                     "--resumable", "--prompt-token-ids", ",".join(map(str, PROMPT)), *map(str, flags)],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.assertTrue(reading.enough.wait(PATIENCE))
                deployment.client.wait_status("running, both of them", lambda s: s.running == 2)
                end(deployment)
            with deploy():
                reading.thread.join(PATIENCE)
                self.assertFalse(reading.thread.is_alive() or reading.errors, reading.errors)
                self.assertEqual(ids_of(reading.events), expected)
                self.assertFalse(request.resumable, "the caller's request was changed")
                output, said = command.communicate(timeout=PATIENCE)
                self.assertEqual(command.returncode, 0, said)
                self.assertEqual(json.loads(output)["token_ids"], expected)
                python.channel.close()

    def test_a_watcher_of_a_job_goes_on_when_all_of_it_is_killed(self):
        """The item is begun anew by the next deployment; its watchers see each token once."""
        port, tokens = free_port(), 1500
        with tempfile.TemporaryDirectory() as folder:
            deploy = lambda: Deployment("--state-dir", folder, grpc_port=port)
            with deploy() as deployment:
                python = Client(f"127.0.0.1:{port}")
                job = python.submit(deployment.client.request(PROMPT, **{**OPTIONS, "max_tokens": tokens}))
                reading = Reading(python.watch_item(job.id, wait=PATIENCE))
                self.assertTrue(reading.enough.wait(PATIENCE))
                deployment.kill()
            seen = len(ids_of(reading.events))
            self.assertLess(seen, tokens)
            with deploy():
                reading.thread.join(PATIENCE)
                self.assertFalse(reading.thread.is_alive() or reading.errors, reading.errors)
                (item,) = python.results(job.id)
                choice = item.answer.choices[0]
                self.assertEqual(ids_of(reading.events), list(choice.token_ids))
                self.assertEqual("".join(s.text for e in reading.events for s in e.tokens.spans),
                                 choice.reasoning + choice.text)
                self.assertTrue(choice.text or choice.reasoning)
                self.assertEqual(len(ids_of(reading.events)), tokens)
                python.channel.close()

    def test_a_watcher_does_not_go_on_with_another_answer(self):
        """The next deployment computes in another precision."""
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            with Deployment("--state-dir", folder, grpc_port=port) as deployment:
                python = Client(f"127.0.0.1:{port}")
                job = python.submit(deployment.client.request(PROMPT, **{**OPTIONS, "max_tokens": 3000}))
                messages = python.watch_item(job.id, wait=PATIENCE)
                seen = ids_of([next(messages), next(messages)])
                self.assertTrue(seen)
                command = subprocess.Popen(
                    [BIN / "whalepod", "jobs", "watch", job.id, "--item", "0", "--endpoint",
                     deployment.client.endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.assertTrue(command.stdout.read(1))
                deployment.kill()
            with Deployment("--state-dir", folder, "--dtype", "float32", grpc_port=port):
                with self.assertRaises(OtherDeployment):
                    list(messages)
                said = command.communicate(timeout=PATIENCE)[1]
                self.assertNotEqual(command.returncode, 0)
                self.assertIn("FAILED_PRECONDITION: the deployment has another model", said)
                python.channel.close()

    def test_without_a_folder_it_is_refused(self):
        with Deployment() as deployment:
            request = deployment.client.request(PROMPT, **OPTIONS)
            request.resumable = True
            with self.assertRaises(grpc.RpcError) as caught:
                list(deployment.client.stub.Generate(request, timeout=PATIENCE))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
            self.assertIn("--state-dir", caught.exception.details())

    def test_more_than_are_kept_are_refused(self):
        with tempfile.TemporaryDirectory() as folder, Deployment(
                "--state-dir", folder, "--max-resumable", "1") as deployment:
            request = deployment.client.request(PROMPT, max_tokens=2)
            request.resumable = True
            list(deployment.client.stub.Generate(request, timeout=PATIENCE))
            with self.assertRaises(grpc.RpcError) as caught:
                list(deployment.client.stub.Generate(request, timeout=PATIENCE))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn("--max-resumable", caught.exception.details())


if __name__ == "__main__":
    unittest.main()
