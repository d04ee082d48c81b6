"""An export: one tar that becomes a BagIt 1.0 bag, checked with stock tools or with the verifier inside it.

1. *Ask.* The export's own act stands in the log already (the api appended it); no log, no export. What is asked for
   is stored with a job (`desk.py`).
2. *Decide.* The job writes down what the export consists of: manifests, what no manifest holds yet, series, and what
   was disposed of. From then on nothing that is sealed or closed changes it (`contents.py`).
3. *Checkpoint.* One is taken, cosigned by as many witnesses as the policy needs if they answer within a bounded time,
   and every proof in the bag is made for it.
4. *Prepare.* Item by item every sealed segment is read and hashed; one that is not what its receipt says fails the
   export and sounds an alarm. Each finished item is laid out: a row for each of its files with its place in the tar,
   its digest, and where its bytes come from. Killed anywhere, the next worker goes on with the first unfinished item
   (`preparing.py`, `laying.py`).
5. *List.* Keys, the verifier, a README and the bag's lists come last, and the vault signs them: the export is ready.
6. *Serve.* The tar is never written: any range of it is made from the rows, by any process, alike each time; each
   segment that is read whole is checked again (`serving.py`).
7. *Lapse.* After seven days at most the rows and the copies are removed.

Memory is one chunk of media and one recording's lists, however large the export is. The media lie in the store alone;
what is kept here of an export is about a kilobyte for each of its segments.
"""
