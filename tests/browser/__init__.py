"""Tests in a real browser: Chromium, without a window."""
