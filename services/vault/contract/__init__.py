"""The only door to the vault for others: messages, client, channel and the stand-alone verifier."""
