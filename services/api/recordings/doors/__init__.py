"""The doors that lead in; all end in the vault's sealing cycle."""
