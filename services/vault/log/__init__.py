"""The transparency log in C2SP formats.

Pure: `tree` (Merkle tree in tiles), `tiles` (paths and bundles), `note` (signed checkpoints) and `statement`
(what a leaf stands for). With the database: `sequencer`, `publish`,
`checkpoints`. With the network: `witnesses`. All of it is checked by `contract.verify`.
"""
