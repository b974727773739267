"""Names that mean something to SQL are names like others, in every way of reading."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Engine, Onlooker, Projection, Query, Row, Table, Views, answers, projects
from engine.model.projection import TableDefinition
from tests.support.counters import Add, Added, Counter

NAMES = ["true", "false", "True", "FALSE", "null", "rowid", "rank", "value", "select", "excluded"]


def row_of(name: str, *, keyed: bool, blob: bool) -> type[Row]:
    """Give a row with a field of this name, its key or beside it."""
    fields: dict[str, Any] = {name: str, "id": str}
    if blob:
        fields["data"] = bytes
    namespace = {"__module__": __name__, "__annotations__": fields}
    searched = () if name in ("rowid", "rank") else (name,)
    make: Any = type(Row)
    made: type[Row] = make(
        "Named",
        (Row,),
        namespace,
        key=name if keyed else "id",
        index=[name, (name, "id")],
        search=searched,
    )
    return made


class Ask(Query[list[Any]]):
    pass


@pytest.mark.parametrize("blob", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_a_field_may_have_any_name(tmp_path: Any, name: str, keyed: bool, blob: bool) -> None:
    row = row_of(name, keyed=keyed, blob=blob)
    values: dict[str, Any] = {name: "a lantern", "id": "one"}
    if blob:
        values["data"] = b"1"
    put = row(**values)

    class Named(Projection, name="named", version=1):
        rows: Table[row]  # type: ignore[valid-type]

        @projects
        def added(self, event: Added) -> None:
            key = values[row.__shape__.key]
            assert self.rows.get(key) in (None, put)
            self.rows.put(put)

    table: TableDefinition = Named.rows.definition

    @answers
    async def ask(query: Ask, views: Views) -> list[Any]:
        where = {name: "a lantern"}
        found = [
            await views.get(Named.rows, values[row.__shape__.key]),
            *await views.find(Named.rows, where=where, order_by=name),
            *await views.find(Named.rows, order_by=name, descending=True, limit=1),
        ]
        if table.shape.search:
            found += await views.search(Named.rows, "lant", where=where)
        assert await views.count(Named.rows, where=where) == 1
        return found

    store = f"sqlite:{tmp_path}/log.db"
    looking = Onlooker(projections=[Named], answers=[ask], store=store)
    engine = Engine([Counter], projections=[Named], answers=[ask], store=store)
    async with engine, looking as onlooker:
        await engine.execute(Add("a", 1))
        receipt = await engine.execute(Add("a", 1))
        found = await engine.query(Ask(), at=receipt)
        assert found == [put] * len(found)
        assert await onlooker.query(Ask()) == found
