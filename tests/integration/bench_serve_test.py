"""`whalepod bench serve` on a real deployment, over gRPC and over HTTP."""

import http.server
import itertools
import json
import pathlib
import subprocess
import tempfile
import threading
import unittest
import xml.etree.ElementTree

from deployment import BIN, PATIENCE, Deployment, Process, question

SMALL = ["--random-input-len", 24, "--random-output-len", 12, "--ignore-eos"]


class OtherServer(http.server.ThreadingHTTPServer):
    """A server of somebody else: not ready at first, without usage, one stream cut short, one full queue."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), OtherHandler)
        self.health_asked = itertools.count()
        self.requests = itertools.count()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class OtherHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, text, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        if self.path == "/api/health" and next(self.server.health_asked) < 3:
            self.answer(503, "{}")
        elif self.path == "/api/v1/models":
            self.answer(200, '{"data": [{"id": "first"}, {"id": "second"}]}')
        else:
            self.answer(200 if self.path == "/api/health" else 404, "")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = next(self.server.requests)
        right = self.path == "/api/v1/completions" and body["model"] == "first" and len(body["prompt"]) == 24
        if not right or number == 0:
            return self.answer(429 if right else 400, '{"error": {"message": "the queue is full"}}')
        chunk = 'data: {"choices": [{"text": "a"}]}\n\n'
        self.answer(200, chunk * 3 + ("" if number == 1 else "data: [DONE]\n\n"), "text/event-stream")


class OtherServersTest(unittest.TestCase):
    def test_counts_chunks_and_failures(self):
        with OtherServer() as server, tempfile.TemporaryDirectory() as folder:
            saved = pathlib.Path(folder) / "result.json"
            run = subprocess.run(
                [str(x) for x in [BIN / "whalepod", "bench", "serve", "--num-prompts", 6, "--max-concurrency", 1,
                                  "--base-url", f"http://127.0.0.1:{server.server_port}/api/", *SMALL,
                                  "--save-result", saved]],
                capture_output=True, text=True, timeout=PATIENCE)
            server.shutdown()
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            figures = json.loads(saved.read_text())
            self.assertEqual(figures["failures"], {"HTTP 429": 1, "UNAVAILABLE": 1})
            self.assertIn("the queue is full", run.stdout)
            self.assertEqual((figures["completed"], figures["total_output_tokens"]), (4, 12))
            self.assertEqual(figures["output_tokens_counted_by"], "chunks")
            self.assertEqual(figures["total_input_tokens"], 4 * 24)


class BenchServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.deployment = Deployment("--tp", 2, "--ep", 2, "--api-key", "bench:secret",
                                    env={"WHALEPOD_API_KEY": ""}).__enter__()
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()
        cls.deployment.__exit__()

    @staticmethod
    def command(deployment, over, *flags, key="secret"):
        where = {"grpc": ["--endpoint", deployment.client.endpoint],
                 "http": ["--base-url", f"http://127.0.0.1:{deployment.http_port}"]}[over]
        return [str(x) for x in [BIN / "whalepod", "bench", "serve", *where, "--api-key", key, *flags]]

    def bench(self, over, *flags, status=0, key="secret"):
        """(the saved figures, standard output, standard error)."""
        saved = self.folder / "result.json"
        saved.unlink(missing_ok=True)
        run = subprocess.run(self.command(self.deployment, over, "--save-result", saved, *flags, key=key),
                             capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(run.returncode, status, run.stdout + run.stderr)
        return json.loads(saved.read_text()) if saved.exists() else None, run.stdout, run.stderr

    def test_grpc_and_http_count_the_same(self):
        load = ["--num-prompts", 30, "--max-concurrency", 5, "--warmup", 3, "--random-range-ratio", 0.5, "--seed", 7,
                "--random-prefix-len", 8, "--random-vocab-size", 256, *SMALL]
        grpc, table, _ = self.bench("grpc", *load)
        http, _, _ = self.bench("http", *load)
        for figures in (grpc, http):
            self.assertEqual((figures["completed"], figures["failed"], figures["failures"]), (30, 0, {}))
            self.assertEqual(figures["output_tokens_counted_by"], "server")
            self.assertLessEqual(figures["peak_concurrent_requests"], 5)
            self.assertGreater(figures["client_cpu_us_per_output_token"], 0)
            self.assertLessEqual(figures["median_ttft_ms"], figures["median_e2el_ms"])
            self.assertLessEqual(figures["p90_itl_ms"], figures["p99_itl_ms"])
            self.assertAlmostEqual(figures["output_throughput"],
                                   figures["total_output_tokens"] / figures["duration"])
        self.assertEqual(grpc["total_input_tokens"], http["total_input_tokens"])
        self.assertEqual(grpc["total_output_tokens"], http["total_output_tokens"])
        self.assertTrue(30 * (8 + 12) <= grpc["total_input_tokens"] <= 30 * (8 + 36))
        self.assertTrue(30 * 6 <= grpc["total_output_tokens"] <= 30 * 18)
        self.assertRegex(table, r"Successful requests: +30\n")

    def test_lengths_are_exact_without_a_range(self):
        for over in ("grpc", "http"):
            figures, _, _ = self.bench(over, "--num-prompts", 10, "--request-rate", 50, *SMALL)
            self.assertEqual(figures["total_input_tokens"], 240)
            self.assertEqual(figures["total_output_tokens"], 120)
            self.assertGreaterEqual(figures["duration"], 10 / 50)

    def test_goodput_of_all_and_of_none(self):
        load = ["--num-prompts", 10, *SMALL]
        every, _, _ = self.bench("grpc", *load, "--goodput", "ttft:1000000", "tpot:1000000", "e2el:1000000")
        self.assertEqual(every["good_completed"], 10)
        self.assertAlmostEqual(every["request_goodput"], every["request_throughput"])
        none, _, _ = self.bench("http", *load, "--goodput", "ttft:1000000", "e2el:0")
        self.assertEqual((none["good_completed"], none["request_goodput"]), (0, 0))

    def test_prompts_of_a_file(self):
        path = self.folder / "prompts.jsonl"
        ids = question(12, 30)
        path.write_text(json.dumps({"messages": [{"role": "user", "content": "What is 12 plus 30?"}]}) + "\n" +
                        json.dumps({"prompt_token_ids": ids}) + "\n" + json.dumps({"prompt": "12+30"}) + "\n")
        load = ["--dataset-name", "file", "--dataset-path", path, "--num-prompts", 7, "--custom-output-len", 200]
        grpc, _, _ = self.bench("grpc", *load)
        http, _, _ = self.bench("http", *load)
        self.assertEqual((grpc["completed"], http["completed"]), (7, 7))
        self.assertEqual(grpc["total_input_tokens"], http["total_input_tokens"])
        self.assertEqual(grpc["total_output_tokens"], http["total_output_tokens"])
        path.write_text("{\n")
        _, _, error = self.bench("grpc", *load, status=1)
        self.assertIn(f"{path}:1", error)

    def test_html_stands_alone(self):
        page = self.folder / "report.html"
        self.bench("grpc", "--num-prompts", 20, "--max-concurrency", 4, *SMALL, "--html", page)
        text = page.read_text()
        doctype, _, rest = text.partition("\n")
        self.assertEqual(doctype, "<!DOCTYPE html>")
        root = xml.etree.ElementTree.fromstring(rest)
        self.assertEqual(len(root.findall(".//svg")), 5)
        self.assertGreaterEqual(len(root.findall(".//polyline")), 6)
        for element in root.iter():
            self.assertNotIn(element.tag, {"script", "link", "img", "iframe", "object", "base"})
            self.assertFalse({"src", "href", "data", "srcset"} & set(element.attrib), element.attrib)
        self.assertNotIn("@import", text)
        self.assertNotIn("url(", text)

    def test_refusals_are_failures_by_status(self):
        # Ids that the model lacks.
        for over, name in (("grpc", "INVALID_ARGUMENT"), ("http", "HTTP 400")):
            figures, table, _ = self.bench(over, "--num-prompts", 6, "--random-vocab-size", 1000000, *SMALL, status=1)
            self.assertEqual((figures["completed"], figures["failures"]), (0, {name: 6}))
            self.assertIn(name, table)

    def test_waits_until_the_server_is_healthy(self):
        asked = []

        class Loading(http.server.BaseHTTPRequestHandler):
            def reply(self, status, kind, body):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                asked.append(self.path)
                if self.path == "/health":
                    self.reply(503 if asked.count("/health") < 3 else 200, "text/plain", b"")
                else:
                    self.reply(200, "application/json", b'{"data": [{"id": "some"}]}')

            def do_POST(self):
                asked.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                self.reply(200, "text/event-stream", b'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n')

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Loading) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            run = subprocess.run([str(BIN / "whalepod"), "bench", "serve", "--num-prompts", "1", "--base-url",
                                  f"http://127.0.0.1:{server.server_port}"], capture_output=True, text=True,
                                 timeout=PATIENCE)
            server.shutdown()
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertEqual(asked, ["/health"] * 3 + ["/v1/models", "/v1/completions"])
        self.assertIn("counted by chunks", run.stdout)

    def test_bad_flags_are_named(self):
        for flags, name in [(["--request-rate", "0"], "--request-rate"), (["--request-rate", "fast"], "--request-rate"),
                            (["--burstiness", "0"], "--burstiness"), (["--random-range-ratio", "1"], "ratio"),
                            (["--metric-percentiles", "50,101"], "--metric-percentiles"),
                            (["--goodput", "itl:3"], "itl:3"), (["--dataset-name", "file"], "--dataset-path"),
                            (["--base-url", "https://example"], "https://example")]:
            with self.subTest(flags=flags):
                run = subprocess.run([str(BIN / "whalepod"), "bench", "serve", *flags], capture_output=True,
                                     text=True, timeout=PATIENCE)
                self.assertEqual(run.returncode, 1)
                self.assertIn(name, run.stderr)
        _, _, error = self.bench("http", "--num-prompts", 1, status=1, key="wrong")
        self.assertIn("UNAUTHENTICATED", error)

    def test_a_server_that_dies_is_failures(self):
        for over in ("grpc", "http"):
            with self.subTest(over=over), Deployment("--tp", 2, "--ep", 2) as deployment:
                saved = self.folder / f"{over}.json"
                bench = Process(self.command(deployment, over, "--num-prompts", 12, "--max-concurrency", 4,
                                             "--random-input-len", 16, "--random-output-len", 100000,
                                             "--ignore-eos", "--save-result", saved))
                try:
                    deployment.client.wait_status("running", lambda status: status.running == 4)
                    deployment.process.child.kill()
                    self.assertEqual(bench.wait(), 1, bench.text())
                    figures = json.loads(saved.read_text())
                    self.assertEqual((figures["completed"], figures["failures"]), (0, {"UNAVAILABLE": 12}))
                finally:
                    bench.stop()


if __name__ == "__main__":
    unittest.main()
