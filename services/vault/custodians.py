"""Custodians 保管人: whose two signatures release a hold or dispose of a recording, verified by the vault itself.

The first two are enrolled on the word of whoever runs the vault's command; from then on every change needs an
order that two of them signed. Each change is a statement in the log, by key and without a name.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col
from uuid_utils.compat import uuid7

from services.vault import errors
from services.vault.contract import custody, wire
from services.vault.contract.verify import VerificationError, check_signature, key_id, pae
from services.vault.log import statement
from services.vault.log.sequencer import enter
from services.vault.models import Custodian, Order

NEEDED = 2
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Authorized:
    """An order that two custodians signed. `custodians` are their key ids."""

    order: custody.AnyOrder
    envelope: wire.Envelope
    custodians: list[str]

    def told(self) -> dict[str, Any]:
        """As a statement names it, so that the log commits to what was signed."""
        return {"order": str(self.order.id), "order_sha256": custody.order_sha256(self.envelope)}


class Custodians:
    """`origin` is that of the vault's log: an order names the vault that it is for."""

    def __init__(self, engine: AsyncEngine, origin: str):
        self._engine, self._origin = engine, origin

    async def authorize(self, envelope: wire.Envelope) -> Authorized:
        """Raises OrderUnfit, OrderNotAuthorized, OrderDiffers; nothing has been changed then. An order that was
        carried out before is authorized again, whatever its age and whoever is a custodian now: for what it began.
        What is new about it `remember` looks at."""
        order = _read(envelope)
        if order.vault != self._origin:
            raise errors.OrderUnfit("it is for another vault")
        async with self._engine.connect() as db:
            known = (await db.execute(select(Order).where(col(Order.id) == order.id))).one_or_none()
            if known is not None:
                if wire.Envelope.model_validate(known.envelope).payload != envelope.payload:
                    raise errors.OrderDiffers
                return Authorized(order, envelope, list(known.custodians))
            rows = (await db.execute(select(Custodian).where(col(Custodian.removed_at).is_(None)))).all()
        now = datetime.now(UTC)
        if not order.issued_at - _SKEW <= now < order.expires_at:
            raise errors.OrderUnfit("outside its time")
        signed = _signed_by(envelope, {row.key_id: row.public_key for row in rows})
        # One person with two keys is one person.
        if len({row.name for row in rows if row.key_id in signed}) < NEEDED:
            raise errors.OrderNotAuthorized
        return Authorized(order, envelope, sorted(signed))

    async def enrol(self, name: str, public_key: bytes, envelope: wire.Envelope | None) -> UUID:
        """The act. Raises OrderNotAuthorized where there are two already and no order of theirs names this key."""
        identity, now = key_id(public_key), datetime.now(UTC)
        authorized = await self.authorize(envelope) if envelope else None
        if authorized and not _names(authorized.order, name, public_key):
            raise errors.OrderUnfit("it names another custodian")
        async with self._engine.begin() as db:
            # Two first enrolments at once must not become three.
            await db.execute(text("SELECT pg_advisory_xact_lock(hashtext('quancheng-custodians'))"))
            known = (await db.execute(select(Custodian).where(col(Custodian.key_id) == identity))).one_or_none()
            if known is not None and known.name == name and known.removed_at is None:
                return UUID(str(known.act))
            here = col(Custodian.removed_at).is_(None)
            if known is not None or await db.scalar(
                select(col(Custodian.key_id)).where(here, col(Custodian.name) == name)
            ):
                raise errors.CustodianDiffers
            ever = await db.scalar(select(func.count()).select_from(Custodian)) or 0
            if ever >= NEEDED and authorized is None:
                raise errors.OrderNotAuthorized
            act = uuid7()
            if authorized:
                await remember(db, authorized, now)
            row = {"key_id": identity, "name": name, "public_key": public_key, "act": act, "enrolled_at": now}
            await db.execute(insert(Custodian).values(row))
            await enter(db, act, statement.build("custodian", act, now, _fields(identity, public_key, authorized)))
        return act

    async def remove(self, envelope: wire.Envelope) -> UUID:
        """The act. As many as release and disposal need must stay."""
        authorized = await self.authorize(envelope)
        if not isinstance(authorized.order, custody.RemoveCustodian):
            raise errors.OrderUnfit("another act")
        async with self._engine.begin() as db:
            await db.execute(text("SELECT pg_advisory_xact_lock(hashtext('quancheng-custodians'))"))
            this = col(Custodian.key_id) == authorized.order.key_id
            row = (await db.execute(select(Custodian).where(this))).one_or_none()
            if row is None:
                raise errors.OrderUnfit("no such custodian")
            if row.removed_act is not None:
                return UUID(str(row.removed_act))
            here = select(func.count()).select_from(Custodian).where(col(Custodian.removed_at).is_(None))
            if (await db.scalar(here) or 0) <= NEEDED:
                raise errors.OrderUnfit("enrol a successor first")
            act, now = uuid7(), datetime.now(UTC)
            await remember(db, authorized, now)
            await db.execute(update(Custodian).where(this).values(removed_at=now, removed_act=act))
            fields = _fields(row.key_id, row.public_key, authorized) | {"enrolled": False}
            await enter(db, act, statement.build("custodian", act, now, fields))
        return act

    async def listed(self) -> Sequence[Any]:
        async with self._engine.connect() as db:
            return (await db.execute(select(Custodian).order_by(col(Custodian.enrolled_at)))).all()


async def remember(db: AsyncConnection, authorized: Authorized, now: datetime) -> None:
    """In the transaction that carries the order out, or one more item of it. Raises OrderDiffers where its number
    meant something else, OrderUnfit where its time is over by now, and OrderNotAuthorized where who signed it is no
    longer a custodian: a removal holds from the moment it is committed."""
    await db.execute(text("SELECT pg_advisory_xact_lock_shared(hashtext('quancheng-custodians'))"))
    names = select(func.count(col(Custodian.name).distinct())).where(col(Custodian.removed_at).is_(None))
    if (await db.scalar(names.where(col(Custodian.key_id).in_(authorized.custodians))) or 0) < NEEDED:
        raise errors.OrderNotAuthorized("signed by who is no longer a custodian")
    if authorized.order.expires_at <= datetime.now(UTC):
        raise errors.OrderUnfit("outside its time")
    row = {"id": authorized.order.id, "act": authorized.order.act, "envelope": authorized.envelope.model_dump()}
    made = insert(Order).values(row | {"custodians": authorized.custodians, "at": now}).on_conflict_do_nothing()
    if (await db.execute(made.returning(col(Order.id)))).one_or_none() is None:
        known = await db.scalar(select(col(Order.envelope)).where(col(Order.id) == authorized.order.id))
        if known is None or known["payload"] != authorized.envelope.payload:
            raise errors.OrderDiffers


def _read(envelope: wire.Envelope) -> custody.AnyOrder:
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
        order = custody.ORDERS.validate_json(payload)
    except (ValueError, ValidationError) as error:
        raise errors.OrderUnfit from error
    if envelope.payloadType != custody.ORDER_TYPE or custody.order_bytes(order) != payload:
        raise errors.OrderUnfit("not the one way to write it")
    return order


def _signed_by(envelope: wire.Envelope, keys: dict[str, bytes]) -> set[str]:
    """The custodians among `keys` whose signature holds. One that does not hold spoils the order."""
    message = pae(envelope.payloadType, base64.b64decode(envelope.payload))
    found = set()
    for signature in envelope.signatures:
        if signature.keyid not in keys:
            raise errors.OrderNotAuthorized("signed by a key that is not a custodian's")
        key = Ed25519PublicKey.from_public_bytes(keys[signature.keyid])
        try:
            check_signature(key, base64.b64decode(signature.sig, validate=True), message)
        except (VerificationError, ValueError) as error:
            raise errors.OrderNotAuthorized("a signature does not hold") from error
        found.add(signature.keyid)
    return found


def _names(order: custody.AnyOrder, name: str, public_key: bytes) -> bool:
    if not isinstance(order, custody.EnrolCustodian):
        return False
    return order.name == name and base64.b64decode(order.public_key) == public_key


def _fields(identity: str, public_key: bytes, authorized: Authorized | None) -> dict[str, Any]:
    order = authorized.told() if authorized else {"order": None, "order_sha256": None}
    key = base64.b64encode(public_key).decode()
    return {"key_id": identity, "public_key": key, "enrolled": True} | order
