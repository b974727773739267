"""Whatever the host's code raises, wherever it runs, fails its own command and nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path

import pytest

from engine import Engine, EngineFailed, Limits, NotRun, Overloaded, Rejected
from engine.runtime.safely import described, safe_logger
from tests.strangers.unruly import (
    RAISED,
    Ask,
    Inn,
    Jar,
    Note,
    Put,
    PutLater,
    Silent,
    answer,
    assert_others_go_on,
    is_not_run,
    raising,
    where,
)
from tests.support.waiting import until


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("place", ["handler", "applier", "event", "async handler"])
async def test_what_a_command_raises_fails_that_command_alone(place: str, name: str) -> None:
    command = PutLater("bad") if place == "async handler" else Put("bad", times=2)
    async with Engine([Jar]) as engine:
        for _ in range(2):
            assert not isinstance(await answer(engine, Put("bad")), Exception)
        where[place, "bad"] = raising(name)
        found = await answer(engine, command)

        if name == "rejected" and "handler" in place:
            assert isinstance(found, Rejected)
        elif place == "event" and name == "rejected":
            assert isinstance(found, Rejected), "the handler itself made the event"
        else:
            assert is_not_run(found), found
        await assert_others_go_on(engine, version=2)


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("place", ["state", "applier", "event"])
async def test_what_loading_raises_costs_one_stream(tmp_path: Path, place: str, name: str) -> None:
    store = f"sqlite:{tmp_path / 'jars.db'}"
    async with Engine([Jar], store=store) as engine:
        for _ in range(2):
            await engine.execute(Put("bad"))

    async with Engine([Jar], store=store) as engine:
        made = iter((None,))  # the first one is made for the caller, the second one is loaded

        def raise_later() -> None:
            if place != "state" or next(made, 1) == 1:
                raising(name)()

        where[place, "bad"] = raise_later
        both = await asyncio.gather(answer(engine, Put("bad")), answer(engine, Put("fine")))

        assert is_not_run(both[0]), both
        assert not isinstance(both[1], Exception), both
        await assert_others_go_on(engine, version=2)


@pytest.mark.parametrize(
    "error", [LookupError("Ann, of Long Street"), Rejected("no", "Ann, of Long Street")]
)
async def test_an_aggregate_that_cannot_be_loaded_quotes_no_words_of_an_applier(
    tmp_path: Path, error: Exception
) -> None:
    def fail() -> None:
        raise error

    store = f"sqlite:{tmp_path / 'jars.db'}"
    async with Engine([Jar], store=store) as engine:
        await engine.execute(Put("bad"))
    async with Engine([Jar], store=store) as engine:
        where["applier", "bad"] = fail
        found = await answer(engine, Put("bad"))

    assert f"jar:bad cannot be loaded: {type(error).__name__}" in str(found)
    assert "Ann" not in str(found)
    assert isinstance(found, NotRun)
    assert found.__cause__ is error


async def test_a_no_of_an_applier_leaves_no_trace_of_its_events() -> None:
    async with Engine([Jar]) as engine:
        await engine.execute(Put("bad", coins=1))
        where["applier", "bad"] = raising("rejected")
        refused = await answer(engine, Put("bad", coins=70, times=3), key="k")
        assert is_not_run(refused)
        assert isinstance(refused.__cause__, Rejected)
        assert "an applier decides nothing" in str(refused)

        await assert_others_go_on(engine, version=1)
        where["applier", "bad"] = raising("rejected")
        assert is_not_run(await answer(engine, Put("bad", coins=70), key="k")), "no key is kept"


@pytest.mark.parametrize("task", ["Journal.run", "Directory.run", "Dispatcher.run", "Feeds.run"])
async def test_a_task_that_somebody_cancels_is_a_failure(task: str) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(EngineFailed, match="was cancelled by somebody"):
        async with Engine([Jar]) as engine:
            inside = [each for each in asyncio.all_tasks() - before if task in each.get_name()]
            calls = [asyncio.ensure_future(answer(engine, Put(f"j{n}"))) for n in range(5)]
            await asyncio.sleep(0)
            assert inside
            inside[0].cancel()
            answers = await asyncio.gather(*calls)
            assert len(answers) == 5, "each has its answer"
            await until(lambda: engine.failed is not None)
            assert engine.statistics().commands.open == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_tasks_that_are_cancelled_before_they_begin_are_a_failure() -> None:
    before = asyncio.all_tasks()
    engine = Engine([Jar])
    starting = asyncio.ensure_future(engine.__aenter__())
    while not any("Dispatcher.run" in task.get_name() for task in asyncio.all_tasks() - before):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - before - {starting}:
        if task.get_name() != "foldline engine":
            task.cancel()
    await asyncio.wait([starting])
    gc.collect()  # what never began is told of by the collector, here
    with pytest.raises(EngineFailed, match="cancelled by somebody"):
        await engine.__aexit__(None, None, None)
    assert engine.failed is not None


async def test_handlers_that_stay_are_bounded_and_named() -> None:
    limits = Limits(commands_accepted=4, mailbox_commands=4)
    let_go = asyncio.Event()
    async with Engine([Inn], limits=limits, resources={asyncio.Event: let_go}) as engine:
        found = [await answer(engine, Ask(f"inn-{n % 3}"), deadline=0.001) for n in range(12)]
        assert engine.statistics().handlers_running == 4
        assert isinstance(found[-1], Overloaded)
        assert "Inn.ask" in str(found[-1])
        assert (await engine.execute(Note("inn-1"))).version == 1, "others go on"

        let_go.set()
        await until(lambda: engine.statistics().handlers_running == 0)
        assert not isinstance(await answer(engine, Ask("inn-1")), Exception)


async def test_the_log_tells_what_the_hosts_code_said_unless_that_is_not_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def leak() -> None:
        raise LookupError(" ".join(("no such customer as", "Ann")))

    for wanted in (True, False):
        caplog.clear()
        async with Engine([Jar], log_messages=wanted) as engine:
            where["handler", "bad"] = leak
            assert is_not_run(await answer(engine, Put("bad", coins=4711)))
        text = "\n".join(record.getMessage() for record in caplog.records)
        assert "LookupError" in text
        assert "in leak" in text, "the traceback leads to it"
        assert ("no such customer as Ann" in text) is wanted
        assert "4711" not in text


def test_an_error_without_a_text_is_described() -> None:
    assert "Silent" in described(Silent())
    assert "LookupError" in described(Silent())
    assert described(ValueError()) == "ValueError"
    assert described(ValueError("x")) == "ValueError: x"


@pytest.mark.parametrize("name", ["filter", "handler", "record", "level"])
@pytest.mark.parametrize("error", [KeyError("request_id"), SystemExit(1), Silent()])
async def test_a_logger_that_raises_costs_its_own_line(
    name: str, error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> bool:
        raise error

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fail()

    logger = logging.Logger("host")
    if name == "filter":
        logger.addFilter(fail)
    elif name == "handler":
        logger.addHandler(Handler())
    elif name == "record":
        logger.makeRecord = fail  # type: ignore[assignment,method-assign]
    else:
        logger.isEnabledFor = fail  # type: ignore[method-assign]
    async with Engine([Jar], logger=logger) as engine:
        where["handler", "bad"] = raising("silent")
        assert is_not_run(await answer(engine, Put("bad")))
        where.clear()
        where["async handler", "bad"] = raising("exit")
        assert is_not_run(await answer(engine, PutLater("bad")))
        await assert_others_go_on(engine)
    if name != "level":
        assert "Jar.put failed on Put" in capfd.readouterr().err


async def test_an_engine_that_fails_answers_though_its_logger_raises() -> None:
    def fail(_: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    logger = logging.Logger("host")
    logger.addFilter(fail)
    before = asyncio.all_tasks()
    with pytest.raises(EngineFailed):
        async with Engine([Jar], logger=logger) as engine:
            for task in asyncio.all_tasks() - before:
                if "Directory.run" in task.get_name():
                    task.cancel()
            assert is_not_run(await answer(engine, Put("j")))


async def test_lines_name_who_logs_and_not_the_guard(caplog: pytest.LogCaptureFixture) -> None:
    async with Engine([Jar]) as engine:
        where["handler", "bad"] = raising("silent")
        await answer(engine, Put("bad"))
    assert {record.filename for record in caplog.records} == {"actor.py"}


def test_a_logger_that_the_configuration_disables_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = logging.getLogger("foldline.a-host")
    logger = safe_logger(host)
    logger.warning("seen")
    # What dictConfig and fileConfig do to each logger that they do not name.
    host.disabled = True
    logger.info("lost, as one that a level leaves out")
    logger.error("lost")
    safe_logger(host).critical("lost, and told of already")

    told = [(record.name, record.getMessage()) for record in caplog.records]
    assert [name for name, _ in told] == ["foldline.a-host", "root"]
    assert "disable_existing_loggers=False" in told[1][1]
