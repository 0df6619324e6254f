"""The baseline of the benchmarks: a bare grpc.aio unary echo, with the options of MAS's own API.

    python -m mas.bench.echo [DIRECTORY]

Serves with the certificates in DIRECTORY, or without any in plaintext, until it is ended, and prints the port that it took.
"""

import sys
from pathlib import Path

import grpc
import uvloop

from mas.api.server import SERVER_OPTIONS

METHOD = "/mas.bench.Echo/Echo"
_ADDRESS = "127.0.0.1:0"


async def serve(directory: Path | None) -> None:
    """Echo bytes until cancelled."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.method_handlers_generic_handler(
        "mas.bench.Echo", {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}
    )
    server.add_generic_rpc_handlers((handler,))
    if directory is None:
        port = server.add_insecure_port(_ADDRESS)
    else:
        pair = ((directory / "node-1.key").read_bytes(), (directory / "node-1.crt").read_bytes())
        port = server.add_secure_port(_ADDRESS, grpc.ssl_server_credentials([pair]))
    await server.start()
    print(port, flush=True)  # noqa: T201 - for the process that started this one
    await server.wait_for_termination()


async def _echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return request


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
