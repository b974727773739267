"""What tests of the engine and of its users' stores are built with."""
