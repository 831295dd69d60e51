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
from boig_core.data import web
from boig_core.data.rejects import Rejected
from boig_core.data.web import Web


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
