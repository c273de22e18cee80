"""A real schema registry for the tests: Apicurio Registry, which has the Confluent API, from its distribution on Maven."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import brokers

VERSION = "2.6.13.Final"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
START_SECONDS_MAX = 90.0


def distribution() -> Path:
    """Its folder, fetched by Maven the first time. Raises `brokers.NoBrokerError`."""
    folder = brokers.CACHE / f"apicurio-{VERSION}"
    if folder.is_dir():
        return folder
    brokers.CACHE.mkdir(parents=True, exist_ok=True)
    with brokers.locked(brokers.CACHE / "registry.lock"):
        if folder.is_dir():
            return folder
        draft = Path(tempfile.mkdtemp(dir=brokers.CACHE))
        for goal in (
            ["dependency:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false"],
            ["dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={draft}"],
        ):
            done = subprocess.run(["mvn", "-q", "-B", *goal], capture_output=True, text=True, check=False, cwd=draft)
            if done.returncode:
                shutil.rmtree(draft)
                raise brokers.NoBrokerError(f"Maven could not fetch the registry: {(done.stdout + done.stderr)[-1000:]}")
        (archive,) = draft.glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(draft, filter="data")
        archive.unlink()
        draft.rename(folder)
    return folder


@contextlib.contextmanager
def started() -> Iterator[str]:
    """A registry without any schema; the URL of its Confluent API."""
    folder = distribution()
    (jar,) = folder.glob("*-runner.jar")
    (port,) = brokers.free_ports(1)
    flags = ["-Xmx384m", *brokers.JVM[2:], brokers.FAST_START, "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["java", *flags, "-jar", str(jar)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=brokers.die_with_parent,  # noqa: PLW1509 - it is started from the main thread
        )
        try:
            url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
            deadline = time.monotonic() + START_SECONDS_MAX
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/subjects", timeout=5):  # noqa: S310
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise brokers.NoBrokerError(f"the registry did not start: {log.read()[-2000:].decode(errors='replace')}")
                time.sleep(0.1)
            yield url
        finally:
            process.kill()
            process.wait()
