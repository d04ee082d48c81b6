"""The vault's database from the bucket alone: `python -m services.vault rebuild`.

For a database that is lost, or that came back from an old dump (the vault refuses to run on it: it would fork the
log). It needs the bucket, the key files and the owner's role, and nothing else; the vault must not be running. What
the bucket tells replaces what the rows say; what rows say beyond it stays. Killed anywhere it is simply run again:
the head of the log, without which no vault starts, is moved last.

1. The log: the sealed statements in their order, up to the last one that is sealed without a gap (`ledger.py`).
2. The published tree: its root is that of the same number of these statements, or nothing goes on.
3. What each statement tells, with what it carries (`acts.py`): keys, enrolments, segments with their receipts,
   holds, custodians, orders, terms, disposals.
4. The bucket, object by object (`objects.py`): each sealed object's version, size, checksum, lock and flag are
   compared; manifests and tombstones are read (`manifests.py`); what no statement tells of is asked for anew by the
   intent that it carries, and sealed by the ordinary steps.
5. Stamped checkpoints and the log's own files (`files.py`).
6. In one transaction: the head, signed; the statement that there was a rebuild; what was pending and is told by now
   is dropped. Whatever was signed beyond the head is lost, and who holds it (the api) is told from where on.
"""

from services.vault.rebuild.command import run

__all__ = ["run"]
