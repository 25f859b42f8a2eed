"""The hub's tables. Only cloudlink.hub.store may import this; everybody else sees Kubernetes objects."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Engine, LargeBinary
from sqlmodel import Field, SQLModel

SCHEMA_VERSION = 1


class ObjectRow(SQLModel, table=True):
    """One API object, whole, as the JSON that clients get.

    :ivar namespace: "" for objects of the whole cluster (a primary key can't hold NULL).
    :ivar revision: its resourceVersion.
    :ivar sealed: `data` is encrypted with the hub's secret key.
    """

    __tablename__ = "objects"

    kind: str = Field(primary_key=True)
    namespace: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    revision: int = Field(sa_column=Column(BigInteger, nullable=False))
    sealed: bool = False
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class RecordRow(SQLModel, table=True):
    """Some bytes that are no API object: a node's key, a desired generation, a join token's hash."""

    __tablename__ = "records"

    bucket: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    value: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class CounterRow(SQLModel, table=True):
    """`revision`, the newest resourceVersion ever given out; `schema`, the shape of these tables."""

    __tablename__ = "counters"

    name: str = Field(primary_key=True)
    value: int = Field(sa_column=Column(BigInteger, nullable=False))


OBJECTS = SQLModel.metadata.tables["objects"]
RECORDS = SQLModel.metadata.tables["records"]
COUNTERS = SQLModel.metadata.tables["counters"]


def create_tables(engine: Engine) -> None:
    """Make what isn't there yet."""
    SQLModel.metadata.create_all(engine, tables=[OBJECTS, RECORDS, COUNTERS])
