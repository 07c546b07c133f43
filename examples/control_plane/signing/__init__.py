"""Everything that is signed here: grants, revocations, bulletins, TLS and SSH certificates."""
