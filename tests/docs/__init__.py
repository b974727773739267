"""Tests of the documents, of the style, and of the types that users see."""
