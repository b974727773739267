"""Foldline: an asyncio engine for CQRS and event sourcing, embedded in your own process."""
