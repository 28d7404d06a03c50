"""The services' schemas: databases and accounts, the native sync, and the proof that a schema is current."""
