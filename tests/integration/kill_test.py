"""kill -9 of the whole deployment at random instants, during a job of 200 items and 8 resumable streams:
each item is answered exactly once, each stream goes on with the same tokens and the same text.

WHALEPOD_KILLS: how often it is killed (3). WHALEPOD_SEED: of the instants (1)."""

import os
import random
import tempfile
import threading
import time
import unittest

import grpc
from deployment import PATIENCE, Deployment, question
from jobs_test import LONG, jobs_of, line, results, wait_over
from whalepod.v1 import inference_pb2, jobs_pb2

ITEMS = 200
STREAMS, TOKENS = 8, 240
KILLS = int(os.environ.get("WHALEPOD_KILLS", "3"))
SEED = int(os.environ.get("WHALEPOD_SEED", "1"))


class Stream:
    """A client that reads one resumable answer, as often as it has to ask for the rest."""

    def __init__(self, slot, name):
        self.slot = slot
        sampling = {"temperature": 0} if slot % 2 else {"temperature": 0.6, "seed": slot}
        self.request = inference_pb2.GenerateRequest(
            request_id=f"stream-{slot}-{name}",
            token_ids=inference_pb2.TokenIds(ids=question(slot + 10, 3 * slot + 17)),
            options=inference_pb2.GenerationOptions(max_tokens=TOKENS, ignore_eos=True, **sampling),
            # Not behind the job's items.
            priority=-1,
        )
        self.tokens, self.text, self.finished = [], {}, None
        self.begun, self.resumed = False, 0

    def take(self, events):
        for event in events:
            self.begun = True
            self.tokens += [t.token_id for t in event.tokens.tokens]
            for span in event.tokens.spans:
                self.text[span.kind] = self.text.get(span.kind, "") + span.text
            if event.HasField("finished"):
                self.finished = event.finished

    def read(self, stub):
        """Until the end, or until the deployment is gone."""
        if self.finished:
            return
        try:
            if not self.begun:
                self.request.resumable = True
                try:
                    return self.take(stub.Generate(self.request, timeout=LONG))
                except grpc.RpcError as error:
                    # The one before died between taking it and saying so.
                    if self.begun or error.code() != grpc.StatusCode.ALREADY_EXISTS:
                        raise
            self.resumed += 0 < len(self.tokens)
            self.take(stub.ResumeGenerate(inference_pb2.ResumeGenerateRequest(
                request_id=self.request.request_id, from_token=len(self.tokens)), timeout=LONG))
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise AssertionError(f"{self.request.request_id}: {error.code()}: {error.details()}") from None


class KillTest(unittest.TestCase):
    def alone(self, flags, text, streams):
        """What a deployment that lives answers: token ids by custom_id, and each stream's own."""
        with Deployment(*flags) as deployment:
            for stream in streams:
                stream.take(deployment.client.stub.Generate(stream.request, timeout=LONG))
            stub = jobs_of(deployment)
            job = stub.SubmitJob(jobs_pb2.SubmitJobRequest(jsonl=text), timeout=PATIENCE).job.id
            self.assertEqual(wait_over(stub, job).counts.succeeded, ITEMS)
            return {item.custom_id: list(item.answer.choices[0].token_ids) for item in results(stub, job)}

    def test_nothing_is_lost_doubled_or_changed_whatever_is_killed(self):
        text = "".join(line(i) + "\n" for i in range(ITEMS)).encode()
        lived = [Stream(slot, "lived") for slot in range(STREAMS)]
        slots = [[] for _ in range(STREAMS)]  # the last of each is under way
        chance = random.Random(SEED)
        # How much of the job has been seen when a kill comes; the first one comes early, so that much is left.
        places = sorted([chance.randrange(ITEMS // 4)] + [chance.randrange(ITEMS) for _ in range(KILLS - 1)])
        seen, unfinished = [], 0
        submit = jobs_pb2.SubmitJobRequest(jsonl=text, idempotency_key="kill")
        with tempfile.TemporaryDirectory() as folder:
            flags = ("--state-dir", folder, "--jobs-in-flight", 8)
            expected = self.alone(flags, text, lived)
            for number, place in enumerate([*places, None]):
                for i, streams in enumerate(slots):
                    if place is not None and (not streams or streams[-1].finished):
                        streams.append(Stream(i, number))
                with Deployment(*flags) as deployment:
                    readers = [threading.Thread(target=streams[-1].read, args=[deployment.client.stub])
                               for streams in slots]
                    for reader in readers:
                        reader.start()
                    job = jobs_of(deployment).SubmitJob(submit, timeout=PATIENCE).job
                    unfinished += len(seen) > 0 and job.state != jobs_pb2.JOB_STATE_COMPLETED
                    self.watch(deployment, job.id, seen, place)
                    if place is None:
                        for reader in readers:
                            reader.join()
                        kept = results(jobs_of(deployment), job.id)
                        break
                    time.sleep(chance.uniform(0, 0.1))  # any instant, not one after an item
                    deployment.kill()
                    for reader in readers:
                        reader.join()
        self.assertGreater(unfinished, 0, "no kill came before the end")
        self.check_items(seen, kept, expected)
        self.check_streams([stream for streams in slots for stream in streams], lived)

    def watch(self, deployment, job_id, seen, place):
        """Takes items until so many are seen; all of them for None."""
        call = jobs_of(deployment).WatchJob(
            jobs_pb2.WatchJobRequest(id=job_id, **{"from": len(seen)}), timeout=LONG)
        for event in call:
            for item in event.items:
                self.assertEqual(item.ended, len(seen))
                seen.append(item)
            if place is not None and len(seen) >= place:
                break
        call.cancel()

    def check_items(self, seen, kept, expected):
        self.assertEqual(sorted(item.index for item in seen), list(range(ITEMS)))
        self.assertEqual(sorted(item.index for item in kept), list(range(ITEMS)))
        # What was seen before a kill is what is kept after it.
        self.assertEqual({i.index: i.answer.body for i in seen}, {i.index: i.answer.body for i in kept})
        for item in kept:
            self.assertEqual(item.state, jobs_pb2.JOB_ITEM_STATE_SUCCEEDED)
            self.assertEqual(list(item.answer.choices[0].token_ids), expected[item.custom_id])

    def check_streams(self, streams, lived):
        self.assertGreater(sum(s.resumed for s in streams), 0, "no stream was resumed within its tokens")
        for stream in streams:
            other = lived[stream.slot]
            self.assertEqual(stream.tokens, other.tokens, stream.request.request_id)
            self.assertEqual(stream.text, other.text, stream.request.request_id)
            self.assertEqual(stream.finished.reason, other.finished.reason)
            self.assertEqual(stream.finished.usage.completion_tokens, len(other.tokens))


if __name__ == "__main__":
    unittest.main()
