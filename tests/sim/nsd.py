"""NSD as the DNS of a test: an authoritative server that nobody here wrote, for one zone, `home.test`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query

HOST = "127.0.0.1"
ZONE = """\
$ORIGIN home.test.
$TTL 60
@ IN SOA ns admin 1 3600 600 86400 7
@ IN NS ns
ns IN A 127.0.0.1
"""
CONFIGURATION = """\
server:
  ip-address: {host}@{port}
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  zonesdir: "{directory}"
  zonelistfile: "{directory}/zone.list"
  logfile: "{directory}/nsd.log"
  pidfile: ""
  xfrdfile: ""
remote-control:
  control-enable: no
zone:
  name: home.test
  zonefile: home.test.zone
"""


class Nsd:
    """A context manager. records: lines of the zone file, names relative to `home.test`."""

    def __init__(self, directory: Path, port: int, *records: str) -> None:
        self.port = port
        (directory / "home.test.zone").write_text(ZONE + "\n".join((*records, "")))
        configuration = directory / "nsd.conf"
        configuration.write_text(CONFIGURATION.format(host=HOST, port=port, directory=directory))
        self._log = directory / "nsd.log"
        self._command = ("nsd", "-d", "-c", str(configuration))

    def __enter__(self) -> Nsd:
        self._process = subprocess.Popen(self._command)
        deadline = time.monotonic() + 30.0
        question = dns.message.make_query("home.test", "SOA")
        while True:
            try:
                if dns.query.udp(question, HOST, 0.2, self.port).answer:
                    return self
            except (OSError, dns.exception.DNSException):
                time.sleep(0.02)
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__()
                raise AssertionError(f"nsd does not serve home.test\n{self._log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
