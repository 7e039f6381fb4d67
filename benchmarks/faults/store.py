"""Faults of the store: S3 (moto's server) behind a proxy that fails, while people work and somebody publishes a version."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx

from benchmarks.faults.people import INFO, PROJECT, QUIET, People, publish
from benchmarks.faults.processes import Stand
from benchmarks.faults.proxy import FaultyProxy, Mode, running_proxy
from benchmarks.faults.tables import Table, yes_or_no
from demo.stack import RunningSegloop
from segloop.errors import RegistryError, VersionNotFound
from segloop.registry import Registry, open_registry
from segloop.settings import Settings
from tests.aws.moto_server import running_moto
from tests.toys import BRUSH
from tests.waiting import until

#: How long the store fails, and how long the server may take to follow the champion afterwards, in seconds.
FAILS_S, PATIENCE_S = 10.0, 120.0
STORE = "s3://segloop/models"
COLUMNS = (
    *("fault", "served / failed", "a version published meanwhile", "half versions", "seconds to the right champion"),
    *("what follows", "green"),
)
FOLLOWS: dict[Mode, str] = {
    "well": "the same without a fault",
    "500": "the served version goes on",
    "503": "the served version goes on",
    "slow": "the served version goes on; publishing takes longer",
    "reset": "the served version goes on",
    "hanging": "the served version goes on; nobody waits for the store",
    "cut": "what came in half is fetched again, and never used",
    "lost answer": "a change that was made is found made",
}


@dataclass
class Store:
    """The store as the server has it, and as it is."""

    proxy: FaultyProxy
    through: Registry
    folder: Path
    address: str

    def publish(self) -> str:
        """Add a version and promote it; what came of it."""
        try:
            version = self.through.add(PROJECT, self.folder / "bundle", INFO)
            self.through.promote(PROJECT, version, "while the store failed")
        except RegistryError:
            return "refused"
        return "done"

    def broken(self) -> list[str]:
        """Versions that are listed and not whole, read past the proxy."""
        os.environ["AWS_ENDPOINT_URL_S3"] = self.address
        with tempfile.TemporaryDirectory(prefix="segloop-whole-") as cache:
            direct = open_registry(Settings(_env_file=None, data_dir=Path(cache), store=STORE))
            os.environ["AWS_ENDPOINT_URL_S3"] = self.proxy.url
            found = []
            for info in direct.versions(PROJECT):
                try:
                    direct.bundle(PROJECT, info.version)
                except (RegistryError, VersionNotFound):
                    found.append(info.version)
            return found


def measure(segloop: RunningSegloop, store: Store, mode: Mode, *, restart: bool = False) -> tuple[str, ...]:
    """A row of the table."""
    (store.folder / "bundle" / "number.txt").write_text(f"{mode} {restart}")
    with People(segloop) as people:
        people.begin()
        with store.proxy.failing(mode):
            began = time.monotonic()
            if restart:
                Stand(segloop, store.through, []).kill("segloop.server", -1)
            published = store.publish()
            time.sleep(max(0.0, FAILS_S - (time.monotonic() - began)))
        healed = time.monotonic()
        champion = None
        with suppress(RegistryError):
            champion = store.through.champion(PROJECT)
        assert champion is not None
        with segloop.client() as client, suppress(AssertionError):
            until(lambda: served(client) == champion.version, "the champion", PATIENCE_S)
        followed_s = time.monotonic() - healed
        time.sleep(3)
    broken = store.broken()
    is_green = not broken and people.served > 4 and followed_s < PATIENCE_S and (restart or not people.failed)
    fault = f"S3: {mode}" if not restart else f"S3: {mode}, and the server's process is killed"
    follows = FOLLOWS[mode] if not restart else "503 until the store answers: Label Studio asks again"
    cells = (f"{people.served} / {people.failed}", published, str(len(broken)), f"{followed_s:.1f}")
    return (fault, *cells, follows, yes_or_no(is_green))


def served(client: httpx.Client) -> str:
    """The version that answers."""
    answer = client.post("/setup", json={"project": PROJECT, "schema": BRUSH})
    return str(answer.json().get("model_version", "")) if answer.is_success else ""


def main() -> None:
    """Fail in each way, and write the table row by row."""
    table = Table("store", COLUMNS)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with (
        running_moto() as address,
        running_proxy(address) as proxy,
        tempfile.TemporaryDirectory(prefix="segloop-faults-") as base,
    ):
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="segloop")
        os.environ["AWS_ENDPOINT_URL_S3"] = proxy.url
        folder = Path(base)
        registry = open_registry(Settings(_env_file=None, data_dir=folder / "publisher", store=STORE))
        publish(registry, folder / "bundle")
        store = Store(proxy, registry, folder, address)
        with RunningSegloop(folder, **QUIET, input_size=64, store=STORE) as segloop:
            for mode in FOLLOWS:
                table.add(measure(segloop, store, mode))
            for mode in ("503", "hanging"):
                table.add(measure(segloop, store, mode, restart=True))
