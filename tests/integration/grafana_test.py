"""The dashboard asks for what /metrics of a running deployment has: names, labels and kinds."""

import json
import re
import unittest
import urllib.request

import grpc
from deployment import PATIENCE, SOURCE, Deployment, question
from prometheus_text import NAME, Metrics

DASHBOARD = SOURCE / "deploy/grafana/whalepod.json"
FUNCTIONS = {"sum", "rate", "histogram_quantile", "clamp_min"}
SELECTOR = re.compile(r'\s*([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*"[^"]*"\s*')


def problems(expression, metrics):
    """What is wrong with a PromQL expression over the series of `metrics`; empty: nothing."""
    found, series = [], {}
    grouped = []

    def take_group(match):
        grouped.extend(label.strip() for label in match.group(1).split(","))
        return " "

    rest = re.sub(r"\bby\s*\(([^)]*)\)", take_group, expression.replace("$__rate_interval", "1m"))
    rated = {match.group(1) for match in re.finditer(rf"\brate\(({NAME})", rest)}
    for match in re.finditer(rf"({NAME})(?:\{{([^}}]*)\}})?(\[\w+\])?", re.sub(r"\b\d[\w.-]*", "", rest)):
        name, selector = match.group(1), match.group(2)
        if name in FUNCTIONS and selector is None:
            continue
        series[name] = set().union(*metrics.labels_of(name)) if metrics.has(name) else set()
        if not metrics.has(name):
            found.append(f"no metric {name}")
            continue
        for one in (selector or "").split(","):
            label = SELECTOR.fullmatch(one)
            if label is None or label.group(1) not in series[name]:
                found.append(f"{name} has no label {one}")
        if 'model_name="$model_name"' not in (selector or ""):
            found.append(f"{name} of any model")
        kind = metrics.kinds.get(name, "counter")  # a histogram's series are counters
        if (kind == "counter") != (name in rated):
            found.append(f"{name} is a {kind}: rate() is for counters, and they need it")
    for label in grouped:
        if not any(label in labels for labels in series.values()):
            found.append(f"by ({label}): no metric has it")
    if "histogram_quantile" in expression and "le" not in grouped:
        found.append("a quantile without le")
    return found if series else ["no metric"]


class GrafanaTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """One of everything that a labelled metric waits for."""
        with Deployment("--tp", 2, "--ep", 2) as deployment:
            # More than the 64 steps after which expert load is told.
            deployment.client.generate(question(12, 7), max_tokens=150, ignore_eos=True)
            try:
                deployment.client.generate([0], temperature=3)
            except grpc.RpcError:
                pass
            url = f"http://127.0.0.1:{deployment.http_port}"
            urllib.request.urlopen(url + "/health", timeout=PATIENCE).close()
            with urllib.request.urlopen(url + "/metrics", timeout=PATIENCE) as response:
                cls.metrics = Metrics(response.read().decode())
        cls.dashboard = json.loads(DASHBOARD.read_text())
        cls.expressions = [target["expr"] for panel in cls.dashboard["panels"] for target in panel["targets"]]

    def test_every_query(self):
        for panel in self.dashboard["panels"]:
            self.assertTrue(panel["targets"], panel["title"])
            for target in panel["targets"]:
                self.assertEqual(problems(target["expr"], self.metrics), [], (panel["title"], target["expr"]))
                used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                labels = re.findall(r"\bby\s*\(([^)]*)\)", target["expr"])
                name = re.search(r"(?:vllm|whalepod):\w+", target["expr"]).group()
                there = {label.strip() for label in labels[0].split(",")} if labels else set().union(
                    *self.metrics.labels_of(name))
                self.assertLessEqual(used, there, (panel["title"], target["legendFormat"]))

    def test_model_variable(self):
        (variable,) = [v for v in self.dashboard["templating"]["list"] if v["name"] == "model_name"]
        name, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", variable["query"]["query"]).groups()
        self.assertEqual({labels[label] for labels in self.metrics.labels_of(name)}, {"r1-draft"})

    def test_the_panels_that_operators_need(self):
        text = "\n".join(self.expressions)
        for name in ("requests_total", "num_requests_waiting", "time_to_first_token_seconds_bucket",
                     "inter_token_latency_seconds_bucket", "e2e_request_latency_seconds_bucket",
                     "generation_tokens_total", "kv_cache_usage_perc", "prefix_cache_hits_total",
                     "num_preemptions_total", "rank_step_seconds_sum", "expert_load_max_over_mean",
                     "requests_rejected_total", "http_responses_total"):
            self.assertIn(name, text)
        ids = [panel["id"] for panel in self.dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))

    def test_the_check_finds_what_is_wrong(self):
        model = '{model_name="$model_name"}'
        right = f"sum by (outcome) (rate(whalepod:requests_total{model}[$__rate_interval]))"
        self.assertEqual(problems(right, self.metrics), [])
        for wrong in [
            right.replace("requests_total", "request_total"), right.replace("by (outcome)", "by (reason)"),
            right.replace("model_name=", "model="), right.replace("rate(", "(").replace("[$__rate_interval]", ""),
            right.replace("sum", "summ"), right.replace(model, ""), f"rate(vllm:kv_cache_usage_perc{model}[1m])",
            f"histogram_quantile(0.5, rate(vllm:e2e_request_latency_seconds_sum{model}[1m]))", "1",
        ]:
            self.assertNotEqual(problems(wrong, self.metrics), [], wrong)


if __name__ == "__main__":
    unittest.main()
