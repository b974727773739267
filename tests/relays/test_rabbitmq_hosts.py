"""Virtual hosts of RabbitMQ, which hosted ones give to each of their customers."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import Any

import aio_pika
import pytest

from engine.brokers.address import read_address
from engine.relays import Consumer, Message
from tests.relays.relaying import add, published, relay_to, relaying, why_it_tries_again
from tests.support.brokers import USER, RabbitServer
from tests.support.counters import Add, total
from tests.support.waiting import until


@pytest.fixture
def rabbit(started: Any) -> RabbitServer:
    server: RabbitServer = started("rabbitmq")
    return server


def control(server: RabbitServer, *arguments: str) -> None:
    subprocess.run(
        ["/usr/lib/rabbitmq/bin/rabbitmqctl", *arguments],
        cwd=server.folder,
        env={**server.environment(), "PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("path", "host"), [("", ""), ("/", ""), ("/shop", "shop"), ("/%2F", "/"), ("/a%2Fb", "a/b")]
)
def test_a_url_of_rabbitmq_names_a_virtual_host(path: str, host: str) -> None:
    assert read_address(f"amqp://ann:word@localhost{path}").path == host


def to_command(message: Message) -> Add:
    return Add(f"{message.attributes['subject'].partition(':')[2]}-again", 1)


async def test_a_relay_and_a_consumer_meet_in_a_virtual_host(
    rabbit: RabbitServer, topic: str
) -> None:
    await asyncio.to_thread(control, rabbit, "add_vhost", f"of/{topic}")
    url = f"{rabbit.url}/of%2F{topic}"
    async with relaying(relay_to(rabbit, topic, url=url)) as engine:
        position = await add(engine, "a")
        await until(lambda: engine.statistics().projectors["outbound"].retrying is not None)
        assert "this user may not enter it" in await why_it_tries_again(engine)

        rights = ("-p", f"of/{topic}", USER, ".*", ".*", ".*")
        await asyncio.to_thread(control, rabbit, "set_permissions", *rights)
        async with await aio_pika.connect(url) as there:
            channel = await there.channel()
            for name in (topic, f"{topic}-dead"):
                await channel.declare_queue(name, durable=True)
        await published(engine, position)

        consumer = Consumer(
            url, topic=topic, name="adder", to_command=to_command, dead=f"{topic}-dead"
        )
        async with consumer.running(engine):
            await until(lambda: consumer.statistics().executed == 1)
        assert await total(engine, "a-again") == "1 at 1"
