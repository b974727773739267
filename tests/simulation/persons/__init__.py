"""A simulated world with personal data: `hostel` is its domain, `world` has its lives."""
