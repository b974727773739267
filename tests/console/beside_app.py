"""The application of notes, as `foldline console --app` imports it; its engine is never started."""

from tests.console.consoling import make_engine

engine = make_engine("memory:")
