"""Bridges to other libraries, each behind an extra of its name; nothing in the engine needs one."""
