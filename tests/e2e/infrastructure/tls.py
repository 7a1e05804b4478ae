"""TLS before a PostgreSQL: certificates, and a relay that ends it as poolers do."""

import asyncio
import contextlib
import datetime
import shutil
import socket
import ssl
import struct

import trustme
from client import wait_until
from proxy import HOST, Proxy

#: What the certificate is for. No name server knows it: ``hostaddr`` goes beside it.
NAME = "postgres.test"

#: What a client asks before anything else: an encrypted connection, by GSSAPI or TLS.
GSSENC_REQUEST, SSL_REQUEST = 80877104, 80877103


class Certificates:
    """The certificates of a server, as files in a folder of its stack.

    :param stack: whose PostgreSQL gets them
    """

    def __init__(self, stack):
        self._stack = stack
        self._authority = trustme.CA()
        self.root = stack.folder / "root.crt"
        self._authority.cert_pem.write_to_path(self.root)

    def issue(self, name=NAME, is_expired=False, authority=None):
        """Return a certificate of ours, unless another authority is to issue it."""
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.timezone.utc)
        return (authority or self._authority).issue_cert(
            name,
            not_before=now - 2 * day,
            not_after=now - day if is_expired else now + day,
        )

    def install(self, certificate):
        """Have PostgreSQL show this one; return when it does."""
        shown = certificate.cert_chain_pems[0].bytes()
        files = {
            "server.crt": certificate.cert_chain_pems[0],
            "server.key": certificate.private_key_pem,
        }
        for name, pem in files.items():
            path = self._stack.folder / name
            path.touch(mode=0o600)
            pem.write_to_path(path)
            if user := self._stack.environment.server_user:
                shutil.chown(path, user, user)
        self._stack.execute("ALTER SYSTEM SET ssl = on")
        for setting, name in zip(("ssl_cert_file", "ssl_key_file"), files, strict=True):
            path = self._stack.folder / name
            self._stack.execute(f"ALTER SYSTEM SET {setting} = '{path}'")
        self._stack.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: self._shown() == ssl.PEM_cert_to_DER_cert(shown.decode()),
            "PostgreSQL shows the certificate",
        )

    def _shown(self):
        """Return the certificate that PostgreSQL shows, None if it has none."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((HOST, self._stack.ports.postgres)) as plain:
            plain.sendall(struct.pack("!ii", 8, SSL_REQUEST))
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain) as encrypted:
                return encrypted.getpeercert(binary_form=True)


class TlsRelay(Proxy):
    """Ends TLS before a PostgreSQL that has none; sends in records as large as can be.

    PostgreSQL's own are of 8 KB at most, poolers' are up to 16 KB.

    :param upstream: the port of PostgreSQL
    :param certificate: of trustme
    """

    #: Seconds in which what PostgreSQL sends comes together.
    PAUSE = 0.02

    def __init__(self, upstream, certificate):
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        super().__init__(upstream)

    async def _connected(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            _length, code = struct.unpack("!ii", await reader.readexactly(8))
            if code == GSSENC_REQUEST:
                writer.write(b"N")
                _length, code = struct.unpack("!ii", await reader.readexactly(8))
            assert code == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(self._context)
            await super()._connected(reader, writer)

    async def _open_upstream(self):
        reader, writer = await super()._open_upstream()
        return _SlowReader(reader), writer


class _SlowReader:
    def __init__(self, reader):
        self._reader = reader

    async def read(self, size):
        await asyncio.sleep(TlsRelay.PAUSE)
        return await self._reader.read(size)
