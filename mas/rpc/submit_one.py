"""One instruction for one bucket, and its answer: for what is asked seldom, and not in batches."""

from mas.ledger.instructions import Answer, Batch, Instruction
from mas.rpc.messages import Rejected
from mas.rpc.ports import Buckets
from mas.runtime import Promise


def submit_one(
    buckets: Buckets, bucket: int, instruction: Instruction
) -> Promise[Answer | Rejected]:
    """Submit this alone, under no incarnation: it has to be safe to repeat.

    Whoever stops waiting for the answer takes nothing back.
    """
    answered: Promise[Answer | Rejected] = Promise()
    buckets.submit(bucket, Batch(b"", 0, (instruction,)), lambda _, answer: answered.set(answer))
    return answered
