"""How an engine tells that it is well."""
