"""The documents, and in `generate` what the site is made of besides them."""
