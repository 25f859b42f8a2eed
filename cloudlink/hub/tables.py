"""The hub's tables as they are today. Only the store's database room may import this; everybody else sees Kubernetes
objects. How a database gets here from every earlier shape is in `migrations`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary
from sqlmodel import Field, SQLModel

SCHEMA_VERSION = 2


class ObjectRow(SQLModel, table=True):
    """One API object, whole, as the JSON that clients get.

    :ivar kind: what it is filed under (Resource.key): the kind, for those built in.
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
    """`revision`, the newest resourceVersion ever given out; `position`, the number of commits, which is what two hubs
    race for; `schema`, the shape of these tables."""

    __tablename__ = "counters"

    name: str = Field(primary_key=True)
    value: int = Field(sa_column=Column(BigInteger, nullable=False))


class ChangeRow(SQLModel, table=True):
    """One commit, for the other hubs that have this database in memory. Bounded; empty where there can be only one hub.

    :ivar data: msgpack of an Entry (cloudlink.hub.entries); Secrets in it are sealed as they are in `objects`.
    :ivar size: of `data`, so that trimming needn't read it.
    """

    __tablename__ = "changes"

    position: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    size: int = Field(sa_column=Column(BigInteger, nullable=False))
    data: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


OBJECTS = SQLModel.metadata.tables["objects"]
RECORDS = SQLModel.metadata.tables["records"]
COUNTERS = SQLModel.metadata.tables["counters"]
CHANGES = SQLModel.metadata.tables["changes"]
