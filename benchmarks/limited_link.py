"""Two network namespaces of one machine, joined by a link of a limited rate.

By hand, as root, for 1 Gb/s (the second namespace likewise, with one, two and 1, 2 exchanged):

    ip netns add one; ip netns add two
    ip link add to-two netns one type veth peer name to-one netns two
    ip -n one addr add 10.213.0.1/30 dev to-two; ip -n one link set lo up
    ip -n one link set to-two up
    tc -n one qdisc add dev to-two root tbf rate 1000mbit burst 1250000 latency 50ms
    UCX_TLS=tcp,self ip netns exec one mpiexec -launcher ssh -launcher-exec SCRIPT \\
        -hosts 10.213.0.1,10.213.0.2 -localhost 10.213.0.1 -n 2 ...

MPICH's launcher believes that it starts the processes by ssh. SCRIPT takes the arguments of ssh,
and runs the command in the namespace that has the address. ``UCX_TLS`` keeps the processes from
talking through the memory that they share, since they are on one machine. It takes about a second
until the kernel says that the link is up; processes that start earlier do not find each other.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from electra_ref.errors import UserError

ADDRESSES = ("10.213.0.1", "10.213.0.2")
BURST_SECONDS = 0.01  # of the rate, that may be sent at once
LINK_SECONDS = 10.0  # until it is up at the latest
LEAST_BURST = 262_144  # bytes; a packet that the kernel passes on may have 65,536
INSTEAD_OF_SSH = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
case $1 in
    {addresses[0]}) namespace={names[0]};;
    *) namespace={names[1]};;
esac
shift
exec ip netns exec $namespace sh -c "$*"
"""


class Link(NamedTuple):
    """How processes are started at the two ends of the link."""

    launcher: list[str]
    environment: dict[str, str]


@contextmanager
def limited_link(mpiexec: str, megabits: int) -> Iterator[Link]:
    """Make the link, and take it away at the end.

    Raises UserError with what the system said if that is not possible: it needs Linux, root, and
    the programs ip and tc of iproute2.
    """
    names = [f"electra-ref-{os.getpid()}-{end}" for end in (0, 1)]
    device = f"er{os.getpid()}"  # the same name in both: UCX, which MPICH uses, takes only that one
    made: list[str] = []
    try:
        for name in names:
            _run("ip", "netns", "add", name)
            made.append(name)
        _run("ip", "link", "add", device, *("netns", names[0]), *("type", "veth", "peer"),
             *("name", device), *("netns", names[1]))  # fmt: skip
        burst = max(int(BURST_SECONDS * megabits * 1e6 / 8), LEAST_BURST)
        for name, address in zip(names, ADDRESSES, strict=True):
            _run("ip", "-n", name, "addr", "add", f"{address}/30", "dev", device)
            for each in ("lo", device):
                _run("ip", "-n", name, "link", "set", each, "up")
            _run("tc", "-n", name, *f"qdisc add dev {device} root tbf".split(),
                 *f"rate {megabits}mbit burst {burst} latency 50ms".split())  # fmt: skip
        for name in names:
            _wait_until_up(name, device)
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "instead-of-ssh"
            script.write_text(INSTEAD_OF_SSH.format(addresses=ADDRESSES, names=names))
            script.chmod(0o700)
            launcher = ["ip", "netns", "exec", names[0], mpiexec, "-launcher", "ssh",
                        "-launcher-exec", str(script), "-hosts", ",".join(ADDRESSES),
                        "-localhost", ADDRESSES[0], "-n", "2"]  # fmt: skip
            yield Link(launcher, {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": device})
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _wait_until_up(name: str, device: str) -> None:
    """Wait until the kernel says that the other end of the link is there, for a second or so."""
    until = time.monotonic() + LINK_SECONDS
    while "state UP" not in _run("ip", "-n", name, "link", "show", device):
        if time.monotonic() > until:
            raise UserError(f"--link: {device} of {name} did not come up in {LINK_SECONDS:g} s")
        time.sleep(0.05)


def _run(*command: str) -> str:
    """Return what ``command`` prints. Raises UserError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--link: {command[0]} cannot be started ({error.strerror})") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(
            f"--link needs root and Linux's ip and tc: `{' '.join(command)}` failed ({said}); "
            "benchmarks/limited_link.py has the commands to make the link by hand"
        )
    return done.stdout
