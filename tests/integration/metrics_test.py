"""What a running deployment tells of itself: /metrics, counted exactly."""

import http.client
import json
import time
import unittest

import grpc
from deployment import PATIENCE, R1_DRAFT, Deployment, question
from prometheus_text import Metrics

RANKS = 2


class ParserTest(unittest.TestCase):
    """The parser refuses what is not the format, else the tests below would prove little."""

    GOOD = ('# HELP a_total Things.\n# TYPE a_total counter\na_total{m="x\\"y"} 3\n'
            '# HELP h Sizes.\n# TYPE h histogram\nh_count{m="x"} 2\nh_sum{m="x"} 2.5\n'
            'h_bucket{m="x",le="1"} 1\nh_bucket{m="x",le="+Inf"} 2\n')

    def test_reads_what_is_right(self):
        metrics = Metrics(self.GOOD)
        self.assertEqual(metrics.get("a_total", m='x"y'), 3)
        self.assertEqual(metrics.get("h_bucket", le="1"), 1)
        self.assertEqual(metrics.kinds, {"a_total": "counter", "h": "histogram"})

    def test_refuses_what_is_wrong(self):
        for old, new in [
            ("a_total{m", "b_total{m"), ("} 3\n", "} three\n"), ("} 3\n", "} 3"), ('le="1"} 1', 'le="1"} 5'),
            ("h_count{m=\"x\"} 2", "h_count{m=\"x\"} 3"), ('x\\"y', 'x"y'), ("# TYPE h histogram\n", ""),
            ('h_bucket{m="x",le="+Inf"} 2\n', ""), ("h_sum", "h_total"), ("# TYPE a_total counter", "# TYPE b counter"),
            ('a_total{m="x\\"y"} 3\n', 'a_total{m="x\\"y"} 3\n' * 2), ("Things.", "Things.\n"),
        ]:
            self.assertIn(old, self.GOOD)
            with self.assertRaises(ValueError, msg=(old, new)):
                Metrics(self.GOOD.replace(old, new, 1))


class MetricsTest(unittest.TestCase):
    def setUp(self):
        self.deployment = Deployment("--tp", RANKS, "--ep", RANKS).__enter__()
        self.addCleanup(self.deployment.__exit__)
        self.client = self.deployment.client

    def send(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.deployment.http_port, timeout=PATIENCE)
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response, text

    def scrape(self):
        response, text = self.send("GET", "/metrics")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        return Metrics(text)

    def settled(self):
        """A scrape when nothing runs and every step sent has been answered."""
        deadline = time.monotonic() + PATIENCE
        while True:
            metrics = self.scrape()
            computed = metrics.get("whalepod:prefill_tokens_total") + metrics.get("whalepod:decode_tokens_total")
            if (metrics.get("vllm:num_requests_running") == metrics.get("vllm:num_requests_waiting") == 0
                    and metrics.get("vllm:iteration_tokens_total_sum") == computed):
                return metrics
            self.assertLess(time.monotonic(), deadline, "steps do not settle")
            time.sleep(0.02)  # between polls

    def refused(self, code, **options):
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.generate([0], **options)
        self.assertEqual(caught.exception.code(), code)

    def test_counts_what_happened(self):
        before = self.settled()
        for name, kind in before.kinds.items():
            for labels in before.labels_of(name):
                self.assertEqual(labels["model_name"], R1_DRAFT.name, name)
            if kind == "counter" and not name.startswith(("whalepod:steps", "whalepod:http")):
                self.assertEqual(before.get(name), 0, name)

        ids = question(12, 7)
        tokens, _, finished = self.client.generate(ids, temperature=0)
        self.assertEqual(finished.usage.completion_tokens, len(tokens))
        self.client.generate(ids, n=3, max_tokens=5, ignore_eos=True, seed=1)
        response, text = self.send("POST", "/v1/chat/completions", {
            "messages": [{"role": "user", "content": "What is 12 plus 7?"}], "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}})
        self.assertEqual(response.status, 200, text)
        usage = json.loads(text.split("data: ")[-2])["usage"]
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, temperature=2.5)
        self.refused(grpc.StatusCode.INVALID_ARGUMENT, max_tokens=0)
        self.assertEqual(self.send("POST", "/v1/completions", {"prompt": [0], "temperature": 7})[0].status, 400)
        self.assertEqual(self.send("POST", "/v1/completions", {"prompt": True})[0].status, 400)
        self.assertEqual(self.send("GET", "/no/such/page")[0].status, 404)
        self.assertEqual(self.send("GET", "/v1/models/unknown")[0].status, 404)

        metrics = self.settled()
        sequences = 1 + 3 + 1
        generated = len(tokens) + 3 * 5 + usage["completion_tokens"]
        prompts = 4 * len(ids) + usage["prompt_tokens"]
        for name, expected in {
            "vllm:generation_tokens_total": generated,
            "vllm:prompt_tokens_total": prompts,
            "vllm:request_generation_tokens_sum": generated,
            "vllm:request_prompt_tokens_sum": prompts,
            "vllm:time_to_first_token_seconds_count": sequences,
            "vllm:inter_token_latency_seconds_count": generated - sequences,
            "vllm:request_time_per_output_token_seconds_count": sequences,
            "vllm:e2e_request_latency_seconds_count": sequences,
            "vllm:request_queue_time_seconds_count": sequences,
            "vllm:request_prefill_time_seconds_count": sequences,
            "vllm:request_decode_time_seconds_count": sequences,
            "vllm:request_inference_time_seconds_count": sequences,
            "vllm:request_params_n_sum": sequences,
            "vllm:request_params_n_count": 3,
            "vllm:kv_cache_usage_perc": 0,
            "whalepod:ranks_ready": RANKS,
            "whalepod:ranks": RANKS,
        }.items():
            self.assertEqual(metrics.get(name), expected, name)
        for name, labels, expected in [
            ("vllm:request_success_total", dict(finished_reason="stop"), 2),
            ("vllm:request_success_total", dict(finished_reason="length"), 3),
            ("vllm:request_success_total", dict(finished_reason="abort"), 0),
            ("whalepod:requests_total", dict(transport="grpc", outcome="finished"), 2),
            ("whalepod:requests_total", dict(transport="grpc", outcome="rejected"), 2),
            ("whalepod:requests_total", dict(transport="http", outcome="finished"), 1),
            ("whalepod:requests_total", dict(transport="http", outcome="rejected"), 2),
            ("whalepod:requests_total", {}, 7),
            ("whalepod:requests_rejected_total", dict(reason="OUT_OF_RANGE"), 3),
            ("whalepod:requests_rejected_total", {}, 4),
            ("whalepod:http_responses_total", dict(route="/v1/chat/completions", code="200"), 1),
            ("whalepod:http_responses_total", dict(route="/v1/completions", code="400"), 2),
            ("whalepod:http_responses_total", dict(route="other", code="404"), 1),
            ("whalepod:http_responses_total", dict(route="/v1/models/{id}", code="404"), 1),
            ("whalepod:deployment_state", dict(state="ready"), 1),
            ("whalepod:deployment_state", {}, 1),
        ]:
            self.assertEqual(metrics.get(name, **labels), expected, (name, labels))
        # Times add up: from arrival, over the first run and the first token, to the end.
        total = {part: metrics.get(f"vllm:{part}_seconds_sum") for part in (
            "time_to_first_token", "request_queue_time", "request_prefill_time", "request_decode_time",
            "request_inference_time", "inter_token_latency", "e2e_request_latency")}
        almost = lambda a, b: self.assertAlmostEqual(a, b, delta=1e-3, msg=total)
        almost(total["time_to_first_token"], total["request_queue_time"] + total["request_prefill_time"])
        almost(total["request_decode_time"], total["inter_token_latency"])
        almost(total["request_inference_time"], total["request_prefill_time"] + total["request_decode_time"])
        self.assertGreaterEqual(total["e2e_request_latency"],
                                total["time_to_first_token"] + total["request_decode_time"])

        steps = metrics.get("whalepod:steps_total", kind="work")
        self.assertGreaterEqual(steps, max(len(tokens), usage["completion_tokens"]))
        self.assertEqual(metrics.get("vllm:iteration_tokens_total_count"), steps)
        self.assertEqual(metrics.get("whalepod:step_duration_seconds_count"), steps)
        for rank in range(RANKS):
            self.assertEqual(metrics.get("whalepod:rank_step_seconds_count", rank=str(rank)), steps)
            busy = metrics.get("whalepod:rank_step_seconds_sum", rank=str(rank))
            self.assertGreater(busy, 0)
            self.assertLess(busy, metrics.get("whalepod:step_duration_seconds_sum"))
            self.assertLess(metrics.get("whalepod:rank_heartbeat_age_seconds", rank=str(rank)), PATIENCE)
        self.check_a_cancelled_request(metrics)

    def test_expert_load(self):
        """Every mixture-of-experts layer has one, between even and all on one expert."""
        config = json.loads((R1_DRAFT / "config.json").read_text())
        self.client.generate(question(12, 7), max_tokens=150, ignore_eos=True)
        metrics = self.scrape()
        name = "whalepod:expert_load_max_over_mean"
        layers = sorted(int(labels["layer"]) for labels in metrics.labels_of(name))
        self.assertEqual(layers, list(range(config["first_k_dense_replace"], config["num_hidden_layers"])))
        for layer in layers:
            load = metrics.get(name, layer=str(layer))
            self.assertGreaterEqual(load, 1)
            self.assertLessEqual(load, config["n_routed_experts"] / config["num_experts_per_tok"])

    def check_a_cancelled_request(self, before):
        call = self.client.stub.Generate(
            self.client.request(question(1, 2), max_tokens=4000, ignore_eos=True))
        next(call), next(call)  # started, and a token
        running = self.scrape()
        self.assertEqual(running.get("vllm:num_requests_running"), 1)
        self.assertGreater(running.get("vllm:kv_cache_usage_perc"), 0)
        call.cancel()
        after = self.settled()
        change = lambda name, **labels: after.get(name, **labels) - before.get(name, **labels)
        self.assertEqual(change("whalepod:requests_total"), 1)
        self.assertEqual(change("whalepod:requests_total", transport="grpc", outcome="cancelled"), 1)
        self.assertEqual(change("vllm:request_success_total", finished_reason="abort"), 1)
        self.assertEqual(change("vllm:request_success_total"), 1)
        self.assertEqual(change("vllm:time_to_first_token_seconds_count"), 1)
        self.assertEqual(change("vllm:e2e_request_latency_seconds_count"), 0)
        self.assertIn(change("vllm:generation_tokens_total"), range(1, 4000))
        self.assertEqual(after.get("vllm:kv_cache_usage_perc"), 0)


if __name__ == "__main__":
    unittest.main()
