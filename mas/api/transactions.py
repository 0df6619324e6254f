"""TransactionService: the two phases, for tools that know the cluster's secret.

An adapter over what nodes say to each other: a batch goes to a bucket's leader as it is, and each method takes only the
instructions that belong to its phase.
"""

# gRPC calls a method by its name in the .proto file.
# ruff: noqa: N802

import asyncio

import grpc
import msgspec

from mas.api.auth import ClusterSecret, Metadata
from mas.api.door import Context, metadata_of
from mas.api.requests import to_timeout
from mas.api.shares import INSIDER, Caller
from mas.errors import DeadlineExceeded, InvalidRequest, NotFound
from mas.ledger.instructions import (
    Abort,
    Answer,
    Batch,
    Commit,
    Decide,
    Instruction,
    Prepare,
    QueryRecord,
    Resolve,
    decode_batch,
)
from mas.limits import TURN_INSTRUCTIONS_MAX, check_bucket_id
from mas.rpc.messages import Answers, Rejected, Reply, encode
from mas.rpc.ports import Buckets
from mas.wire.gen.mas.v1 import transaction_pb2 as pb
from mas.wire.gen.mas.v1 import transaction_pb2_grpc as pb_grpc

Kinds = tuple[type[Instruction], ...]


class TransactionServicer(pb_grpc.TransactionServiceServicer):
    """The methods of `mas.v1.TransactionService`."""

    name = "mas.v1.TransactionService"
    public = False

    def __init__(self, buckets: Buckets, cluster_secret: ClusterSecret) -> None:
        self._buckets = buckets
        self._cluster_secret = cluster_secret

    def register(self, server: grpc.aio.Server) -> None:
        """Serve on this server."""
        pb_grpc.add_TransactionServiceServicer_to_server(self, server)

    def identify(self, metadata: Metadata) -> Caller:
        """Check the cluster's secret: a call counts in the cluster's own share."""
        self._cluster_secret.check(metadata)
        return INSIDER

    def drain(self) -> None:
        """Do nothing: what is under way ends by itself."""

    async def ProcessPhase1(self, request: pb.Phase, context: Context) -> pb.PhaseReply:
        """Prepare legs (rule 4, prepare)."""
        return await self._process(request, context, (Prepare,))

    async def ProcessPhase2Commit(self, request: pb.Phase, context: Context) -> pb.PhaseReply:
        """Decide at the anchor, commit elsewhere (rules 5, 10)."""
        return await self._process(request, context, (Decide, Commit))

    async def ProcessPhase2Rollback(self, request: pb.Phase, context: Context) -> pb.PhaseReply:
        """Free what is prepared (rule 10, low-water mark)."""
        return await self._process(request, context, (Abort,))

    async def Resolve(self, request: pb.Phase, context: Context) -> pb.PhaseReply:
        """Ask an anchor (rules 8, 11, 15)."""
        return await self._process(request, context, (Resolve, QueryRecord))

    async def _process(self, request: pb.Phase, context: Context, kinds: Kinds) -> pb.PhaseReply:
        self._cluster_secret.check(metadata_of(context))
        batch = _decode(request.batch, kinds)
        check_bucket_id(request.bucket)
        if request.bucket not in self._buckets.all():
            raise NotFound(
                f"there is no bucket {request.bucket}: expected one that ListBuckets names"
            )
        answers = await self._ask(request.bucket, batch, to_timeout(context.time_remaining()))
        return pb.PhaseReply(frame=encode(_frame(answers)))

    async def _ask(self, bucket: int, batch: Batch, timeout: float) -> list[Answer | Rejected]:
        answers: dict[int, Answer | Rejected] = {}
        complete = asyncio.Event()

        def on_answer(position: int, answer: Answer | Rejected) -> None:
            answers[position] = answer
            if len(answers) == len(batch.instructions):
                complete.set()

        self._buckets.submit(bucket, batch, on_answer)
        try:
            async with asyncio.timeout(timeout):
                await complete.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"bucket {bucket} has answered {len(answers)} of {len(batch.instructions)} in time: "
                "the rest is unknown, ask again by the same xids"
            ) from error
        return [answers[position] for position in range(len(batch.instructions))]


def _decode(data: bytes, kinds: Kinds) -> Batch:
    try:
        batch = decode_batch(data)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"batch can't be read: {error}") from error
    wrong = [type(each).__name__ for each in batch.instructions if not isinstance(each, kinds)]
    if wrong or not batch.instructions:
        expected = ", ".join(kind.__name__ for kind in kinds)
        raise InvalidRequest(f"batch has {', '.join(wrong) or 'nothing'}: expected {expected}")
    if len(batch.instructions) > TURN_INSTRUCTIONS_MAX:
        raise InvalidRequest(
            f"batch has {len(batch.instructions)} instructions: expected at most {TURN_INSTRUCTIONS_MAX}"
        )
    return batch


def _frame(answers: list[Answer | Rejected]) -> tuple[Reply, ...]:
    given = tuple(
        (position, answer) for position, answer in enumerate(answers) if isinstance(answer, Answer)
    )
    turned_away = tuple(
        msgspec.structs.replace(answer, request=0, positions=(position,))
        for position, answer in enumerate(answers)
        if isinstance(answer, Rejected)
    )
    return (Answers(0, given), *turned_away) if given else turned_away
