"""A web server on the loopback whose every answer a test writes, over HTTP, or HTTPS with an authority of its own."""

import datetime as dt
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Answer:
    """What a path answers: `body` at once, or byte by byte with a pause before each.

    `length` is what it says of its length; less than 0 is nothing.
    """

    body: bytes = b""
    kind: str = "text/csv"
    status: int = 200
    location: str = ""
    length: int | None = None
    pause_s: float = 0


@dataclass
class PageServer:
    """The server; `asked` are the paths and queries that were asked for, `hosts` the names they were asked under."""

    port: int
    pages: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    closing: Event = field(default_factory=Event)


@contextmanager
def page_server(certificate: Path | None = None) -> Iterator[PageServer]:
    """Serve while the body runs; with a certificate (and its key in the same file) over HTTPS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        pages = PageServer(server.server_port)
        server.RequestHandlerClass = _handler(pages)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield pages
        finally:
            pages.closing.set()
            server.shutdown()
            thread.join()


def _handler(pages: PageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer as the test has written it."""
            pages.asked.append(self.path)
            pages.hosts.append(self.headers.get("Host", ""))
            answer = pages.pages.get(self.path.partition("?")[0], Answer(status=404))
            with suppress(OSError):  # who asks may leave in the middle
                self._give(answer)

        def _give(self, answer: Answer) -> None:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            if answer.location:
                self.send_header("Location", answer.location)
            if answer.length is None or answer.length >= 0:
                self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            if not answer.pause_s:
                self.wfile.write(answer.body)
                return
            for place in range(len(answer.body)):
                if pages.closing.wait(answer.pause_s):
                    return
                self.wfile.write(answer.body[place : place + 1])

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the class above
            """Keep quiet."""

    return Handler


def certificate_for(name: str, folder: Path) -> tuple[Path, Path]:
    """A certificate for a name, with its key, and the authority's certificate that signs it."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("the test's authority", "the test's authority", authority_key, authority_key, is_ca=True)
    own = _certificate(name, "the test's authority", key, authority_key, is_ca=False)
    pem = serialization.Encoding.PEM
    both = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate, trusted = folder / "server.pem", folder / "authority.pem"
    certificate.write_bytes(both + own.public_bytes(pem))
    trusted.write_bytes(authority.public_bytes(pem))
    return certificate, trusted


def _certificate(
    name: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    is_ca: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]) if not is_ca else _usage(), critical=is_ca)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage() -> x509.KeyUsage:
    no = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **no)
