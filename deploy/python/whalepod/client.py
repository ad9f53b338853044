"""Whalepod over gRPC. The stubs are there for all that this does not shorten:

    client = Client("127.0.0.1:50051")
    job = client.submit(open("requests.jsonl", "rb").read(), idempotency_key="monday")
    for item in client.watch(job.id):
        print(item.custom_id, item.answer.status_code, item.answer.body)
"""

import itertools
import time

import grpc

from whalepod.v1 import inference_pb2, inference_pb2_grpc, jobs_pb2, jobs_pb2_grpc

_ONE_MESSAGE, _PIECE = 3 << 20, 1 << 20  # bytes of text in the 4 MiB that a message may have


class OtherDeployment(Exception):
    """The deployment has another model, precision, tokenizer or defaults than the one that began the answer, which
    cannot go on."""


class Client:
    def __init__(self, endpoint, api_key=None):
        # A deployment that is restarted is met again within a second.
        options = [("grpc.max_receive_message_length", -1), ("grpc.initial_reconnect_backoff_ms", 100),
                   ("grpc.min_reconnect_backoff_ms", 1000), ("grpc.max_reconnect_backoff_ms", 1000)]
        self.channel = grpc.insecure_channel(endpoint, options=options)
        self.metadata = [("authorization", f"Bearer {api_key}")] if api_key else []
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.jobs = jobs_pb2_grpc.JobServiceStub(self.channel)

    def generate(self, request):
        """The messages of one GenerateRequest, as they come."""
        return self.inference.Generate(request, metadata=self.metadata)

    def generate_resumable(self, request, wait=60):
        """The same, also when the deployment is away for up to `wait` seconds in between: no token
        comes twice, none is missing, none differs."""
        mine = inference_pb2.GenerateRequest()
        mine.CopyFrom(request)
        mine.resumable = True
        yield from self._follow(self.generate(mine), self.resume, wait)

    def _follow(self, messages, again, wait, begun=None):
        """`messages`, and `again(what was begun, tokens seen)` as often as the deployment goes away under them."""
        started, tokens, away_since = None, 0, None
        while True:
            asked = time.monotonic()
            try:
                for message in messages:
                    away_since = None
                    if message.HasField("started"):
                        if started:
                            prints = {started.fingerprint, message.started.fingerprint} - {""}
                            if len(prints) > 1:
                                raise OtherDeployment(f"after {tokens} tokens")
                            continue
                        started = message.started
                        begun = begun or started.request_id
                    tokens += len(message.tokens.tokens)
                    yield message
                return
            except grpc.RpcError as error:
                now = time.monotonic()
                if away_since is None or now - asked > 5:  # it was there in between
                    away_since = now
                # A server that is being shut down cancels calls.
                away = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                if not away or not begun or now - away_since > wait:
                    raise
                time.sleep(0.1)
                messages = again(begun, tokens)

    def resume(self, request_id, from_token=0):
        """The messages of a resumable request from one of its tokens on."""
        request = inference_pb2.ResumeGenerateRequest(request_id=request_id, from_token=from_token)
        return self.inference.ResumeGenerate(request, metadata=self.metadata)

    def usage(self, from_day="", to_day=""):
        """GetUsageResponse: accounts by day, API key and source; the last 30 days if nothing is said."""
        request = inference_pb2.GetUsageRequest(from_day=from_day, to_day=to_day)
        return self.inference.GetUsage(request, metadata=self.metadata)

    def submit(self, work, **fields):
        """The Job of JSON lines (bytes or a text) or of a GenerateRequest; fields as SubmitJobRequest's."""
        if isinstance(work, str):
            work = work.encode()
        kind = "generate" if isinstance(work, inference_pb2.GenerateRequest) else "jsonl"
        if kind == "jsonl" and len(work) > _ONE_MESSAGE:
            first = jobs_pb2.SubmitLargeJobRequest(job=jobs_pb2.SubmitJobRequest(**fields), jsonl_bytes=len(work))
            pieces = (jobs_pb2.SubmitLargeJobRequest(jsonl=work[at:at + _PIECE], last=at + _PIECE >= len(work))
                      for at in range(0, len(work), _PIECE))
            return self.jobs.SubmitLargeJob(itertools.chain([first], pieces), metadata=self.metadata).job
        request = jobs_pb2.SubmitJobRequest(**{kind: work}, **fields)
        return self.jobs.SubmitJob(request, metadata=self.metadata).job

    def watch(self, job_id, seen=0):
        """Items as they end, but the first `seen`, until the job has ended."""
        request = jobs_pb2.WatchJobRequest(id=job_id, **{"from": seen})
        for event in self.jobs.WatchJob(request, metadata=self.metadata):
            yield from event.items

    def watch_item(self, job_id, index=0, from_token=0, wait=60):
        """The messages of one item's answer while it is generated, or after, from one of its tokens on;
        also when the deployment is away for up to `wait` seconds in between."""
        def read(item, seen):
            request = jobs_pb2.WatchJobItemRequest(id=item[0], index=item[1], from_token=from_token + seen)
            return self.jobs.WatchJobItem(request, metadata=self.metadata)

        item = (job_id, index)
        yield from self._follow(read(item, 0), read, wait, begun=item)

    def results(self, job_id):
        """Items that have ended, by index."""
        request = jobs_pb2.GetJobResultsRequest(id=job_id)
        while True:
            page = self.jobs.GetJobResults(request, metadata=self.metadata)
            yield from page.items
            request.page_token = page.next_page_token
            if not request.page_token:
                return
