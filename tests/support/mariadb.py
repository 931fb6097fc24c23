"""A MariaDB server of our own: a fresh data directory and a free port, gone with the test.

Only root may start it (as user ``mysql``, who owns the directory). A commit survives its death, not that of the machine.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from support.patience import PATIENCE_S, free_port
from support.postgres import UnavailableError


class Mariadb:
    """One server with the database and user ``ser``."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise UnavailableError("only root can start a MariaDB server as user mysql")
        for program in ("mariadbd", "mariadb-install-db", "mariadb", "openssl"):
            if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
                raise UnavailableError(f"{program} is not installed (apt-get install mariadb-server openssl)")
        try:
            owner = pwd.getpwnam("mysql")
        except KeyError:
            raise UnavailableError("there is no user mysql to run the server as") from None
        self.directory = tempfile.mkdtemp(prefix="serpy-my-")
        os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        Path(self.directory).chmod(0o755)
        self.socket = f"{self.directory}/socket"
        self.port = free_port()
        self.url = f"mysql://ser:heslo@127.0.0.1:{self.port}/ser"
        self.server: subprocess.Popen[bytes] | None = None
        try:
            self._install()
            self._certificate()
            self.start()
            self.sql("create user ser@'%' identified by 'heslo'; grant all on ser.* to ser@'%'; create database ser")
        except subprocess.CalledProcessError as exc:
            self.close()
            raise UnavailableError(f"MariaDB does not start: {exc.stderr or exc.stdout!r}") from None

    def _install(self) -> None:
        subprocess.run(
            [
                "mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.directory}/data", "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ],
            check=True, capture_output=True, text=True, cwd=self.directory,
        )  # fmt: skip

    def _certificate(self) -> None:
        """A key and a certificate of our own for 127.0.0.1."""
        subprocess.run(
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{self.directory}/key.pem",
                "-out", f"{self.directory}/cert.pem",
            ],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        Path(f"{self.directory}/key.pem").chmod(0o644)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [
            "/usr/sbin/mariadbd", "--no-defaults", "--user=mysql", f"--datadir={self.directory}/data",
            f"--socket={self.socket}", f"--pid-file={self.directory}/pid", "--bind-address=127.0.0.1",
            f"--port={self.port}", "--innodb-buffer-pool-size=64M", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0",
            f"--ssl-cert={self.directory}/cert.pem", f"--ssl-key={self.directory}/key.pem",
        ]  # fmt: skip
        with Path(f"{self.directory}/log").open("ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.sql("select 1", "")
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline or self.server.poll() is not None:
                    text = Path(f"{self.directory}/log").read_text()[-500:]
                    raise UnavailableError(f"MariaDB does not start: {text}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Kill the server, as a crash would."""
        if self.server is not None:
            self.server.send_signal(signal.SIGKILL)
            self.server.wait()
            self.server = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        assert self.server is not None
        self.server.send_signal(signal.SIGSTOP)
        tasks = list(Path(f"/proc/{self.server.pid}/task").iterdir())
        while any((task / "stat").read_text().rsplit(")", 1)[1].split()[0] != "T" for task in tasks if task.exists()):
            time.sleep(0.001)  # the signal stops one thread after the other

    def thaw(self) -> None:
        """Let it go on."""
        assert self.server is not None
        self.server.send_signal(signal.SIGCONT)

    def sql(self, text: str, database: str = "") -> str:
        """Run *text* as root, return the client's plain output."""
        return subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={self.socket}", "-u", "root", "-N", "-B", "-e", text, *([database] if database else [])],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    def fresh(self) -> str:
        """The URL of the database, without a row; tables that were made stay, since making them takes a second."""
        if self.server is None:
            self.start()
        tables = self.sql("select table_name from information_schema.tables where table_schema = 'ser'").split()
        self.sql("; ".join(["create database if not exists ser", *(f"delete from ser.{table}" for table in tables)]))
        return self.url

    def cut(self) -> None:
        """End all connections to the database."""
        for number in self.sql("select id from information_schema.processlist where user = 'ser'").split():
            self.sql(f"kill {number}")

    def close(self) -> None:
        """Stop and delete everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
