"""whalepod status: once, as JSON, and again and again, on a terminal and off it."""

import json
import os
import pty
import re
import selectors
import signal
import subprocess
import unittest

from deployment import BIN, PATIENCE, R1_DRAFT, Deployment, Process, question


class StatusTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.deployment = Deployment("--tp", 2, "--ep", 2).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.deployment.__exit__()

    def command(self, *args):
        return [BIN / "whalepod", "status", "--endpoint", self.deployment.client.endpoint, *map(str, args)]

    def status(self, *args):
        done = subprocess.run(self.command(*args), capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_memory_is_as_planned(self):
        plan = subprocess.run([BIN / "whalepod", "plan", R1_DRAFT, "--ranks", "2", "--tp", "2", "--ep", "2", "--json"],
                              capture_output=True, text=True, timeout=PATIENCE, check=True)
        ledgers = {rank["rank"]: rank["ledger"] for rank in json.loads(plan.stdout)["ranks"]}
        status = json.loads(self.status("--json"))
        self.assertEqual([rank["rank"] for rank in status["ranks"]], [0, 1])
        for rank in status["ranks"]:
            memory = {item["name"]: item for item in rank["memory"]}
            ledger = {name: ledgers[rank["rank"]][name] for name in memory}
            self.assertEqual({name: int(item["planned_bytes"]) for name, item in memory.items()}, ledger)
            self.assertEqual(sum(ledger.values()), ledgers[rank["rank"]]["total"])
            for name in ("weights", "kv", "activations"):
                self.assertEqual(memory[name]["actual_bytes"], memory[name]["planned_bytes"], name)
        text = self.status()
        self.assertRegex(text, r"^ready\nmodel r1-draft, layout dp1 tp2 ep2 ")
        self.assertEqual(len(re.findall(r"^rank [01]: READY, worker .*\n  memory: weights [\d.]+ .iB, .* as planned",
                                        text, re.M)), 2, text)
        self.assertRegex(text, r"(?m)^KV: 0 of \d+ blocks used \(0\.0 %\), of 64 tokens each$")

    def test_rates(self):
        tokens = len(self.deployment.client.generate(question(1, 2), max_tokens=200, ignore_eos=True)[0])
        # The totals are noted with the steps, of which an idle deployment does one a second.
        status = self.deployment.client.wait_status("rated", lambda s: s.generation_tokens_per_second > 0)
        self.assertLessEqual(status.rate_seconds, 11)
        self.assertLessEqual(status.generation_tokens_per_second * status.rate_seconds, 1.01 * tokens + 1)
        self.assertGreater(status.prompt_tokens_per_second, 0)
        self.assertGreater(status.requests_per_second, 0)
        self.assertIn("tokens/s generated", self.status())

    def test_watch_in_a_pipe(self):
        for flags, pattern in [((), r"^ready$"), (("--json",), r"^\{.*\"state\":\"ready\"")]:
            process = Process(self.command("--watch", 0.05, *flags))
            try:
                while len(re.findall(pattern, process.text(), re.M)) < 3:
                    self.assertIsNone(process.child.poll(), process.text())
                    selectors.DefaultSelector().select(0.02)
                self.assertNotIn("\x1b", process.text())
                process.child.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(), -signal.SIGINT)
            finally:
                process.stop()

    def test_watch_on_a_terminal_stays_in_place(self):
        try:
            master, slave = pty.openpty()
        except OSError as error:
            self.skipTest(f"no pseudo-terminals here: {error}")
        with subprocess.Popen(self.command("--watch", 0.05), stdin=slave, stdout=slave, stderr=slave) as child:
            os.close(slave)
            seen = b""
            while seen.count(b"\x1b[Hready\x1b[K\r\n") < 3 or not seen.endswith(b"\x1b[J"):
                seen += os.read(master, 4096)
            child.send_signal(signal.SIGINT)
        os.close(master)
        first = seen.split(b"\x1b[J")[0].decode()
        self.assertTrue(first.startswith("\x1b[H"), first)
        self.assertEqual(first.count("\n"), first.count("\x1b[K\r\n"))

    def test_nobody_there(self):
        gone = subprocess.run([BIN / "whalepod", "status", "--endpoint", "127.0.0.1:1"], capture_output=True, text=True,
                              timeout=PATIENCE, check=False)
        self.assertNotEqual(gone.returncode, 0)
        self.assertIn("127.0.0.1:1", gone.stderr)


if __name__ == "__main__":
    unittest.main()
