"""A real S3 server from a wheel: SeaweedFS on the loopback, in a folder of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

READY_S = 60
STOP_S = 30
GRPC = 10_000  # each port's gRPC listens so much above it
WEED = Path(sys.executable).with_name("weed")


def free_ports(count: int) -> list[int]:
    """So many ports that are free now, and whose gRPC ports are."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port < GRPC or port + GRPC > 65_535:
                continue
            with socket.socket() as above, contextlib.suppress(OSError):
                above.bind(("127.0.0.1", port + GRPC))
                found.append(port)
    return found


@dataclass
class Seaweed:
    """One server, which can be stopped and started again with all that it holds, on the same ports."""

    folder: Path
    key: str = "test-key"
    secret: str = "test-secret-0123456789"
    ports: list[int] = field(default_factory=lambda: free_ports(5))
    child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where its S3 answers."""
        return f"http://127.0.0.1:{self.ports[3]}"

    def client(self) -> Any:
        """A client of one's own, to look at what is there."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(
                connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
            ),
        )

    def start(self) -> None:
        """Start it, and wait until it takes an object: an answer alone is not enough."""
        self.folder.mkdir(parents=True, exist_ok=True)
        master, volume, filer, s3, admin = self.ports
        command = [
            str(WEED), "-logtostderr", "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}",
            f"-admin.port={admin}", "-admin.ui=false", "-webdav=false", "-master.telemetry=false",
            "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        log = (self.folder / "server.log").open("ab")
        with log:
            self.child = subprocess.Popen(
                command,
                env={**os.environ, "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self._wait()

    def stop(self) -> None:
        """End it, and wait until its ports are free."""
        if self.child is None:
            return
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child = None

    def bucket(self, name: str) -> str:
        """Make a bucket."""
        self.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """The keys of a bucket's objects."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def _wait(self) -> None:
        client = self.client()
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert self.child
            if self.child.poll() is not None:
                break
            try:
                with contextlib.suppress(
                    client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists
                ):
                    client.create_bucket(Bucket="probe")
                client.put_object(Bucket="probe", Key="probe", Body=b"")
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
            else:
                return
        log = (self.folder / "server.log").read_text(errors="replace")[-3000:]
        message = f"SeaweedFS is not up after {READY_S} s. Its log ends:\n{log}"
        raise RuntimeError(message)


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """Run a server while the body runs."""
    server = Seaweed(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
