"""Fetching a spreadsheet over HTTPS: bounded in size and time, and with no way into private networks.

Whoever fills in a form names the address, and the worker stands inside a network that they may not reach. So each hop's
name is looked up once, what it stands for is checked, and the connection goes to that very address: a name that means
another machine a moment later (DNS rebinding) changes nothing. The certificate still has to be the name's, and proxies
of the environment are left out, as they would look the name up again. A provider's image is fetched elsewhere
(stores.py), by the usual ways: its address comes from the provider, not from a form.
"""

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from flows.batch.private_addresses import is_private
from flows.batch.problems import NotStarted, Problem

ALLOW_PRIVATE = "ROWSHOT_ALLOW_PRIVATE_ADDRESSES"
LARGEST_MB = "ROWSHOT_LARGEST_CSV_MB"
MOST_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PORTS = {"https": 443, "http": 80}
CHUNK_BYTES = 1 << 16
SAFE = "/%:@!$&'()*+,;=~?"

Resolve = Callable[[str, int], Sequence[str]]


class CsvNotFetched(Exception):
    """The address brought no file. `what` and `mend` are sentences for people, without the address's query."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what} {mend}")
        self.what = what
        self.mend = mend


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a fetch may take and where it may go. `private` is the operator's word on the worker, never the form's."""

    largest_bytes: int = 50 * 1024 * 1024
    connect_s: float = 10
    whole_s: float = 60
    private: bool = False

    @classmethod
    def of_environment(cls) -> Self:
        """What the worker's environment says: ROWSHOT_LARGEST_CSV_MB and ROWSHOT_ALLOW_PRIVATE_ADDRESSES.

        Raises: NotStarted.
        """
        told = os.environ.get(LARGEST_MB, "").strip()
        if told and not (told.isdecimal() and int(told)):
            raise NotStarted([Problem(f"{LARGEST_MB} is {told!r}.", "Write a number of megabytes, such as 100.")])
        largest = int(told) * 1024 * 1024 if told.isdecimal() and int(told) else cls().largest_bytes
        return cls(largest_bytes=largest, private=os.environ.get(ALLOW_PRIVATE, "") == "1")


@dataclass(frozen=True, slots=True)
class Page:
    """What an address brought, from where in the end, and what its server calls it."""

    content: bytes
    url: str
    content_type: str


def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses that a name stands for now. Raises: OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in found))


def fetch(url: str, bounds: Bounds, resolve: Resolve = look_up) -> Page:
    """Bring what lies at an address, following redirects by hand. Raises: CsvNotFetched."""
    deadline = time.monotonic() + bounds.whole_s
    for _ in range(MOST_REDIRECTS + 1):
        hop = _Hop(_checked(url, bounds), bounds, deadline, resolve)
        found = hop.ask()
        if isinstance(found, Page):
            return found
        url = _redirected(url, found)
    raise CsvNotFetched(f"{shown(url)} is the end of more than {MOST_REDIRECTS} redirects.", "Give the final address.")


def shown(url: str) -> str:
    """An address for people and the ledger to see: without a password, a query and a fragment, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        told = f"{shown(url)} leads to an address that can't be understood."
        raise CsvNotFetched(told, "Give the final address.") from None


def _checked(url: str, bounds: Bounds) -> SplitResult:
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise CsvNotFetched(
            "The address of the CSV can't be understood.", "Copy it from the browser once more."
        ) from None
    if parts.scheme not in PORTS or not known:
        told = f"{shown(url)} is neither a path nor an s3:// or https:// address."
        raise CsvNotFetched(told, "Give one of these, or paste the rows.")
    if parts.scheme == "http" and not bounds.private:
        raise CsvNotFetched(f"{shown(url)} is not encrypted.", "Give an address that begins with https://.")
    if "@" in parts.netloc:
        raise CsvNotFetched(
            f"The address of {shown(url)} holds a user or a password, which everybody who sees the run could read.",
            "Put the file where it needs none, such as a bucket (s3://...).",
        )
    return parts


@dataclass
class _Hop:
    """One request to one machine."""

    parts: SplitResult
    bounds: Bounds
    deadline: float
    resolve: Resolve
    late: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> Page | str:
        """What it answered: a page, or where to go instead."""
        try:
            with self._connected() as connection:
                connection.request("GET", self._target, headers=self._headers)
                answer = connection.getresponse()
                if answer.status in REDIRECTS and (location := answer.headers.get("Location")):
                    return location
                self._check_status(answer.status)
                content = self._read(answer)
        except (OSError, http.client.HTTPException) as error:
            if self.late.is_set():
                raise self._too_slow() from error
            raise self._failed(error) from error
        if self.late.is_set():
            raise self._too_slow()
        return Page(content, self.parts.geturl(), answer.headers.get_content_type())

    @property
    def _host(self) -> str:
        try:
            return (self.parts.hostname or "").encode("idna").decode()
        except UnicodeError:
            raise CsvNotFetched(f"{self._shown} has no name that can be looked up.", "Check its spelling.") from None

    @property
    def _port(self) -> int:
        return self.parts.port or PORTS[self.parts.scheme]

    @property
    def _shown(self) -> str:
        return shown(self.parts.geturl())

    @property
    def _target(self) -> str:
        path = quote(self.parts.path or "/", safe=SAFE)
        return f"{path}?{quote(self.parts.query, safe=SAFE)}" if self.parts.query else path

    @property
    def _headers(self) -> dict[str, str]:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return {
            "Host": host if self._port == PORTS[self.parts.scheme] else f"{host}:{self._port}",
            "User-Agent": "rowshot",
            "Accept": "text/csv, text/plain;q=0.9, */*;q=0.5",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }

    def _addresses(self) -> Sequence[str]:
        """The machines of this name, looked up once and each of them allowed."""
        host = self._host
        try:
            addresses = self.resolve(host, self._port)
        except (OSError, ValueError):  # a name that no machine can have
            addresses = []
        if not addresses:
            raise CsvNotFetched(f"There is no machine named {host}.", "Check the address's spelling.")
        private = [is_private(address) for address in addresses]
        if any(private) and not self.bounds.private:
            raise CsvNotFetched(
                f"{host} is in a private network, where forms may not lead.",
                f"Use a public address or a bucket (s3://...), or set {ALLOW_PRIVATE}=1 for the worker.",
            )
        if self.parts.scheme == "http" and not all(private):
            raise CsvNotFetched(f"{self._shown} is not encrypted.", "Give an address that begins with https://.")
        return addresses

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        sock = self._connect(self._addresses())
        tls = self.parts.scheme == "https"
        try:
            if tls:
                context = ssl.create_default_context(
                    cafile=os.environ.get("REQUESTS_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
                )
                sock = context.wrap_socket(sock, server_hostname=self._host, do_handshake_on_connect=False)
            # a time-out of the socket begins anew with each byte: this one ends a server that drips
            end = threading.Timer(max(0.0, self.deadline - time.monotonic()), self._end, [sock])
            end.start()
            try:
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                connection = http.client.HTTPConnection(self._host, self._port)
                connection.auto_open = 0  # or it would look the name up once more
                connection.sock = sock
                yield connection
            finally:
                end.cancel()
        finally:
            sock.close()

    def _connect(self, addresses: Sequence[str]) -> socket.socket:
        failed: OSError = TimeoutError()
        for address in addresses:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise self._too_slow()
            try:
                sock = socket.create_connection((address, self._port), min(self.bounds.connect_s, left))
            except OSError as error:
                failed = error
            else:
                sock.settimeout(self.bounds.whole_s)
                return sock
        raise failed

    def _end(self, sock: socket.socket) -> None:
        self.late.set()
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:  # it is closed already, or the other side has left
            return

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        most = self.bounds.largest_bytes
        if (answer.length or 0) > most:
            raise too_large(self._shown, most)
        parts = bytearray()
        while part := answer.read(CHUNK_BYTES):
            parts += part
            if len(parts) > most:
                raise too_large(self._shown, most)
        if answer.length and not self.late.is_set():
            raise http.client.IncompleteRead(bytes(parts), answer.length)
        return bytes(parts)

    def _check_status(self, status: int) -> None:
        if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own bounds
            return
        what, mend = f"{self._shown} could not be fetched ({status}).", "Try again later, or give another address."
        if status in {401, 403}:
            what = f"{self._shown} is not open to everybody ({status})."
            mend = "Publish it, or put it into a bucket (s3://...)."
        elif status in {404, 410}:
            what, mend = f"There is nothing at {self._shown} ({status}).", "Check the address."
        raise CsvNotFetched(what, mend)

    def _too_slow(self) -> CsvNotFetched:
        told = f"{self._shown} was not here within {self.bounds.whole_s:g} seconds."
        return CsvNotFetched(told, "Try again later, or put the file into a bucket (s3://...).")

    def _failed(self, error: Exception) -> CsvNotFetched:
        if isinstance(error, ssl.SSLError):
            return CsvNotFetched(f"{self._shown} has no certificate that can be trusted.", "Check the address.")
        if isinstance(error, http.client.HTTPException):
            return CsvNotFetched(f"{self._shown} broke off or is no web server.", "Try again, or check the address.")
        return CsvNotFetched(f"{self._host} can't be reached ({type(error).__name__}).", "Try again later.")


def too_large(name: str, most_bytes: int) -> CsvNotFetched:
    """The refusal of a file that is larger than may be."""
    return CsvNotFetched(
        f"{name} is larger than {most_bytes / 1024 / 1024:g} MB.",
        f"Cut it into several files, or set {LARGEST_MB} for the worker.",
    )
