"""The api knows people and the law; it holds neither signing keys of the vault nor store credentials."""
