"""Several processes on one log: one owns it, the others send it their commands and stand by."""
