"""How the schema of the ledger came to be, revision by revision."""
