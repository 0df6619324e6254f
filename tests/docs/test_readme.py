"""What README.md tells a person to type works, as it stands there."""

import ast
import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

from mas.config import parse_config
from mas.testing import LocalCluster
from mas.testing.local_cluster import free_ports
from tests.integration.processes import MAS, Server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("console")).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def test_the_first_two_commands_are_the_demo_and_the_tests() -> None:
    assert commands()[:2] == ["scripts/demo", "scripts/test"]
    for command in commands():
        assert os.access(ROOT / command.split()[0], os.X_OK), command


@pytest.mark.integration
@pytest.mark.timeout(180)
def test_the_demo_ends_well_and_leaves_nothing_behind(tmp_path: Path) -> None:
    demo = subprocess.run(
        [ROOT / "scripts/demo"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    last = demo.stdout.strip().splitlines()[-1]
    assert re.match(r"1003 payments, one kill -9, no cent lost: 6000\.00 USD put in", last), last
    assert list(tmp_path.iterdir()) == []
    running = subprocess.run(
        ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
    )
    assert str(tmp_path) not in running.stdout


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_the_commands_for_the_playground_work_as_they_stand(tmp_path: Path) -> None:
    server = Server(tmp_path)
    typed = [c.split()[1:] for c in commands() if c.startswith(".venv/bin/mas ")]
    serve, *others = typed
    assert serve == ["serve", "--role", "all", "--data-dir", "data"]
    assert len(others) >= 4
    with server.running():
        for arguments in others:
            done = server.run(*arguments)
            assert done.returncode == 0, (arguments, done.stderr)
            assert done.stdout


@pytest.mark.integration
@pytest.mark.timeout(180)
@pytest.mark.asyncio
async def test_the_commands_for_nodes_that_come_and_go_work_in_their_order(tmp_path: Path) -> None:
    serve, *others = "".join(blocks("sh")).splitlines()
    async with LocalCluster(directory=tmp_path) as cluster:
        peer, rm = free_ports(2)
        service = cluster.transaction_manager.listen
        here = {
            "--join": f"{service.host}:{service.node_service}",
            "--address": f"127.0.0.1:{peer}",
            "--cluster-id": "local",
            "--rm-port": str(rm),
            "--data-dir": str(tmp_path / "node5"),
            "--secret-file": str(tmp_path / "cluster.secret"),
            "--tls-dir": str(tmp_path / "tls"),
            "--config": str(cluster.transaction_manager.config_file),
        }
        log = tmp_path / "node5.log"
        with log.open("w") as output:
            process = subprocess.Popen((*MAS, *typed(serve, here)), stdout=output, stderr=output)
        try:
            while " is ready" not in log.read_text():
                assert process.poll() is None, log.read_text()
                await asyncio.sleep(0.02)
            for line in others:
                done = await asyncio.to_thread(
                    subprocess.run, (*MAS, *typed(line, here)), capture_output=True, text=True
                )
                assert done.returncode == 0, (line, done.stderr)
        finally:
            process.kill()
            process.wait()


def typed(line: str, here: dict[str, str]) -> list[str]:
    """What follows `mas`, with this machine's addresses and files in the place of the page's."""
    words = line.split()[1:]
    return [here.get(before, word) for before, word in zip(["", *words], words, strict=False)]


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_is_python(code: str) -> None:
    compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_configuration_is_one() -> None:
    (text,) = blocks("toml")
    config = parse_config(text)
    assert [peer.id for peer in config.peers] == [1, 2, 3, 4]


def test_every_file_that_the_pages_point_to_is_there() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "mas/README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"
