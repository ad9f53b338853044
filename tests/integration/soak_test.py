"""Many mixed clients at once: every stream ends as it should, with the tokens it would get alone.

WHALEPOD_SOAK_SECONDS (8) and WHALEPOD_SOAK_CLIENTS (40) say for how long and how many; 600 and 200 by hand.
"""

import collections
import os
import random
import threading
import time
import unittest

import grpc
from deployment import PATIENCE, Deployment, question
from scheduling_test import PREFIX, kv_bytes

SECONDS = float(os.environ.get("WHALEPOD_SOAK_SECONDS", "8"))
CLIENTS = int(os.environ.get("WHALEPOD_SOAK_CLIENTS", "40"))
CASES = 60
BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED,)


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


class Clients:
    """Threads that each send one request after another until told to stop."""

    def __init__(self, client, alone):
        self.client, self.alone = client, alone
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.ends = collections.Counter()
        self.wrong = []
        self.threads = [threading.Thread(target=self.run, args=(seed,)) for seed in range(CLIENTS)]

    def run(self, seed):
        rng = random.Random(seed)
        while not self.stop.is_set():
            kind = rng.choices(("plain", "cancels", "slow", "deadline", "malformed"), (40, 33, 10, 10, 7))[0]
            i = rng.randrange(CASES)
            try:
                end = self.one(kind, i, rng)
            except Exception as error:  # pylint: disable=broad-except
                end = f"failed: {error!r}"
            with self.lock:
                self.ends[kind, end if not end.startswith(("wrong", "failed")) else "wrong"] += 1
                if end.startswith(("wrong", "failed")):
                    self.wrong.append((kind, i, end))

    def one(self, kind, i, rng):
        ids, options = case(i)
        request = self.client.request(ids, **options)
        request.priority = rng.choice((0, 0, 0, 5))
        if kind == "deadline":
            request.timeouts.total_ms = rng.randrange(1, 300)
        if kind == "malformed":
            rng.choice((lambda: request.token_ids.ids.append(1 << 30), request.ClearField("token_ids") or (lambda: None),
                        lambda: setattr(request.options, "temperature", 9)))()
        stream = self.client.stub.Generate(request, timeout=PATIENCE)
        leaves_after = rng.randrange(0, len(self.alone[i])) if kind == "cancels" else None
        tokens, finished = [], False
        try:
            for event in stream:
                tokens += [t.token_id for t in event.tokens.tokens]
                finished = finished or event.HasField("finished")
                if leaves_after is not None and len(tokens) >= leaves_after:
                    stream.cancel()
                    break
                if kind == "slow":
                    self.stop.wait(0.05)
        except grpc.RpcError as error:
            return self.judge_error(kind, error, tokens, i)
        if tokens != self.alone[i][: len(tokens)]:
            return f"wrong: {tokens}, alone {self.alone[i]}"
        if kind == "malformed":
            return "wrong: accepted"
        if kind != "cancels" and (not finished or tokens != self.alone[i]):
            return f"wrong: ended after {len(tokens)} of {len(self.alone[i])}"
        return "as alone"

    def judge_error(self, kind, error, tokens, i):
        code = error.code()
        expected = {"deadline": grpc.StatusCode.DEADLINE_EXCEEDED, "malformed": grpc.StatusCode.INVALID_ARGUMENT}
        if tokens != self.alone[i][: len(tokens)]:
            return f"wrong: {tokens} before {code}"
        if code in BUSY and not tokens or code == expected.get(kind):
            return code.name
        return f"wrong: {code} {error.details()}"


class SoakTest(unittest.TestCase):
    def test_every_stream_ends_as_it_should(self):
        with Deployment("--dp", 2, "--ep", 2, "--max-num-seqs", 16, "--max-model-len", 320, "--max-waiting", 32,
                        "--kv-cache-bytes", kv_bytes(2 * 12)) as deployment:
            client = deployment.client
            alone = [client.generate(ids, **options)[0] for ids, options in map(case, range(CASES))]
            pids = {"coordinator": deployment.process.pid, **deployment.workers()}
            clients = Clients(client, alone)
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
            self.assertEqual(status.state, "ready")  # ranks and coordinator agreed in every step
            self.assertGreater(status.preemptions, 0)
            for kind, ends in (("plain", ["as alone"]), ("cancels", ["as alone"]), ("slow", ["as alone"]),
                               ("deadline", ["DEADLINE_EXCEEDED"]), ("malformed", ["INVALID_ARGUMENT"])):
                for name in ends:
                    self.assertGreater(clients.ends[kind, name], 0, (kind, name))
            for name, pid in pids.items():
                self.assertLess(resident(pid), before[name] * 1.1 + 16, name)
            # Nothing that happened is left in what comes after.
            self.assertEqual(client.generate(*case(3)[:1], **case(3)[1])[0], alone[3])


if __name__ == "__main__":
    unittest.main()
