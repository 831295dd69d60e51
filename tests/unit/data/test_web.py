"""TLS to the address that was looked at, under the name of the host: certificates are checked as if
the name had been connected to."""

import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from boig_core.config import Data
from boig_core.data.fetching import web
from boig_core.data.fetching.web import Web, public_address
from boig_core.data.rejects import Rejected


class Hello(BaseHTTPRequestHandler):
    """Answers with the host that it was asked for."""

    def do_GET(self) -> None:
        body = self.headers["Host"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server on loopback whose certificate is for ``secure.example``, signed by itself and
    trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secure.example")])
    now = datetime.now(UTC)
    created = x509.CertificateBuilder(
        name,
        name,
        key.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=1),
        now + timedelta(days=1),
    )
    created = created.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("secure.example")]), critical=False
    )
    created = created.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(
        created.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    plain = serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(web, "public_address", lambda host, port: "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http.server_port
        http.shutdown()


def test_a_certificate_is_held_against_the_name_and_not_the_address(port: int) -> None:
    client = Web(Data())
    with client.get(f"https://secure.example:{port}/x.png") as answer:
        assert answer.read() == f"secure.example:{port}".encode()
    with pytest.raises(Rejected, match="SSLError") as caught:
        client.get(f"https://other.example:{port}/x.png")
    assert caught.value.code == "http_error"


def test_a_certificate_that_nobody_vouches_for_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Rejected, match="CERTIFICATE_VERIFY_FAILED"):
        Web(Data()).get(f"https://secure.example:{port}/x.png")


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::a00:1",
        "2002:7f00:1::1",
        "::ffff:192.168.0.1",
        "fe80::1%eth0",
        "::ffff:0:10.0.0.1",
        "::10.0.0.1",
        "2001:0:7f00:1::1",
        "64:ff9b:1::a00:1",
        "fec0::1",
        "192.0.0.9",
        "192.0.0.171",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "100.64.0.1",
        "240.0.0.1",
        "5f00::1",
        "3fff::1",
        "2002:808:808::1",
    ],
)
def test_an_ipv4_address_inside_an_ipv6_one_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(
        web.socket, "getaddrinfo", lambda *args, **kwargs: [(10, 1, 6, "", (address, 80))]
    )
    with pytest.raises(Rejected, match="private address"):
        public_address("inside.example", 80)


@pytest.mark.parametrize(
    "address", ["2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8", "8.8.8.8"]
)
def test_public_addresses_are_let_in(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(
        web.socket, "getaddrinfo", lambda *args, **kwargs: [(10, 1, 6, "", (address, 80))]
    )
    assert public_address("public.example", 80) == address


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(0, 0, 0, "", (address, 80)) for address in ("93.184.216.34", "192.168.0.1")]
    monkeypatch.setattr(web.socket, "getaddrinfo", lambda *args, **kwargs: entries)
    with pytest.raises(Rejected, match=r"192\.168\.0\.1"):
        public_address("mixed.example", 80)
    monkeypatch.setattr(web.socket, "getaddrinfo", lambda *args, **kwargs: entries[:1])
    assert public_address("public.example", 80) == "93.184.216.34"
