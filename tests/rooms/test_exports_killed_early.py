"""An export whose worker is killed before it has kept its checkpoint, or before it has laid its lists."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tests.flows.evidence import eventually
from tests.flows.scenes import locked, waiting_for_a_lock
from tests.rooms.exported import Made, asked, fetched, ready, recorded, unpacked, verified
from tests.rooms.sealed import Room
from tests.rooms.test_exports_killed import idle, room, worker

__all__ = ["idle", "room"]


@dataclass
class Begun:
    """An export of one recording, seen from the rows."""

    room: Room
    act: UUID
    made: Made

    def sql(self, query: str) -> str:
        return self.room.system.stack.postgres.run_sql(query).strip()

    def is_so(self, what: str) -> bool:
        return self.sql(f"SELECT {what} FROM vault.exports WHERE act = '{self.act}'") == "t"

    def laid(self) -> str:
        laid = "string_agg(ordinal || path || start || sha256, ' ' ORDER BY ordinal)"
        return self.sql(f"SELECT {laid} FROM vault.export_files WHERE act = '{self.act}'")

    async def assert_gone_on_with(self, folder: Path) -> None:
        before = self.laid()
        # The dead one's lease is over.
        self.sql("UPDATE vault.pgqueuer SET heartbeat = now() - interval '1 hour' WHERE status = 'picked'")
        with worker(self.room.system):
            await ready(self.room.client, self.act)
        assert self.laid().startswith(before)
        assert self.sql(f"SELECT count(*) FROM vault.export_items WHERE act = '{self.act}'") == "1"
        bag = unpacked((await fetched(self.room.client, self.act)).content, folder, self.act)
        told = await verified(self.room.client, bag)
        assert [*told.recordings, *told.open] == [str(self.made.id)]
        assert told.size == 9


async def test_killed_before_it_has_kept_its_checkpoint_it_takes_one_again(room: Room, tmp_path: Path) -> None:
    """Step 3, of a recording that is open: what step 2 tells of it has no index until then."""
    system, made = room.system, await recorded(room.client, [b"init", b"media"], close=False)
    request = await asked(room.client, [made.id])
    begun = Begun(room, request.act, made)
    with ExitStack() as held:
        with locked(system, "SELECT 1 FROM vault.log_head FOR UPDATE"):
            await room.client.begin_export(request)
            dying = held.enter_context(worker(system))
            eventually(lambda: begun.is_so("state = 'preparing'"), "it is decided", 60)
            held.enter_context(locked(system, f"SELECT 1 FROM vault.exports WHERE act = '{begun.act}' FOR UPDATE"))
            assert begun.sql("SELECT count(*) > 0 FROM vault.log_pending") == "t"
        eventually(lambda: waiting_for_a_lock(system, "UPDATE%tree_size%"), "it has its checkpoint", 60)
        dying.kill()
        dying.wait()
    assert begun.is_so("state = 'preparing' AND tree_size IS NULL")
    await begun.assert_gone_on_with(tmp_path)


async def test_killed_before_it_has_laid_its_lists_it_lays_them_once(room: Room, tmp_path: Path) -> None:
    """Step 5."""
    system, made = room.system, await recorded(room.client, [b"init", b"media"])
    request = await asked(room.client, [made.id])
    begun = Begun(room, request.act, made)
    public = "SELECT size = published_size FROM vault.log_head"
    eventually(lambda: begun.sql(public) == "t", "all is public")
    await room.client.begin_export(request)
    with ExitStack() as held:
        held.enter_context(locked(system, "SELECT pg_advisory_lock(hashtext('quancheng-vault-signing'))"))
        dying = held.enter_context(worker(system))
        items = f"SELECT bool_and(done) FROM vault.export_items WHERE act = '{begun.act}'"
        eventually(lambda: begun.sql(items) == "t", "every item is done", 60)
        eventually(
            lambda: waiting_for_a_lock(system, "SELECT pg_advisory_xact_lock_shared%"), "it lays its lists", 60
        )
        dying.kill()
        dying.wait()
    assert begun.is_so("state = 'preparing' AND etag IS NULL")
    assert "README.md" not in begun.laid()
    await begun.assert_gone_on_with(tmp_path)
