"""Two hosts (network namespaces joined by a veth pair): ranks talk over Gloo, to the same bits."""

import os
import subprocess
import unittest

from deployment import BIN, R1_DRAFT, Client, Deployment, Process, question

A, B = "whalepod-test-a", "whalepod-test-b"
ADDRESS = {A: "10.231.7.1", B: "10.231.7.2"}
PROMPTS = [question(12, 7), question(1236, 2199)]


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)


def make_hosts():
    remove_hosts()
    for name in (A, B):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "wp-a", "netns", A, "type", "veth", "peer", "name", "wp-b", "netns", B)
    for name, link in ((A, "wp-a"), (B, "wp-b")):
        ip("-n", name, "addr", "add", f"{ADDRESS[name]}/24", "dev", link)
        ip("-n", name, "link", "set", link, "up")


def remove_hosts():
    for name in (A, B):
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def answers(generate):
    result = []
    for prompt in PROMPTS:
        result.append(generate(prompt, temperature=0, max_tokens=32, logprobs=0, ignore_eos=True)[:2])
        result.append(generate(prompt, temperature=0.6, seed=3, max_tokens=32, logprobs=0, ignore_eos=True)[:2])
    return result


class HostsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise unittest.SkipTest("skipped, network namespaces need root")
        try:
            make_hosts()
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            remove_hosts()
            raise unittest.SkipTest(f"skipped, no network namespaces here: {error}")

    @classmethod
    def tearDownClass(cls):
        remove_hosts()

    def run_layout(self, flags, ranks):
        """Answers of a deployment whose ranks are spread evenly over both hosts."""
        inside = lambda host: ("ip", "netns", "exec", host)
        processes = []
        try:
            coordinator = Process(
                [BIN / "whalepod-coordinator", R1_DRAFT, "--host", "0.0.0.0", "--port", 0, "--grpc-port", 50051,
                 "--control-port", 50052, *flags], prefix=inside(A))
            processes.append(coordinator)
            coordinator.wait_line("workers on port")
            for rank in range(ranks):
                host = A if rank < ranks // 2 else B
                processes.append(Process(
                    [BIN / "whalepod-worker", "--coordinator", f"{ADDRESS[A]}:50052", "--rank", rank,
                     "--host", host, "--address", ADDRESS[host], "--threads", 1], prefix=inside(host)))
            return answers(self.cli_client(inside(A)))
        finally:
            for process in reversed(processes):
                process.stop()

    def cli_client(self, prefix):
        """`whalepod generate` inside the namespace: the test itself stays outside."""
        import json

        def generate(ids, temperature, max_tokens, logprobs, ignore_eos, seed=0):
            done = subprocess.run(
                [*prefix, BIN / "whalepod", "generate", "--endpoint", "127.0.0.1:50051", "--prompt-token-ids",
                 ",".join(map(str, ids)), "--temperature", str(temperature), "--max-tokens", str(max_tokens),
                 "--seed", str(seed), "--logprobs", str(logprobs), "--ignore-eos", "--json"],
                capture_output=True, text=True, timeout=60, check=True)
            answer = json.loads(done.stdout)
            return answer["token_ids"], [p["logprob"] for p in answer["logprobs"]], None

        return generate

    def test_split_over_two_hosts_gives_the_same_bits(self):
        with Deployment() as one:
            port = one.process.wait_line(r"ready.*clients on 127\.0\.0\.1:(\d+)").group(1)
            expected = answers(lambda ids, **o: self.local(port, ids, **o))
        for flags, ranks in ((("--tp", 4, "--ep", 4), 4), (("--dp", 2, "--tp", 2, "--ep", 4), 4), (("--dp", 2, "--ep", 2), 2)):
            with self.subTest(layout=flags):
                self.assertEqual(self.run_layout(flags, ranks), expected)

    def local(self, port, ids, **options):
        """The same command-line client, so that logprobs are printed the same way."""
        import json

        done = subprocess.run(
            [BIN / "whalepod", "generate", "--endpoint", f"127.0.0.1:{port}", "--prompt-token-ids",
             ",".join(map(str, ids)), "--temperature", str(options["temperature"]), "--max-tokens",
             str(options["max_tokens"]), "--seed", str(options.get("seed", 0)), "--logprobs",
             str(options["logprobs"]), "--ignore-eos", "--json"],
            capture_output=True, text=True, timeout=60, check=True)
        answer = json.loads(done.stdout)
        return answer["token_ids"], [p["logprob"] for p in answer["logprobs"]], None


if __name__ == "__main__":
    unittest.main()
